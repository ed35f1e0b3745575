"""Which route a path takes: priority, what a search costs, and every answer against a slow matcher."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.transcode import router as router_module
from mesh.transcode.router import (
    DuplicateRoute,
    InvalidRoute,
    MalformedPath,
    Match,
    NoSuchPath,
    Route,
    Router,
    WrongMethod,
)
from mesh.transcode.template import parse_template
from tests.unit.transcode.slow_matcher import SlowRoute, slow_match

Answer = Match[str] | NoSuchPath | WrongMethod | MalformedPath


def routes(texts: Iterable[str]) -> list[Route[str]]:
    """Routes from texts such as "GET /v1/{id}"; each leads to its own text."""
    return [Route(method, parse_template(template), text) for text in texts for method, template in [text.split(" ")]]


def match(texts: Iterable[str], request: str) -> Answer:
    method, path = request.split(" ")
    return Router(routes(texts)).match(method, path.encode("latin-1"))


# Routes as such.


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("GET /v1/{a}", "GET /v1/{b}"),
        ("GET /v1/{a}", "GET /v1/*"),
        ("GET /v1/{a=**}", "GET /v1/**"),
        ("GET /{a=v1/*}", "GET /v1/{b=*}"),
        ("GET /{a=v1}", "GET /v1"),
        ("GET /%761", "GET /v1"),
        ("GET /caf%c3%a9", "GET /caf%C3%A9"),
        ("GET /v1:go", "GET /v1:%67o"),
        ("* /v1", "* /v1"),
        ("HEAD /v1", "HEAD /v1"),
    ],
)
def test_duplicates_are_refused_and_both_named(first: str, second: str) -> None:
    with pytest.raises(DuplicateRoute) as caught:
        Router(routes([first, "GET /other", second]))
    assert (caught.value.first.value, caught.value.second.value) == (first, second)
    assert first in caught.value.message and second in caught.value.message


def test_a_route_given_twice_is_a_duplicate() -> None:
    (route,) = routes(["GET /v1"])
    with pytest.raises(DuplicateRoute):
        Router([route, route])


def test_what_is_no_duplicate() -> None:
    Router(routes(["GET /a", "POST /a", "HEAD /a", "* /a", "GET /a:x", "GET /a%3Ax", "GET /A", "GET /*", "GET /**"]))


@pytest.mark.parametrize("method", ["", "GET ", "G\r\nX: y", "GÉT", "a/b"])
def test_a_method_is_a_token(method: str) -> None:
    with pytest.raises(InvalidRoute):
        Route(method, parse_template("/a"), "")


def test_a_router_without_routes_knows_no_path() -> None:
    empty = Router[str]([])
    assert empty.match("GET", b"/") == NoSuchPath() and empty.allowed(b"/") == ()
    assert isinstance(empty.match("GET", b"/%"), MalformedPath)


def test_the_methods_of_a_path() -> None:
    router = Router(routes(["GET /v1/{a}", "POST /v1/x", "DELETE /v1/**", "* /v1/y", "PUT /v1/{a}:go"]))
    assert router.allowed(b"/v1/x") == ("DELETE", "GET", "HEAD", "POST")
    assert router.allowed(b"/v1/y") == ("*", "DELETE", "GET", "HEAD")
    assert router.allowed(b"/v1/z:go") == ("DELETE", "GET", "HEAD", "PUT")
    assert router.allowed(b"/v1/a/b") == router.allowed(b"/v1") == ("DELETE",)
    assert [router.allowed(path) for path in (b"/v2", b"/v1/", b"v1/x", b"/v1/%", b"*", b"")] == [()] * 6


@pytest.mark.parametrize(
    "path", [b"", b"v1", b"*", b"%2Fv1", b"http://h/v1", b"/v1 ", b"/v1\x00", b"/v1\r\n", b"/v1?a"]
)
def test_what_is_no_path_reaches_no_route(path: bytes) -> None:
    assert isinstance(Router(routes(["* /**"])).match("GET", path), MalformedPath)


def test_the_reason_of_a_malformed_path_is_plain_text() -> None:
    reasons = {Router(routes([])).match("GET", bytes([*b"/", byte, *b"%"])) for byte in range(256)}
    assert all(isinstance(it, MalformedPath) and it.reason.isascii() and it.reason.isprintable() for it in reasons)


# Priority does not depend on the order of the routes.

OVERLAPPING = ["GET /a/b", "GET /a/{x}", "GET /{x}/b", "GET /a/{x=**}", "GET /{x=**}"]


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("/a/b", "GET /a/b"),
        ("/a/c", "GET /a/{x}"),
        ("/c/b", "GET /{x}/b"),
        ("/a/b/c", "GET /a/{x=**}"),
        ("/a", "GET /a/{x=**}"),
        ("/c", "GET /{x=**}"),
        ("/c/b/c", "GET /{x=**}"),
        ("/", "GET /{x=**}"),
    ],
)
def test_priority_whatever_the_order(path: str, taken: str) -> None:
    for order in itertools.permutations(OVERLAPPING):
        answer = match(order, f"GET {path}")
        assert isinstance(answer, Match) and answer.value == taken


# What a search costs: lines of Python run, which no other load on the machine changes.


def lines_run(action: Callable[[], object]) -> int:
    """Count the lines of this package that an action runs."""
    count = 0
    package = router_module.__file__.rsplit("/", 1)[0]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(package):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "texts",
    [
        ["GET /v1/{x=**}"],
        ["GET /**", "GET /*/**", "GET /*/*/**", "GET /v1/{x=**}", "GET /v1/*/{x=**}"],
        ["GET /v1/**:go", "POST /v1/**", "GET /v1/*:go", "GET /*/*/*"],
        ["GET /v1/x", "GET /v1/{x}"],
    ],
)
@pytest.mark.parametrize("segment", [b"/a", b"/", b"/a:go", b":", b"/%41", b"/%2F", b"/%zz", b"/\xc3\xa9", b"/%C3%A9"])
def test_steps_grow_with_the_path_and_no_faster(texts: list[str], segment: bytes) -> None:
    router = Router(routes(texts))
    short, long = (b"/v1" + segment * count for count in (8_000, 64_000))
    few, many = (lines_run(partial(router.match, "GET", path)) for path in (short, long))
    assert many <= 8 * few + 200
    if b"%" not in segment and segment.isascii():
        assert many == few, "splitting apart, the search depends on the templates alone"


def test_64_000_segments_in_few_steps() -> None:
    router = Router(routes(["GET /**", "GET /*/**", "GET /v1/{x=**}", "GET /v1/*/{x=**}", "POST /v1/*/*/**"]))
    short, long = b"/v1" + b"/a" * 4, b"/v1" + b"/a" * 64_000
    for method in ("GET", "DELETE"):
        few, many = (lines_run(partial(router.match, method, path)) for path in (short, long))
        assert few == many < 250
    answer = router.match("GET", long)
    assert isinstance(answer, Match) and answer.value == "GET /v1/*/{x=**}" and len(answer.captures[0][1]) == 127_997


@pytest.mark.parametrize("depth", [4, 8, 10])
def test_a_tree_made_for_backtracking_costs_its_own_size_at_most(depth: int) -> None:
    # Every mixture of "a" and "*", each ending where the path does not: a matcher that only steps back tries them all.
    mixtures = ["/".join(mixture) for mixture in itertools.product("a*", repeat=depth)]
    router = Router(routes([*(f"GET /{mixture}/end" for mixture in mixtures), "GET /**:go"]))
    nodes = 2 ** (depth + 2)
    for tail in (b"/other", b"/other:go", b"", b"/a" * 60_000, b"/end/end"):
        cost = lines_run(partial(router.match, "GET", b"/a" * depth + tail))
        assert cost <= 40 * nodes, "each node is met at most twice: once to match, once for Allow"


def test_one_literal_chain_with_stars_at_each_level_steps_back_once_per_level() -> None:
    depth = 200
    texts = [f"GET /{'a/' * level}*/{'x/' * (depth - level)}end" for level in range(depth)]
    router = Router(routes(texts))
    cost = [lines_run(partial(router.match, "GET", b"/a" * n)) for n in (depth, 50 * depth)]
    assert max(cost) <= 60 * depth


# Every answer against a slow matcher.

SEGMENTS = st.sampled_from(["a", "a", "%61", "b", "*", "c:d", "%2F", "%C3%A9"])
METHODS = st.sampled_from(["GET", "POST", "HEAD", "*"])


@st.composite
def templates(draw: st.DrawFn, base: list[str]) -> str:
    """A template that matches the base, or nearly: wildcards in place of some segments, or of all from one on."""
    segments = [draw(st.sampled_from([it, it, "*", "*", draw(SEGMENTS)])) for it in base]
    segments[-1] = segments[-1].replace(":", "")
    if draw(st.integers(0, 2)) == 0:
        segments[draw(st.integers(0, len(segments) - 1)) :] = ["**"]
    elif draw(st.integers(0, 3)) == 0:
        segments.append("**")
    pieces: list[str] = []
    while segments:
        size = draw(st.integers(0, len(segments)))
        if size:
            pattern = "/".join(segments[:size])
            pieces.append(f"{{f{len(pieces)}={pattern}}}")
        else:
            pieces.append(segments[0])
        del segments[: size or 1]
    return "/" + "/".join(pieces) + draw(st.sampled_from(["", "", "", ":x", ":%61", ":d"]))


PIECES = ["a", "b", "c:d", "%61", "%62", "%2F", "%2f", "~", "%7e", "%C3%A9", "\xc3\xa9", "*", "%2A", "%252F", ":", "x"]
ODD = ["", "", ":x", ":a", ":%61", "%3Ax", ":d", ":", "%3a:x", "/", "//", "%", "%f", "%FF", "%00", "?", "\x7f", "|"]


@st.composite
def paths(draw: st.DrawFn) -> bytes:
    segments = draw(st.lists(st.sampled_from(PIECES), max_size=5))
    path = "/" + "/".join(segments) + draw(st.sampled_from(ODD))
    return path.encode("latin-1")


def unlike(texts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The routes without those that repeat another."""
    kept = {(method, parse_template(template).shape): template for method, template in texts}
    return [(method, template) for (method, _), template in kept.items()]


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[tuple[str, str]], list[bytes]]:
    """Routes that overlap, each template with several methods, and paths of which many are made from a template."""
    base = draw(st.lists(SEGMENTS.filter(lambda it: it != "*"), min_size=1, max_size=4))
    own = draw(st.lists(templates(base), min_size=1, max_size=6))
    texts = unlike([(method, it) for it in own for method in draw(st.sets(METHODS, min_size=1, max_size=2))])
    found = draw(st.lists(paths(), max_size=3))
    for template in draw(st.lists(st.sampled_from([*own, "/" + "/".join([*base[:-1], "a"])]), min_size=1, max_size=4)):
        shape = parse_template(template)
        segments = []
        for segment in shape.segments:
            if segment == "**":
                segments += draw(st.lists(st.sampled_from(PIECES), max_size=3))
            else:
                segments.append(draw(st.sampled_from(PIECES)) if segment == "*" else segment)
        path = (
            "/" + "/".join(segments) + (f":{shape.verb}" if shape.verb else "") + draw(st.sampled_from(["", "", ":x"]))
        )
        found.append(path.encode("latin-1"))
    return texts, found


@settings(derandomize=True, max_examples=400, deadline=None)
@given(tables(), st.sampled_from(["GET", "HEAD", "POST", "PUT"]))
@example(([("GET", "/{f0=**}:x"), ("GET", "/{f0=**}")], [b"/:x", b"/", b"/a/:x", b"/a:x", b"/:", b"/:x:x"]), "GET")
def test_every_answer_is_that_of_the_slow_matcher(
    table: tuple[list[tuple[str, str]], list[bytes]], method: str
) -> None:
    texts, requests = table
    router = Router([Route(m, parse_template(t), f"{m} {t}") for m, t in texts])
    slow = [SlowRoute(m, t) for m, t in texts]
    for path in requests:
        answer = router.match(method, path)
        match answer:
            case Match(value, captures):
                seen: object = (200, value, captures)
            case WrongMethod(allow):
                seen = (405, allow)
                assert router.allowed(path) == allow
            case NoSuchPath():
                seen = (404,)
            case MalformedPath():
                seen = (400,)
        assert seen == slow_match(slow, method, path), path


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=30), st.text(max_size=5))
def test_no_bytes_and_no_method_break_it(tail: bytes, method: str) -> None:
    router = Router(routes(["GET /{a}/{b=**}", "GET /{a}:x", "* /**:y"]))
    for path in (tail, b"/" + tail):
        answer = router.match(method, path)
        assert isinstance(answer, (Match, NoSuchPath, WrongMethod, MalformedPath))
        router.allowed(path)
