"""Framing of streams."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.transcode.refusals import RequestRefused
from mesh.transcode.streams import LineSplitter, StreamFormat, stream_format

ITEMS = [b'{"a":1}', b"{}", b'"x"']


def written(form: StreamFormat, items: list[bytes]) -> bytes:
    parts = [form.item(item, first=index == 0) for index, item in enumerate(items)]
    return b"".join([*parts, form.end(first=not items)])


def test_lines() -> None:
    assert written(StreamFormat.NDJSON, ITEMS) == b'{"a":1}\n{}\n"x"\n'
    assert written(StreamFormat.NDJSON, []) == b""
    assert StreamFormat.NDJSON.error(b"{}", first=False) == b"{}\n"


def test_events() -> None:
    assert written(StreamFormat.EVENTS, ITEMS) == b'data: {"a":1}\n\ndata: {}\n\ndata: "x"\n\n'
    assert StreamFormat.EVENTS.error(b"{}", first=True) == b"event: error\ndata: {}\n\n"


@pytest.mark.parametrize("count", range(4))
def test_an_array_is_json_however_it_ends(count: int) -> None:
    items = ITEMS[:count]
    assert json.loads(written(StreamFormat.ARRAY, items)) == [json.loads(item) for item in items]
    parts = [StreamFormat.ARRAY.item(item, first=index == 0) for index, item in enumerate(items)]
    failed = b"".join([*parts, StreamFormat.ARRAY.error(b'{"code":5}', first=not items)])
    assert json.loads(failed) == [*map(json.loads, items), {"code": 5}]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", StreamFormat.NDJSON),
        ("*/*", StreamFormat.NDJSON),
        ("text/html", StreamFormat.NDJSON),
        ("text/event-stream", StreamFormat.EVENTS),
        ("Text/Event-Stream; charset=utf-8", StreamFormat.EVENTS),
        ("application/json", StreamFormat.ARRAY),
        ("application/json;q=0.5, text/event-stream", StreamFormat.EVENTS),
        ("application/json;q=0.5, text/event-stream;q=0.4", StreamFormat.ARRAY),
        ("application/json;q=0", StreamFormat.NDJSON),
        ("application/json;q=x", StreamFormat.NDJSON),
        ("application/json;q=nan", StreamFormat.NDJSON),
        ("text/event-stream, application/json", StreamFormat.EVENTS),
        ("application/x-ndjson, application/json;q=0.9", StreamFormat.NDJSON),
        ("," * 1000 + "application/json", StreamFormat.NDJSON),
    ],
)
def test_formats_by_accept(accept: str, form: StreamFormat) -> None:
    assert stream_format(accept) is form


@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(st.lists(st.binary(max_size=6).map(lambda b: b.replace(b"\r", b"x")) | st.just(b"\n") | st.just(b"a\r\nb\n")))
def test_lines_are_the_same_in_whatever_pieces_they_come(chunks: list[bytes]) -> None:
    splitter = LineSplitter(10_000)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.end()
    expected = [line.strip(b" \t\r") for line in b"".join(chunks).split(b"\n")]
    assert lines == [line for line in expected if line]


def test_a_line_may_be_as_long_as_the_bound_and_no_longer() -> None:
    splitter = LineSplitter(4)
    assert splitter.feed(b"abcd\nefgh") == [b"abcd"]
    assert splitter.feed(b"\n") == [b"efgh"]
    for before, last in ((b"", b"abcde\n"), (b"", b"abcde"), (b"ab", b"cde"), (b"", b"a\nbcdef"), (b"\n", b"bcdef\n")):
        splitter = LineSplitter(4)
        assert splitter.feed(before) == []
        with pytest.raises(RequestRefused) as caught:
            splitter.feed(last)
        assert caught.value.status == 413


def test_byte_by_byte_is_linear() -> None:
    splitter = LineSplitter(300_000)
    assert not [line for _ in range(200_000) for line in splitter.feed(b"x")]
    assert splitter.end() == [b"x" * 200_000]
    assert splitter.end() == []
