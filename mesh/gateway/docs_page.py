"""The page at `/-/docs`: one file of mesh's own that reads `/-/openapi.json`, with the headers that bind its browser.

Owns the file and its content security policy. The page loads nothing but the document, from its own origin, runs no
script but its own, and goes into no frame. Called by the gateway, once.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

_FILE = "docs_page.html"
_INLINE = re.compile(rb"<(style|script)>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DocsPage:
    """The page as it is answered, status 200, to GET and HEAD."""

    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case. Without content-length."""


def load() -> DocsPage:
    """Read the page from the package."""
    body = resources.files("mesh.gateway").joinpath(_FILE).read_bytes()
    headers = (
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", _policy(body)),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-cache"),
    )
    return DocsPage(body, headers)


def _policy(body: bytes) -> bytes:
    """Return a policy that allows the style and the script in `body` by their hashes, and calls to the own origin."""
    sources: dict[bytes, list[bytes]] = {b"style": [], b"script": []}
    for kind, text in _INLINE.findall(body):
        sources[kind].append(b"'sha256-%b'" % base64.b64encode(hashlib.sha256(text).digest()))
    return b"; ".join(
        (
            b"default-src 'none'",
            b"script-src %b" % b" ".join(sources[b"script"]),
            b"style-src %b" % b" ".join(sources[b"style"]),
            b"connect-src 'self'",
            b"base-uri 'none'",
            b"form-action 'none'",
            b"frame-ancestors 'none'",
        )
    )
