"""The longest prefix that matches whole segments serves a path."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.gateway import routes
from mesh.gateway.routes import RouteTable, normalised

TABLE = RouteTable({"/": "root", "/a": "a", "/a/b": "ab", "/a/b/c/d": "abcd", "/ü": "u", "/sp ace": "space"})


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        (b"/", "root"),
        (b"", "root"),
        (b"*", "root"),
        (b"/x", "root"),
        (b"/a", "a"),
        (b"/a/", "a"),
        (b"/ab", "root"),
        (b"/a/b", "ab"),
        (b"/a/bc", "a"),
        (b"/a/b/c", "ab"),
        (b"/a/b/c/d", "abcd"),
        (b"/a/b/c/d/e/f/g", "abcd"),
        (b"/a/b/c/x/e", "ab"),
        (b"//a", "root"),
        (b"/%61", "a"),
        (b"/a/%62", "ab"),
        (b"/a%2fb", "root"),
        (b"/a%2Fb/b", "root"),
        (b"/%61%2f", "root"),
        (b"/%C3%BC/x", "u"),
        ("/ü".encode(), "u"),
        ("/ü/%20".encode(), "u"),
        (b"/sp%20ace", "space"),
        (b"/%ff%fe", "root"),
        (b"/%zz", "root"),
        (b"/\xff%41", "root"),
        (b"/%61/" + b"%41" * 1000, "a"),
        (b"/" + b"%61" * 1000, "root"),
        (b"/%61" + b"/%62" * 1000, "ab"),
    ],
)
def test_the_longest_prefix_of_whole_segments_wins(path: bytes, entry: str) -> None:
    assert TABLE.match(path) == entry


def test_without_a_root_route_the_rest_has_no_route() -> None:
    table = RouteTable({"/a/b": 1})
    assert [table.match(path) for path in (b"/", b"/a", b"/a/b", b"/x/a/b")] == [None, None, 1, None]
    assert RouteTable[int]({}).match(b"/anything") is None


def test_a_table_knows_its_entries() -> None:
    assert len(TABLE) == 6 and "abcd" in TABLE.entries()


def test_segments_are_decoded_once() -> None:
    assert normalised(b"/%2561") == "/%61"
    assert normalised(b"/a%2Fb/%20") == "/a%2Fb/ "


def test_only_what_a_prefix_can_cover_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a long path costs milliseconds in the gateway, and a client chooses how many."""
    read: list[int] = []

    def spied(raw_path: bytes) -> str:
        read.append(len(raw_path))
        return normalised(raw_path)

    monkeypatch.setattr(routes, "normalised", spied)
    assert TABLE.match(b"/a" + b"/%62" * 20_000) == "ab"
    assert TABLE.match(b"/a/" + b"%62" * 20_000) == "a"
    assert RouteTable({"/": "root"}).match(b"/%41" * 20_000) == "root"
    assert sum(read) < 100


segments = st.text(st.characters(codec="ascii", exclude_characters="/%", min_codepoint=33), min_size=1, max_size=2)
paths = st.lists(segments, max_size=5).map(lambda parts: "/" + "/".join(parts))


@given(st.sets(paths, max_size=8), paths)
def test_it_agrees_with_trying_every_prefix(prefixes: set[str], path: str) -> None:
    def covers(prefix: str) -> bool:
        return prefix == "/" or path == prefix or path.startswith(prefix + "/")

    best = max((prefix for prefix in prefixes if covers(prefix)), key=len, default=None)
    table = RouteTable({prefix: prefix for prefix in prefixes})
    assert table.match(path.encode()) == best
    encoded = "".join(each if each == "/" else f"%{ord(each):02x}" for each in path)
    assert table.match(encoded.encode()) == best
