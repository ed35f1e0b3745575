"""The gateway's edge against clients that break rules, and against answers that would: over raw HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from prometheus_client import generate_latest

from mesh.telemetry import REGISTRY
from mesh.v1 import ingress_service_pb2 as ingress
from mesh.v1.ingress_service_pb2_grpc import IngressServiceStub
from tests.support.data_path import Connection, DataPath, data_path
from tests.support.gateways import Routed, until

HOST = b"Host: test\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture
async def kinds(tmp_path: Path) -> AsyncIterator[DataPath]:
    async with data_path(tmp_path) as path:
        await path.serve("async_kinds", ongoing=20, queued=20)
        yield path
        await path.until_free()


@contextlib.asynccontextmanager
async def connected(path: DataPath) -> AsyncIterator[Connection]:
    connection = await Connection.open(path.gateways.gateway.http_address)
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def http_2(path: DataPath) -> AsyncIterator[tuple[Connection, H2Connection]]:
    async with connected(path) as connection:
        session = H2Connection(H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False))
        session.initiate_connection()
        yield connection, session


def fields(method: str, path: str, **more: str) -> list[tuple[str, str]]:
    fields = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "test")]
    return [*fields, *((name.replace("_", "-"), value) for name, value in more.items())]


async def told(path: DataPath, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes on a connection of their own and read the answer."""
    async with connected(path) as connection:
        connection.send(request)
        return await connection.answer()


def is_problem(answer: tuple[int, dict[str, str], bytes], status: int, reason: str) -> None:
    found, headers, body = answer
    problem = json.loads(body)
    assert (found, headers["content-type"], problem["reason"]) == (status, "application/problem+json", reason)
    assert problem["request_id"] == headers["x-request-id"] != ""


# Connections.


async def test_idle_connections_and_heads_that_never_end_are_closed_after_the_time_that_was_set(tmp_path: Path) -> None:
    async with data_path(tmp_path, keep_alive_timeout_s=0.3) as path:
        await path.serve("async_kinds", ongoing=1, queued=0)
        async with connected(path) as connection:
            for _ in range(2):
                connection.send(b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n")
                assert (await connection.answer())[0] == 200
            assert await connection.ended()
        async with connected(path) as connection:
            connection.send(b"GET /echo HTTP/1.1\r\n" + HOST + b"X-Slow: ")
            assert await connection.ended()


# Bodies.


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "POST", "PUT", "PURGE"])
async def test_http_2_bodies_without_a_length_come_with_every_method(kinds: DataPath, method: str) -> None:
    async def parts(*given: bytes) -> AsyncIterator[bytes]:
        for part in given:
            yield part

    async with httpx.AsyncClient(http1=False, http2=True) as client:
        for given in ((), (b"",), (b"one",), (b"one", b"", b"two"), (b"x" * 100_000, b"y" * 300_000)):
            answer = await client.request(method, kinds.url("/echo"), content=parts(*given))
            assert (answer.status_code, answer.content) == (200, b"".join(given))
        answer = await client.request(method, kinds.url("/echo"))
        assert (answer.status_code, answer.content) == (200, b"")


async def test_http_2_bodies_without_a_length_that_waited_in_the_line_come_whole(tmp_path: Path) -> None:
    async with data_path(tmp_path) as path, http_2(path) as (connection, session), httpx.AsyncClient() as blocker:
        await path.serve("async_kinds", ongoing=1, queued=9)
        async with blocker.stream("GET", path.url("/drip")):
            for stream, method in ((1, "GET"), (3, "POST")):
                session.send_headers(stream, fields(method, "/keep"))
                session.send_data(stream, b"some")
            session.send_headers(5, fields("DELETE", "/keep"), end_stream=True)
            connection.send(session.data_to_send())
            await path.until_queued(3)
            for stream in (1, 3):
                session.send_data(stream, b" more", end_stream=True)
            connection.send(session.data_to_send())
        await until(lambda: len(path.events("kept")) == 3, "all three are answered")
        assert sorted(path.events("kept")) == ["0", "9", "9"]
        await path.until_free()


@pytest.mark.parametrize("length", [{}, {"content_length": "300"}, {"content_length": "300000"}])
async def test_an_http_2_upload_that_is_reset_is_never_taken_for_whole(kinds: DataPath, length: dict[str, str]) -> None:
    async with http_2(kinds) as (connection, session):
        for stream in range(1, 21, 2):
            session.send_headers(stream, fields("POST", "/keep", **length))
            session.send_data(stream, b"part of it")
            connection.send(session.data_to_send())
            await kinds.until_running(1)
            session.reset_stream(stream, ErrorCodes.NO_ERROR if stream % 4 == 1 else ErrorCodes.CANCEL)
            connection.send(session.data_to_send())
            await kinds.until_free()
    assert kinds.events("kept") == []


@pytest.mark.parametrize(
    "rest", [b"ZZ\r\nabc\r\n0\r\n\r\n", b"3\r\nabc\r\nQ\r\n", b"f" * 17 + b"\r\n", b"3\nabc\n0\n\n"]
)
async def test_chunks_that_are_none_are_a_400(kinds: DataPath, rest: bytes) -> None:
    async with connected(kinds) as connection:
        connection.send(b"POST /keep HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n" + rest)
        answer = await connection.answer()
        is_problem(answer, 400, "BODY_BROKEN")
        assert answer[1]["connection"] == "close" and await connection.ended()
    assert kinds.events("kept") == []


async def test_a_body_that_breaks_off_is_a_400(kinds: DataPath) -> None:
    for framing in (b"Content-Length: 10\r\n", b"Content-Length: 1000000\r\n", CHUNKED):
        async with connected(kinds) as connection:
            connection.send(b"POST /keep HTTP/1.1\r\n" + HOST + framing + b"\r\n5\r\n")
            await kinds.until_running(1)
            connection.writer.write_eof()
            is_problem(await connection.answer(), 400, "BODY_BROKEN")
    assert kinds.events("kept") == []


async def test_a_body_that_breaks_under_an_answer_breaks_that_off(kinds: DataPath) -> None:
    async with connected(kinds) as connection:
        connection.send(b"POST /mirror HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n3\r\nabc\r\n")
        assert (await connection.head())[0] == 200
        assert await connection.reader.readexactly(8) == b"3\r\nabc\r\n"
        connection.send(b"Q\r\n")
        assert await connection.reader.read() == b"", "without the chunk that ends a whole answer"


async def test_a_client_that_sends_none_of_its_body_gets_a_408_and_holds_no_slot(tmp_path: Path) -> None:
    async with data_path(tmp_path, body_idle_timeout_s=0.3) as path:
        await path.serve("async_kinds", ongoing=1, queued=9)
        for framing in (b"Content-Length: 10\r\n", b"Content-Length: 1000000\r\n", CHUNKED):
            async with connected(path) as connection:
                connection.send(b"POST /keep HTTP/1.1\r\n" + HOST + framing + b"\r\n1\r\n")
                await path.until_running(1)
                waiting = asyncio.ensure_future(path.get("/text"))
                is_problem(await connection.answer(), 408, "BODY_TIMEOUT")
                assert await connection.ended() and (await waiting).status_code == 200
        await silent_http_2(path)
        assert path.events("kept") == []
        await path.until_free()


async def silent_http_2(path: DataPath) -> None:
    """Empty DATA frames are no progress."""
    async with http_2(path) as (connection, session):
        session.send_headers(1, fields("GET", "/keep"))
        ended = False
        while not ended:
            session.send_data(1, b"")
            connection.send(session.data_to_send())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    ended = any(
                        b"BODY_TIMEOUT" in getattr(event, "data", b"") for event in await events(connection, session)
                    )


async def events(connection: Connection, session: H2Connection) -> list[Any]:
    return list(session.receive_data(await connection.reader.read(65536)))


async def test_a_slow_body_that_goes_on_is_waited_for(tmp_path: Path) -> None:
    async with data_path(tmp_path, body_idle_timeout_s=0.4) as path:
        await path.serve("async_kinds")
        async with connected(path) as small, connected(path) as large:
            small.send(b"POST /keep HTTP/1.1\r\n" + HOST + b"Content-Length: 8\r\n\r\n")
            large.send(b"POST /keep HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n")
            for _ in range(8):  # in all, well over what it may be silent
                await asyncio.sleep(0.1)
                small.send(b"x")
                large.send(b"1\r\nx\r\n")
            large.send(b"0\r\n\r\n")
            assert (await small.answer())[2] == (await large.answer())[2] == b'{"bytes":8}'


async def test_a_handler_that_does_not_read_is_not_the_clients_fault(tmp_path: Path) -> None:
    async with data_path(tmp_path, body_idle_timeout_s=0.2, request_timeout_s=1.0) as path:
        await path.serve("async_gated")
        answer = await path.post("/?gate=never", content=bytes(5_000_000))
        assert (answer.status_code, answer.json()["reason"]) == (504, "DEADLINE_EXCEEDED")
        answer = await path.post("/?gate=never", content=b"small")
        assert answer.json()["reason"] == "DEADLINE_EXCEEDED"
        await path.until_free()


async def test_a_client_that_still_sends_gets_to_read_its_refusal(tmp_path: Path) -> None:
    async with data_path(tmp_path) as path:
        await path.serve("async_gated", ongoing=1, queued=0)
        running = asyncio.ensure_future(path.get("/?gate=open"))
        await path.until_running(1)
        for size in (10, 10_000, 5_000_000):
            for _ in range(10):
                assert (await path.post("/?gate=open", content=bytes(size))).status_code == 503, size
        path.open("open")
        assert (await running).status_code == 200
        await path.until_free()


# Requests that HTTP does not allow, or that are not for handlers.

SHAPES: dict[str, tuple[bytes, int]] = {
    "two lengths": (b"POST /keep HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "a list of lengths": (b"POST /keep HTTP/1.1\r\n" + HOST + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "a signed length": (b"POST /keep HTTP/1.1\r\n" + HOST + b"Content-Length: +3\r\n\r\nabc", 400),
    "a long length": (b"POST /keep HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"0" * 5000 + b"3\r\n\r\nabc", 400),
    "an unknown coding": (b"POST /keep HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
    "chunked not last": (b"POST /keep HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    "chunks in HTTP/1.0": (b"POST /keep HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "a space before a colon": (b"POST /keep HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n", 400),
    "a folded header": (b"GET /text HTTP/1.1\r\n" + HOST + b"X-A: a\r\n b\r\n\r\n", 400),
    "NUL in a header": (b"GET /text HTTP/1.1\r\n" + HOST + b"X-A: a\0b\r\n\r\n", 400),
    "a bare CR in a header": (b"GET /text HTTP/1.1\r\n" + HOST + b"X-A: a\rb\r\n\r\n", 400),
    "NUL in a path": (b"GET /te\0xt HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no host": (b"GET /text HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /text HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "no path": (b"GET text HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "the whole server": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a tunnel": (b"CONNECT test:80 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "a tunnel to a path": (b"CONNECT /text HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "a long method": (b"A" * 5000 + b" /text HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "a long target": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "a longer target": (b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "an old version": (b"GET /text\r\n\r\n", 400),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_requests_that_are_refused(kinds: DataPath, shape: str) -> None:
    request, status = SHAPES[shape]
    assert (await told(kinds, request))[0] == status
    assert kinds.events("kept") == [] and (await kinds.get("/text")).status_code == 200


async def test_chunks_win_over_a_length_and_nothing_is_left_for_a_second_request(kinds: DataPath) -> None:
    smuggled = b"GET /fails HTTP/1.1\r\nHost: test\r\n\r\n"
    body = b"3\r\nabc\r\n0\r\n\r\n"
    for first, second in ((CHUNKED, b"Content-Length: 4\r\n"), (b"Content-Length: 4\r\n", CHUNKED)):
        async with connected(kinds) as connection:
            connection.send(b"POST /echo HTTP/1.1\r\n" + HOST + first + second + b"\r\n" + body + smuggled)
            status, _, echoed = await connection.answer()
            assert (status, echoed) == (200, b"abc")
            assert await connection.reader.read() == b"", "it ends there"


async def test_absolute_targets_and_old_clients_are_served(kinds: DataPath) -> None:
    status, _, body = await told(kinds, b"GET http://test/seen?a=b HTTP/1.1\r\nHost: test\r\n\r\n")
    scope = json.loads(body)
    assert (status, scope["raw_path"], scope["query"]) == (200, "/seen", "a=b")
    assert (await told(kinds, b"GET /text HTTP/1.0\r\n\r\n"))[0] == 200


async def test_a_path_reaches_the_handler_as_it_was_sent(kinds: DataPath) -> None:
    """`path` is decoded, as ASGI has it; what must tell an encoded slash from a slash has `raw_path`."""
    for target, path in (
        ("/a%2Fb/seen", "/a/b/seen"),
        ("/a%252Fb/%3F%23/seen", "/a%2Fb/?#/seen"),
        ("/%C3%BC/%zz/seen", "/ü/%zz/seen"),
        ("/a/../b//seen", "/a/../b//seen"),
    ):
        scope = json.loads((await told(kinds, b"GET %s HTTP/1.1\r\n%s\r\n" % (target.encode(), HOST)))[2])
        assert (scope["raw_path"], scope["path"]) == (target, path)


@pytest.mark.parametrize("connection_header", ["Upgrade", "keep-alive, upgrade"])
async def test_a_web_socket_that_nobody_serves_is_refused(kinds: DataPath, connection_header: str) -> None:
    upgrade = b"Upgrade: WebSocket\r\nConnection: %s\r\n" % connection_header.encode()
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Request-ID: mine\r\n"
    async with connected(kinds) as connection:
        connection.send(b"GET /text HTTP/1.1\r\n" + HOST + upgrade + key + b"\r\n")
        answer = await connection.answer()
        is_problem(answer, 501, "NOT_SUPPORTED")
        assert answer[1]["x-request-id"] == "mine"
    async with connected(kinds) as connection:
        connection.send(b"GET /text HTTP/1.1\r\n" + HOST + upgrade + b"\r\n")
        assert (await connection.answer())[0] == 400


@pytest.mark.parametrize("header", [b"Upgrade: websocket", b"Upgrade: h2c\r\nConnection: upgrade"])
async def test_other_upgrades_are_not_taken_up(kinds: DataPath, header: bytes) -> None:
    async with connected(kinds) as connection:
        for _ in range(2):
            connection.send(b"GET /text HTTP/1.1\r\n" + HOST + header + b"\r\n\r\n")
            assert (await connection.answer())[0] == 200


async def test_a_flood_of_resets_leaves_nothing_behind(tmp_path: Path) -> None:
    async with data_path(tmp_path) as path:
        await path.serve("async_gated", ongoing=2, queued=5)
        async with http_2(path) as (connection, session):
            for stream in range(1, 2000, 2):
                session.send_headers(stream, fields("GET", "/?gate=never"), end_stream=True)
                session.reset_stream(stream, ErrorCodes.CANCEL)
            connection.send(session.data_to_send())
            assert await connection.ended(), "the server ends such a connection"
        path.open("now")
        async with asyncio.timeout(20):
            while (await path.get("/?gate=now")).status_code != 200:
                await asyncio.sleep(0.01)
        await path.until_free()


# mesh's own pages.


async def test_mesh_own_pages_have_ids_and_problems(kinds: DataPath) -> None:
    given = b"X-Request-ID: mine\r\n"
    for method, target, status in (("GET", "/-/healthz", 200), ("HEAD", "/-/routes", 200), ("GET", "/-/none", 404)):
        async with connected(kinds) as connection:
            connection.send(f"{method} {target} HTTP/1.1\r\n".encode() + HOST + given + b"\r\n")
            found, headers = await connection.head()
            assert (found, headers["x-request-id"]) == (status, "mine")
            assert headers["content-type"] == ("application/json" if status == 200 else "application/problem+json")
    answer = await told(kinds, b"POST /-/routes HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc")
    is_problem(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer[1]["allow"] == "GET, HEAD"


async def test_a_gateway_without_a_snapshot_says_so(tmp_path: Path) -> None:
    async with data_path(tmp_path) as path:
        health, page, request = await path.get("/-/healthz"), await path.get("/-/none"), await path.get("/any")
        assert [answer.status_code for answer in (health, page, request)] == [503, 404, 503]
        assert all(answer.headers["x-request-id"] for answer in (health, page, request))


# Answers.


async def test_answers_without_a_body_have_none_over_http_2_either(kinds: DataPath) -> None:
    async with httpx.AsyncClient(http1=False, http2=True) as second:
        for client in (kinds.client, second):
            for name in ("text", "large", "words", "fails", "nothing", "endless", "fails-late"):
                answer = await client.head(kinds.url(f"/{name}"))
                assert (answer.status_code, answer.content) == ({"fails": 500, "nothing": 204}.get(name, 200), b"")
            for status in (204, 304):
                answer = await client.get(kinds.url(f"/status?code={status}"))
                assert (answer.status_code, answer.content) == (status, b"")
                answer = await client.get(kinds.url("/text"))
                assert answer.text == "héllo", "the connection is in step"
        assert (await second.head(kinds.url("/text"))).headers["content-length"] == "6"


@pytest.mark.parametrize("lengths", [["3"], ["30"], ["abc"], ["3", "10"], ["-1"], []])
async def test_a_whole_answer_has_the_length_it_has(kinds: DataPath, lengths: list[str]) -> None:
    query = "&".join(f"length={length}" for length in lengths)
    async with connected(kinds) as connection:
        for _ in range(3):
            connection.send(f"GET /wrong-length?{query} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            status, headers, body = await connection.answer()
            assert (status, headers["content-length"], body) == (200, "10", b"0123456789")


async def test_a_streamed_answer_of_another_length_than_it_says_does_not_spoil_the_next(kinds: DataPath) -> None:
    for length, body in (("3", b"012"), ("10", b"0123456789")):
        async with connected(kinds) as connection:
            for _ in range(3):
                connection.send(f"GET /wrong-length?stream&length={length} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                assert (await connection.answer())[2] == body
    with pytest.raises(httpx.RemoteProtocolError):
        await kinds.get("/wrong-length?stream&length=30")
    for query in ("length=abc", "length=3&length=10", "length=-1"):
        answer = await kinds.get(f"/wrong-length?stream&{query}")
        assert (answer.status_code, answer.json()["reason"]) == (500, "HANDLER_FAILED")


# gRPC, and what is counted.


@pytest.mark.parametrize(
    "request_",
    [
        ingress.HandleRequest(method="GE T", path="/text"),
        ingress.HandleRequest(method="GET\r\nX: 1", path="/text"),
        ingress.HandleRequest(path="/te\nxt"),
        ingress.HandleRequest(path="/text?a=\x1b[31m"),
        ingress.HandleRequest(path="/text", headers=[ingress.HttpHeader(name="x a", value="1")]),
        ingress.HandleRequest(path="/text", headers=[ingress.HttpHeader(name="x-a", value="1\r\nx-b: 2")]),
    ],
    ids=["method", "method with a header", "path", "query", "name", "value"],
)
async def test_grpc_requests_that_http_could_not_carry(kinds: DataPath, request_: ingress.HandleRequest) -> None:
    async with grpc.aio.insecure_channel(kinds.gateways.gateway.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await IngressServiceStub(channel).Handle(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_grpc_requests_that_are_no_request_or_too_large(kinds: DataPath) -> None:
    """They are told in our words: a client must not be shown what goes on in a gateway."""
    too_large = ingress.HandleRequest(path="/text", body=bytes(20_000_000)).SerializeToString()
    grows = ingress.HandleRequest(path="/echo", body=bytes(16 * 1024 * 1024 - 30)).SerializeToString()
    cases = (
        (grows, grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", "the answer does not fit"),
        (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "no mesh.v1.HandleRequest"),
        (too_large, grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", "--message-bytes"),
    )
    options = (("grpc.max_send_message_length", -1),)
    async with grpc.aio.insecure_channel(kinds.gateways.gateway.grpc_address, options=options) as channel:
        handle: Any = channel.unary_unary("/mesh.v1.IngressService/Handle")
        for data, code, reason, words in cases:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await handle(data, timeout=20)
            assert (caught.value.code(), words in str(caught.value.details())) == (code, True), caught.value.details()
            trailers = dict(caught.value.trailing_metadata() or ())
            assert trailers["x-request-id"] and "grpc-retry-pushback-ms" not in trailers
            assert reason.encode() in bytes(trailers["grpc-status-details-bin"])


async def test_grpc_has_no_tunnels_and_other_methods(kinds: DataPath) -> None:
    async with grpc.aio.insecure_channel(kinds.gateways.gateway.grpc_address) as channel:
        stub = IngressServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Handle(ingress.HandleRequest(method="CONNECT", path="/text"))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await stub.Handle(ingress.HandleRequest(method="purge", path="/text"))).status == 200


async def test_an_application_that_is_not_built_has_no_series_of_sheds(tmp_path: Path) -> None:
    async with data_path(tmp_path) as path:
        await path.gateways.snapshots.publish(Routed(name="unbuilt", built=False), gateways=1)
        await until(lambda: "/" in path.gateways.gateway.pipeline.routes(), "the route is there")
        lines = [line for line in generate_latest(REGISTRY).decode().splitlines() if 'application="unbuilt"' in line]
        assert not [line for line in lines if line.startswith("mesh_requests_shed")]
