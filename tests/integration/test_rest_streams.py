"""REST for servicers, streams: answers as lines, events or an array, requests as lines, raw bytes both ways."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.support.data_path import Connection
from tests.support.gateways import WAIT_SECONDS, until
from tests.support.rest import LINES, RestPath, items, rest_path, told

pytestmark = pytest.mark.asyncio(loop_scope="module")
EVENTS, ARRAY = {"accept": "text/event-stream"}, {"accept": "application/json"}
THREE = [{"text": "a"}, {"text": "a", "count": 1}, {"text": "a", "count": 2}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RestPath]:
    async with rest_path(tmp_path_factory.mktemp("rest"), message_bytes_max=1_000_000) as path:
        await path.serve()
        yield path


async def test_lines_are_the_default(rest: RestPath) -> None:
    for accept in ({}, {"accept": "*/*"}, {"accept": "application/x-ndjson"}, {"accept": "text/html,*/*;q=0.5"}):
        answer = await rest.get("/v1/many?id=a&count=3", headers=accept)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert "content-length" not in answer.headers and answer.headers["x-request-id"]
        assert items(answer.content) == THREE


async def test_events(rest: RestPath) -> None:
    answer = await rest.get("/v1/many?id=a&count=2", headers=EVENTS)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text == 'data: {"text":"a"}\n\ndata: {"text":"a","count":1}\n\n'


async def test_an_array(rest: RestPath) -> None:
    answer = await rest.get("/v1/many?id=a&count=3", headers=ARRAY)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == THREE


@pytest.mark.parametrize(("accept", "body"), [({}, ""), (EVENTS, ""), (ARRAY, "[]")])
async def test_a_stream_of_nothing(rest: RestPath, accept: dict[str, str], body: str) -> None:
    answer = await rest.get("/v1/many?count=0", headers=accept)
    assert (answer.status_code, answer.text) == (200, body)


async def test_a_field_of_each_item(rest: RestPath) -> None:
    assert items((await rest.get("/v1/many-words?count=2")).content) == [[], []]


async def test_head_of_a_stream(rest: RestPath) -> None:
    answer = await rest.client.head(rest.url("/v1/many?count=3"))
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/x-ndjson"
    missing = await rest.client.head(rest.url("/v1/many/early"))
    assert (missing.status_code, missing.content) == (404, b"")
    await rest.until_free()


async def test_initial_metadata_of_a_stream(rest: RestPath) -> None:
    assert (await rest.get("/v1/many/initial?count=1")).headers["x-first"] == "yes"


@pytest.mark.parametrize("accept", [{}, EVENTS, ARRAY])
async def test_an_error_before_the_first_item_is_the_answers_status(rest: RestPath, accept: dict[str, str]) -> None:
    told(await rest.get("/v1/many/early", headers=accept), 404, "NOT_FOUND", "there is none")
    told(await rest.get("/v1/many/late?count=0", headers=accept), 409, "ABORTED", "it broke")
    told(await rest.get("/v1/many/raise?count=0", headers=accept), 500, "INTERNAL")
    told(await rest.get("/v1/many?nope=1", headers=accept), 400, "INVALID_ARGUMENT")


async def test_an_error_on_the_way_is_the_last_item(rest: RestPath) -> None:
    answer = await rest.get("/v1/many/late?id=a&count=2")
    first, second, last = items(answer.content)
    assert [first, second] == THREE[:2]
    assert answer.status_code == 200
    assert last["error"] == {
        **{"type": "about:blank", "title": "Conflict", "status": 409, "detail": "it broke", "code": "ABORTED"},
        **{"reason": "METHOD_STATUS", "request_id": answer.headers["x-request-id"]},
    }
    events = (await rest.get("/v1/many/late?id=a&count=1", headers=EVENTS)).text.split("\n\n")
    assert events[0] == 'data: {"text":"a"}' and events[2] == ""
    assert events[1].startswith("event: error\ndata: ")
    assert json.loads(events[1].partition("data: ")[2])["error"]["code"] == "ABORTED"
    array = (await rest.get("/v1/many/late?id=a&count=1", headers=ARRAY)).json()
    assert (array[0], array[1]["error"]["status"]) == ({"text": "a"}, 409)
    raised = items((await rest.get("/v1/many/raise?id=a&count=1")).content)[1]["error"]
    assert raised["reason"] == "HANDLER_FAILED" and "secret" not in json.dumps(raised)
    await rest.until_free()


async def test_items_come_as_they_are_made(rest: RestPath) -> None:
    async with rest.client.stream("GET", rest.url("/v1/many?id=a&count=1&gate=made")) as answer:
        lines = answer.aiter_lines()
        async with asyncio.timeout(WAIT_SECONDS):
            assert json.loads(await anext(lines)) == {"text": "a"}
            rest.open("made")
            assert [line async for line in lines] == []
    await rest.until_free()


async def test_many_items(rest: RestPath) -> None:
    answer = await rest.get("/v1/many?id=a&count=20000")
    assert [item.get("count", 0) for item in items(answer.content)] == list(range(20_000))


async def test_a_client_that_leaves_a_stream(rest: RestPath) -> None:
    async with rest.client.stream("GET", rest.url("/v1/many/wait?id=leaves&count=1")) as answer:
        await anext(answer.aiter_lines())
        await rest.until_event("start leaves")
    await rest.until_event("ended leaves")
    await rest.until_free()


async def test_requests_in_lines(rest: RestPath) -> None:
    content = b'{"id": "a", "count": 1}\n\n  \r\n{"id": "b", "count": 2}\r\n{"id": "c"}'
    for kind in ("application/x-ndjson", "application/jsonl", "application/json; charset=utf-8"):
        answer = await rest.post("/v1/sum/in%20path", content=content, headers={"content-type": kind})
        assert answer.json() == {"text": "in path", "words": ["a", "b", "c"], "total": "3"}
    for nothing in (b"", b"\n\n"):
        assert (await rest.post("/v1/sum/x", content=nothing, headers=LINES)).json() == {}
    assert (await rest.post("/v1/sum/x")).json() == {}


async def test_lines_are_sent_on_as_they_come(rest: RestPath) -> None:
    async def lines() -> AsyncIterator[bytes]:
        yield b'{"id": "early", "count": 1}\n{"id": "ha'
        await rest.until_event("got early")
        yield b'lf"}\n'
        await rest.until_event("got half")

    answer = await rest.post("/v1/sum/x", content=lines(), headers=LINES)
    assert answer.json() == {"text": "x", "words": ["early", "half"], "total": "1"}


async def test_a_wrong_line_ends_the_call(rest: RestPath) -> None:
    for content, field in ((b'{"id": "a"}\n{"nope": 1}\n', "nope"), (b'{"id": "a"}\n{', ""), (b"[]\n", "")):
        answer = await rest.post("/v1/sum/x", content=content, headers=LINES)
        assert told(answer, 400, "INVALID_ARGUMENT").get("field", "") == field
    told(await rest.post("/v1/sum/x", content=b"{}", headers={"content-type": "text/plain"}), 415, "INVALID_ARGUMENT")
    told(await rest.post("/v1/sum/x", content=b"{}"), 415, "INVALID_ARGUMENT")
    long = b'{"id": "' + b"x" * 1_500_000
    told(await rest.post("/v1/sum/x", content=long, headers=LINES), 413, "INVALID_ARGUMENT")
    await rest.until_free()


async def test_a_method_that_reads_no_further(rest: RestPath) -> None:
    told(
        await rest.post("/v1/sum/x", content=b'{"what": "refuse"}\n{}\n', headers=LINES), 400, "OUT_OF_RANGE", "no more"
    )

    async def endless() -> AsyncIterator[bytes]:
        yield b'{"id": "first", "what": "enough", "count": 5}\n'
        while True:
            yield b'{"id": "more"}\n' * 1000
            await asyncio.sleep(0)

    with contextlib.suppress(httpx.TransportError):  # the server need not take the rest
        answer = await rest.post("/v1/sum/x", content=endless(), headers=LINES)
        assert answer.json() == {"text": "x", "words": ["first"], "total": "5"}
    await rest.until_free()


async def test_a_client_that_leaves_within_its_lines(rest: RestPath) -> None:
    connection = await Connection.open(rest.gateways.gateway.http_address)
    connection.send(b"POST /v1/sum/x HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n")
    connection.send(b"content-length: 1000\r\n\r\n" + b'{"id": "then gone"}\n')
    await rest.until_event("got then gone")
    await connection.close()
    await rest.until_event("sum cancelled")
    await rest.until_free()


async def test_both_ways_at_once(rest: RestPath) -> None:
    connection = await Connection.open(rest.gateways.gateway.http_address)
    connection.send(b"POST /v1/chat HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n")
    connection.send(b"transfer-encoding: chunked\r\n\r\n")
    for word in ("one", "two"):
        connection.send(_chunk(b'{"id": "%s"}\n' % word.encode()))
        async with asyncio.timeout(WAIT_SECONDS):
            said = await connection.reader.readuntil(b'"re: %s"}\n' % word.encode())
        if word == "one":
            assert said.startswith(b"HTTP/1.1 200")
    connection.send(_chunk(b""))
    async with asyncio.timeout(WAIT_SECONDS):
        await connection.reader.readuntil(b"0\r\n\r\n")
    await connection.close()
    answer = await rest.post("/v1/chat", content=b'{"id": "x"}\n{"what": "bye"}\n{"id": "y"}\n', headers=LINES)
    first, second, last = items(answer.content)
    assert (first["text"], second["text"], last["error"]["status"]) == ("re: x", "re: ", 499)
    broken = await rest.post("/v1/chat", content=b'{"id": "x"}\n{"id": 5}\n', headers=LINES)
    last = items(broken.content)[-1]  # in the status, if that comes before the first item
    assert (last if broken.status_code == 400 else last["error"])["code"] == "INVALID_ARGUMENT"
    await rest.until_free()


async def test_a_raw_answer_in_pieces(rest: RestPath) -> None:
    answer = await rest.get("/v1/download/x?count=3", headers=EVENTS)
    assert (answer.headers["content-type"], answer.content) == ("text/csv", b"0;1;2;")
    empty = await rest.get("/v1/download/x?count=0")
    assert (empty.status_code, empty.headers["content-type"], empty.content) == (200, "application/octet-stream", b"")
    told(await rest.get("/v1/download/early"), 404, "NOT_FOUND", "there is none")


async def test_a_raw_answer_that_fails_is_broken_off(rest: RestPath) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await rest.get("/v1/download/late?count=2")
    await rest.until_free()


async def test_a_raw_body_in_pieces(rest: RestPath) -> None:
    data = bytes(range(256)) * 8000
    sizes = (1, 100_000, 5, 1_000_000)

    async def pieces() -> AsyncIterator[bytes]:
        start = 0
        for size in sizes:
            yield data[start : start + size]
            start += size
        yield data[start:]

    answer = await rest.client.put(rest.url("/v1/receive/big"), content=pieces(), headers={"content-type": "a/b"})
    got = answer.json()
    assert (got["text"], got["total"]) == ("big a/b", str(len(data)))
    assert got["count"] > 1
    assert base64.b64decode(got["data"]) == hashlib.sha256(data).digest()
    nothing = (await rest.client.put(rest.url("/v1/receive/empty"), headers={"content-type": "a/b"})).json()
    assert (nothing["text"], nothing["count"]) == ("empty a/b", 1)


async def test_http_2_streams(rest: RestPath) -> None:
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        answer = await client.get(rest.url("/v1/many?id=a&count=3"))
        assert (answer.http_version, items(answer.content)) == ("HTTP/2", THREE)
        answer = await client.post(rest.url("/v1/sum/x"), content=b'{"id": "a"}\n{"id": "b"}', headers=LINES)
        assert answer.json() == {"text": "x", "words": ["a", "b"]}
        head = await client.head(rest.url("/v1/many?count=3"))
        assert (head.status_code, head.content) == (200, b"")
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(rest.url("/v1/download/late?count=2"))
        put = await client.put(rest.url("/v1/receive/big"), content=bytes(300_000), headers={"content-type": "a/b"})
        assert put.json()["total"] == "300000"
    await rest.until_free()


async def test_a_replica_that_dies_within_a_stream(rest: RestPath) -> None:
    """The last of this module: the replica is gone afterwards."""
    replica = rest.replica
    async with rest.client.stream("GET", rest.url("/v1/many/wait?id=dies&count=1")) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        await rest.until_event("start dies")
        await replica.kill()
        async with asyncio.timeout(WAIT_SECONDS):
            error = json.loads(await anext(lines))["error"]
        assert (error["status"], error["reason"]) == (502, "REPLICA_LOST")
        assert [line async for line in lines] == []
    dispatcher = rest.gateways.dispatcher()
    await until(lambda: not dispatcher.in_flight, "nothing is in flight")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"
