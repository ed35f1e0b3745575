from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from benchmarks.http_messages import AnswerReader, NotHttpError, request

WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 11\r\n\r\n" + b'{"ok":true}'
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
EVENTS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\n" + b"12;x=y\r\ndata: 2\n\ndata: 3\n\n\r\n" + b"0\r\n\r\n"
)


@pytest.mark.parametrize(
    ("answer", "status", "body_bytes", "events"),
    [(WHOLE, 200, 11, 0), (EMPTY, 204, 0, 0), (EVENTS, 200, 27, 3)],
    ids=["whole", "empty", "chunked"],
)
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
def test_an_answer_is_read_however_it_is_cut(
    answer: bytes, status: int, body_bytes: int, events: int, piece: int
) -> None:
    reader = AnswerReader()
    for _ in range(3):
        pieces = [answer[at : at + piece] for at in range(0, len(answer), piece)]
        assert [reader.feed(each) for each in pieces] == [False] * (len(pieces) - 1) + [True]
        assert (reader.status, reader.body_bytes, reader.events) == (status, body_bytes, events)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        WHOLE + b"x",
        EVENTS + b"x",
        EVENTS.replace(b"9\r\n", b"?\r\n"),
        b"x" * 100_000,
    ],
    ids=["other", "without end", "after a whole one", "after a chunked one", "chunk size", "endless head"],
)
def test_what_is_no_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(NotHttpError):
        AnswerReader().feed(answer)


def test_a_request_has_host_path_query_and_body() -> None:
    assert request(urlsplit("http://127.0.0.1:80/a?b=c"), "GET").split(b"\r\n")[:2] == [
        b"GET /a?b=c HTTP/1.1",
        b"Host: 127.0.0.1:80",
    ]
    head, _, body = request(urlsplit("http://h:1"), "POST", b"{}").partition(b"\r\n\r\n")
    assert head.startswith(b"POST / HTTP/1.1\r\n")
    assert b"\r\nContent-Length: 2" in head
    assert body == b"{}"
