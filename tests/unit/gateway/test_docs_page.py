from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from mesh.gateway import docs_page

PAGE = docs_page.load()
TEXT = PAGE.body.decode()
HEADERS = dict(PAGE.headers)


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def elements() -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(TEXT)
    return parser.seen


def test_the_page_is_small_and_loads_nothing_from_elsewhere() -> None:
    assert len(PAGE.body) < 25_000
    assert not re.search(r"https?://|//[a-z]|@import|url\(|srcset|integrity", TEXT)
    assert {attributes["href"] for _, attributes in elements() if "href" in attributes} == {
        "#operations",
        "openapi.json",
    }
    assert not any("src" in attributes for _, attributes in elements())


def test_the_policy_allows_the_page_and_nothing_else() -> None:
    policy = HEADERS[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for kind in ("script", "style"):
        (body,) = re.findall(rf"<{kind}>(.*?)</{kind}>", TEXT, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "frame-ancestors 'none'" in policy and "connect-src 'self'" in policy
    assert HEADERS[b"x-content-type-options"] == b"nosniff"


def test_nothing_in_the_page_needs_more_than_the_policy() -> None:
    for tag, attributes in elements():
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|\.style\b", TEXT)


def test_the_page_is_usable_without_a_pointer_or_sight() -> None:
    found = elements()
    assert ("html", {"lang": "en"}) in found
    labels = {attributes.get("for") for tag, attributes in found if tag == "label"}
    assert {attributes["id"] for tag, attributes in found if tag in ("input", "select", "textarea")} <= labels
    assert [tag for tag, _ in found if tag in ("main", "header", "h1", "title", "noscript")]
    assert 'role="status"' in TEXT and ":focus-visible" in TEXT and "prefers-color-scheme: dark" in TEXT
