"""What goes through the data path and how it looks on the other side: heads, bodies, errors, large transfers."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from h2.connection import H2Connection

from mesh.v1 import ingress_service_pb2 as ingress
from mesh.v1.ingress_service_pb2_grpc import IngressServiceStub
from tests.support.data_path import Connection, DataPath, data_path, finish
from tests.support.gateways import Routed, until
from tests.support.handlers import CHUNK, LARGE

MEGABYTE = 1024 * 1024


@pytest.fixture
async def kinds(tmp_path: Path) -> AsyncIterator[DataPath]:
    async with data_path(tmp_path) as path:
        await path.serve("async_kinds", ongoing=20, queued=20)
        yield path
        await path.until_free()


@pytest.fixture
async def sync_kinds(tmp_path: Path) -> AsyncIterator[DataPath]:
    async with data_path(tmp_path) as path:
        await path.serve("sync_kinds", ongoing=4, queued=20)
        yield path
        await path.until_free()


ANSWERS: list[tuple[str, int, str, bytes]] = [
    ("text", 200, "text/plain; charset=utf-8", "héllo".encode()),
    ("raw", 200, "application/octet-stream", b"\x00\xff"),
    ("nothing", 204, "", b""),
    ("mapping", 200, "application/json", '{"a":[1,null,"ü"]}'.encode()),
    ("sequence", 200, "application/json", b"[1,2]"),
    ("large", 200, "application/json", b'{"text":"' + b"x" * LARGE + b'"}'),
    ("words", 200, "text/plain; charset=utf-8", b"one two three"),
    ("empty", 200, "application/octet-stream", b""),
    ("own", 203, "", b"own way"),
    ("teapot", 418, "", b"short and stout"),
    ("ignore-body", 200, "text/plain; charset=utf-8", b"not read"),
]


async def test_every_kind_of_answer_over_http_1_and_2_and_grpc(kinds: DataPath) -> None:
    async with (
        httpx.AsyncClient(http1=False, http2=True) as second,
        grpc.aio.insecure_channel(kinds.gateways.gateway.grpc_address) as channel,
    ):
        for name, status, kind, body in ANSWERS:
            for client, version in ((kinds.client, "HTTP/1.1"), (second, "HTTP/2")):
                answer = await client.get(kinds.url(f"/{name}"))
                assert answer.http_version == version
                assert (answer.status_code, answer.content) == (status, body), name
                assert answer.headers.get("content-type", "") == kind and answer.headers["x-request-id"]
            told = await IngressServiceStub(channel).Handle(ingress.HandleRequest(path=f"/{name}"))
            assert (told.status, told.body) == (status, body), name
            headers = [(header.name, header.value) for header in told.headers]
            assert dict(headers).get("content-type", "") == kind
            assert len([name for name, _ in headers if name == "x-request-id"]) == 1


async def test_sync_handlers_answer_the_same(sync_kinds: DataPath) -> None:
    assert (await sync_kinds.get("/large")).json() == {"text": "x" * LARGE}
    assert (await sync_kinds.get("/words")).text == "one two three"
    assert (await sync_kinds.get("/streaming")).text == "one two three"
    assert (await sync_kinds.get("/nothing")).status_code == 204


async def test_head_answers_like_get_without_a_body(kinds: DataPath) -> None:
    for name in ("mapping", "large", "words", "fails", "nothing"):
        head, get = await kinds.client.head(kinds.url(f"/{name}")), await kinds.get(f"/{name}")
        assert (head.status_code, head.content) == (get.status_code, b"")
        if name in ("mapping", "large"):
            assert head.headers["content-length"] == get.headers["content-length"]
    assert (await kinds.get("/text")).text == "héllo", "the connection is in step"


FAILURES = ["fails", "exits", "stops", "thing", "unserialisable", "numbers", "bad-header", "bad-status"]


@pytest.mark.parametrize("name", FAILURES)
async def test_what_goes_wrong_in_a_handler_is_a_500_without_its_reason(kinds: DataPath, name: str) -> None:
    answer = await kinds.get(f"/{name}", headers={"x-request-id": "mine"})
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert (problem["reason"], problem["request_id"], answer.headers["x-request-id"]) == (
        "HANDLER_FAILED",
        "mine",
        "mine",
    )
    assert "Traceback" not in answer.text and "secret" not in answer.text
    assert (await kinds.get("/text")).status_code == 200


@pytest.mark.parametrize("name", ["fails", "exits", "stops", "thing", "unserialisable"])
async def test_and_in_a_sync_one(sync_kinds: DataPath, name: str) -> None:
    for _ in range(5):  # more often than there are slots
        answer = await sync_kinds.get(f"/{name}")
        assert answer.status_code == 500 and "secret" not in answer.text
    assert sync_kinds.replica.log.count("handler raised") == 5


async def test_over_grpc_a_raising_handler_is_internal(kinds: DataPath) -> None:
    async with grpc.aio.insecure_channel(kinds.gateways.gateway.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await IngressServiceStub(channel).Handle(ingress.HandleRequest(path="/fails"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL and "secret" not in str(caught.value.details())


async def test_a_transfer_that_breaks_off_is_seen_to(kinds: DataPath) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await kinds.get("/fails-late")
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(kinds.url("/fails-late"))


async def test_the_head_comes_before_the_first_of_the_body(kinds: DataPath) -> None:
    connection = await Connection.open(kinds.gateways.gateway.http_address)
    connection.send(b"GET /drip HTTP/1.1\r\nhost: test\r\n\r\n")
    status, _ = await connection.head()
    assert status == 200
    await connection.close()
    await kinds.until_event("drip stop")


async def test_a_background_task_outlives_its_request(kinds: DataPath) -> None:
    assert (await kinds.get("/background?gate=later")).json() == {"ok": True}
    assert (await kinds.post("/background?gate=later", content=bytes(300_000))).json() == {"ok": True}
    assert await kinds.replica.ongoing() == 2
    kinds.open("later")
    await until(lambda: kinds.events("background ") == ["end", "end"], "both tasks end")


async def seen(path: DataPath, target: str = "/seen", **options: Any) -> Any:
    answer = await path.get(target, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_headers_for_one_hop_stop_and_forwarded_ones_are_set(kinds: DataPath) -> None:
    connection = await Connection.open(kinds.gateways.gateway.http_address)
    lines = [
        b"GET /seen?a=1&b=%20 HTTP/1.1",
        b"Host: shop.example",
        b"Connection: keep-alive, X-Private",
        b"Keep-Alive: timeout=5",
        b"X-Private: 1",
        b"TE: trailers",
        b"Proxy-Authorization: Basic abc",
        b"Upgrade: other",
        b"X-Mesh-Anything: 1",
        b"X-Forwarded-For: 9.9.9.9",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: evil.example",
        b"X-Twice: 1",
        b"X-Twice: 2",
    ]
    connection.send(b"\r\n".join(lines) + b"\r\n\r\n")
    told = json.loads((await connection.answer())[2])
    await connection.close()
    assert told["headers"] == [
        ["host", "shop.example"],
        ["x-twice", "1"],
        ["x-twice", "2"],
        ["x-forwarded-for", "9.9.9.9, 127.0.0.1"],
        ["x-forwarded-proto", "http"],
        ["x-forwarded-host", "shop.example"],
    ]
    assert told["query"] == "a=1&b=%20" and told["client"][0] == "127.0.0.1" and told["http_version"] == "1.1"


async def test_an_answers_headers_for_one_hop_stop(kinds: DataPath) -> None:
    answer = await kinds.get("/hop", headers={"x-request-id": "given"})
    assert answer.headers["x-kept"] == "yes"
    assert not {"keep-alive", "connection", "x-private", "transfer-encoding"} & set(answer.headers)
    assert answer.headers.get_list("x-request-id") == ["given"]


async def test_request_ids_are_honoured_or_made_and_always_answered(kinds: DataPath) -> None:
    made = {(await kinds.get(path)).headers["x-request-id"] for path in ("/text", "/text", "/fails", "/bad-header")}
    assert len(made) == 4
    for path, status, headers in (
        ("/text", 200, {}),
        ("/fails", 500, {}),
        ("/text", 400, {"x-request-timeout-seconds": "soon"}),
        ("/text", 431, {"x-large": "x" * 70_000}),
    ):
        answer = await kinds.get(path, headers={"x-request-id": "my-id", **headers})
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, "my-id")
    unfit = await kinds.get("/text", headers={"x-request-id": "no good"})
    assert unfit.headers["x-request-id"] != "no good"


async def test_heads_that_are_too_large_are_refused(kinds: DataPath) -> None:
    many = {f"x-{i}": "1" for i in range(250)}
    assert (await kinds.get("/text", headers=many)).status_code == 431
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        answer = await client.get(kinds.url("/text"), headers=many)
        assert (answer.status_code, answer.json()["reason"]) == (431, "HEADERS_TOO_LARGE")
    for options in (
        {"headers": {"x-large": "x" * 70_000}},
        {"params": {"q": "x" * 64_000}, "headers": {"x-large": "x" * 3_000}},
    ):
        answer = await kinds.get("/text", **options)
        assert (answer.status_code, answer.json()["reason"]) == (431, "HEADERS_TOO_LARGE")
    async with grpc.aio.insecure_channel(kinds.gateways.gateway.grpc_address) as channel:
        request = ingress.HandleRequest(path="/text")
        request.headers.add(name="x-large", value="x" * 70_000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await IngressServiceStub(channel).Handle(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        trailers = dict(caught.value.trailing_metadata())
        assert trailers["x-request-id"]


async def test_a_path_that_is_too_long_is_refused(kinds: DataPath) -> None:
    """Whatever it is made of: reading one with many encodings takes long."""
    fits = "/text/" + "x" * (8192 - 6)
    assert "HEADERS" not in (await kinds.get(fits)).text and (await kinds.get(fits)).status_code != 414
    async with httpx.AsyncClient(http1=False, http2=True) as second:
        for path in (fits + "x", "/text" + "/%41" * 4000):
            for answer in (await kinds.get(path), await second.get(kinds.url(path))):
                told = answer.json()
                assert (answer.status_code, told["reason"], told["title"]) == (414, "PATH_TOO_LONG", "URI Too Long")
    async with grpc.aio.insecure_channel(kinds.gateways.gateway.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await IngressServiceStub(channel).Handle(ingress.HandleRequest(path=fits + "x"))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "path" in str(caught.value.details())


@pytest.mark.parametrize("value", ["0", "-3", "soon", "nan", "inf"])
async def test_a_timeout_that_is_none_is_a_400(kinds: DataPath, value: str) -> None:
    answer = await kinds.get("/text", headers={"x-request-timeout-seconds": value})
    assert answer.status_code == 400 and "x-request-timeout-seconds" in answer.json()["detail"]


async def test_bodies_over_the_limit_are_refused_with_and_without_a_length(tmp_path: Path) -> None:
    async with data_path(tmp_path, body_bytes_max=300_000) as path:
        await path.serve("async_kinds")

        async def chunks(size: int) -> AsyncIterator[bytes]:
            for _ in range(size // 10_000):
                yield bytes(10_000)

        assert (await path.post("/digest", content=bytes(300_000))).json()["bytes"] == 300_000
        assert (await path.post("/digest", content=chunks(300_000))).json()["bytes"] == 300_000
        for content in (bytes(300_001), chunks(400_000)):
            answer = await path.post("/digest", content=content)
            assert (answer.status_code, answer.json()["reason"]) == (413, "BODY_TOO_LARGE")
        await path.until_free()


@pytest.mark.parametrize("size", [0, 1, 1000, 131_072, 131_073, 600_000, 3_000_000])
async def test_bodies_of_any_size_come_back_whole(kinds: DataPath, size: int) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]

    async def chunked() -> AsyncIterator[bytes]:
        for i in range(0, size, 50_000):
            yield body[i : i + 50_000]

    for content in (body, chunked()):
        answer = await kinds.post("/echo", content=content)
        assert answer.content == body and answer.headers["content-type"] == "application/x-echo"
    async with httpx.AsyncClient(http1=False, http2=True) as client:
        for content in (body, chunked()):
            answer = await client.post(kinds.url("/mirror"), content=content)
            assert answer.http_version == "HTTP/2" and answer.content == body
    async with grpc.aio.insecure_channel(kinds.gateways.gateway.grpc_address) as channel:
        for name in ("echo", "mirror"):
            told = await IngressServiceStub(channel).Handle(
                ingress.HandleRequest(method="POST", path=f"/{name}", body=body), timeout=20
            )
            assert told.body == body


async def test_a_body_that_nobody_reads_does_not_hold_up_the_answer(kinds: DataPath) -> None:
    answer = await kinds.post("/ignore-body", content=bytes(3 * MEGABYTE))
    assert answer.text == "not read"


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on(kinds: DataPath) -> None:
    connection = await Connection.open(kinds.gateways.gateway.http_address)
    connection.send(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
    assert (await connection.head())[0] == 100
    connection.send(b"hello")
    assert (await connection.answer())[2] == b"hello"
    await connection.close()


async def test_a_client_that_leaves_in_the_middle_of_its_body_frees_its_slot(kinds: DataPath) -> None:
    for length in (100, 10_000_000):
        connection = await Connection.open(kinds.gateways.gateway.http_address)
        connection.send(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\nhalf" % length)
        await kinds.until_running(1)
        await connection.close()
        await kinds.until_free()


async def test_a_body_that_does_not_come_is_a_504(kinds: DataPath) -> None:
    for length in (100, 10_000_000):
        connection = await Connection.open(kinds.gateways.gateway.http_address)
        head = b"POST /echo HTTP/1.1\r\nhost: test\r\nx-request-timeout-seconds: 0.3\r\ncontent-length: %d\r\n\r\n"
        connection.send(head % length)
        assert (await connection.head())[0] == 504
        await connection.close()
    await kinds.until_free()


async def test_bodies_that_waited_in_the_line_come_back_whole(tmp_path: Path) -> None:
    """While a request waits, the beginning of its body is taken to see whether its client is still there."""
    async with data_path(tmp_path) as path:
        await path.serve("async_kinds", ongoing=1, queued=20)
        blocker = await Connection.open(path.gateways.gateway.http_address)
        blocker.send(b"GET /drip HTTP/1.1\r\nhost: test\r\n\r\n")
        await path.until_event("drip start")
        bodies = [bytes([i]) * size for i, size in enumerate((1, 60_000, 100_000, 131_072, 131_073, 2_000_000))]
        tasks = [asyncio.ensure_future(path.post("/echo", content=body)) for body in bodies]
        slow = await Connection.open(path.gateways.gateway.http_address)
        slow.send(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nfirst")
        late = await Connection.open(path.gateways.gateway.http_address)
        late.send(b"POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
        await path.until_queued(len(bodies) + 2)
        await until(lambda: early_bodies() == len(bodies) + 2, "all of them take the beginning of the body")
        await blocker.close()
        slow.send(b"again")
        assert (await slow.answer())[2] == b"firstagain"
        late.send(b"3\r\nabc\r\n")
        late.send(b"2\r\nde\r\n0\r\n\r\n")
        assert (await late.answer())[2] == b"abcde"
        assert [answer.content for answer in await asyncio.gather(*tasks)] == bodies
        for connection in (slow, late):
            await connection.close()
        await path.until_free()


def early_bodies() -> int:
    return sum(task.get_name() == "client-watch" for task in asyncio.all_tasks()) - 1


async def test_large_transfers_leave_room_for_small_requests(kinds: DataPath) -> None:
    body = CHUNK * (20 * MEGABYTE // len(CHUNK))

    async def small(count: int) -> None:
        for _ in range(count):
            assert (await kinds.get("/text")).status_code == 200

    upload = asyncio.ensure_future(kinds.post("/digest", content=body))
    download = asyncio.ensure_future(kinds.get(f"/download?chunks={20 * MEGABYTE // len(CHUNK)}"))
    await asyncio.gather(*(small(20) for _ in range(4)))
    assert (await upload).json() == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert (await download).content == body


async def test_a_reader_that_stops_holds_up_only_itself_and_fills_no_memory(kinds: DataPath) -> None:
    chunks = 400 * MEGABYTE // len(CHUNK)
    await kinds.get("/download?chunks=50")
    gateway, replica = psutil.Process(), psutil.Process(kinds.replica.pid)
    before = (gateway.memory_info().rss, replica.memory_info().rss)
    connections = [await Connection.open(kinds.gateways.gateway.http_address) for _ in range(4)]
    for connection in connections:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection.send(b"GET /download?chunks=%d HTTP/1.1\r\nhost: test\r\n\r\n" % chunks)
    await kinds.until_running(4)
    for _ in range(100):
        assert (await kinds.get("/text")).status_code == 200
    after = (gateway.memory_info().rss, replica.memory_info().rss)
    assert after[0] - before[0] < 60 * MEGABYTE and after[1] - before[1] < 30 * MEGABYTE, (before, after)
    for connection in connections:
        connection.writer.transport.abort()
    await kinds.until_free()


async def test_a_reader_that_takes_nothing_for_too_long_is_given_up(tmp_path: Path) -> None:
    async with data_path(tmp_path, stream_idle_timeout_s=0.5) as path:
        await path.serve("async_kinds")
        connection = await Connection.open(path.gateways.gateway.http_address)
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection.send(b"GET /endless HTTP/1.1\r\nhost: test\r\n\r\n")
        await path.until_event("endless stop")
        await until(lambda: not path.gateways.gateway.pipeline._exchanges, "the request is over at the gateway too")
        connection.writer.transport.abort()
        silent = await Connection.open(path.gateways.gateway.http_address)
        silent.send(b"GET /drip HTTP/1.1\r\nhost: test\r\n\r\n")
        assert await silent.ended(), "a handler that sends nothing for too long is given up too"
        await silent.close()
        await path.until_free()


@pytest.mark.parametrize("kind", ["async_kinds", "sync_kinds"])
async def test_an_endless_answer_stops_when_its_client_leaves(tmp_path: Path, kind: str) -> None:
    async with data_path(tmp_path) as path:
        await path.serve(kind)
        for round_number in range(1, 6):
            async with path.client.stream("GET", path.url("/endless")) as answer:
                async for _ in answer.aiter_raw():
                    break
            await until(lambda n=round_number: len(path.events("endless stop")) == n, "it stops")  # type: ignore[misc]
            await path.until_free()


async def test_http_2_requests_that_are_reset_are_cancelled(tmp_path: Path) -> None:
    async with data_path(tmp_path) as path:
        await path.serve("async_gated")
        connection = await Connection.open(path.gateways.gateway.http_address)
        session = H2Connection()
        session.initiate_connection()
        for stream in (1, 3, 5):
            headers = [(":method", "GET"), (":path", f"/?id={stream}&gate=never"), (":scheme", "http")]
            session.send_headers(stream, [*headers, (":authority", "test")], end_stream=True)
        connection.send(session.data_to_send())
        await path.until_event("start 3")
        await path.until_queued(1)
        session.reset_stream(5)
        connection.send(session.data_to_send())
        await path.until_queued(0)
        for stream in (1, 3):
            session.reset_stream(stream)
        connection.send(session.data_to_send())
        await path.until_event("cancelled 1")
        await path.until_free()
        await connection.close()
        assert "5" not in path.events("start ")


async def test_paths_choose_the_application_and_pass_as_they_were_sent(tmp_path: Path) -> None:
    async with data_path(tmp_path) as path:
        replica = await path.replica_of("async_kinds", ongoing=9)
        endpoints = ((replica.replica_id, replica.address),)
        routes = {"one": "/one", "deep": "/one/deep", "umlaut": "/ü"}
        await path.gateways.publish(
            *(Routed(name=name, prefix=prefix, ongoing=3, endpoints=endpoints) for name, prefix in routes.items())
        )
        for target, root, decoded in (
            ("/one/seen", "/one", "/one/seen"),
            ("/one/deep/seen", "/one/deep", "/one/deep/seen"),
            ("/one/deeper/seen", "/one", "/one/deeper/seen"),
            ("/%6Fne/a%20b/seen", "/one", "/one/a b/seen"),
            ("/%C3%BC/seen", "/ü", "/ü/seen"),
        ):
            told = await seen(path, target)
            assert (told["root_path"], told["path"], told["raw_path"]) == (root, decoded, target)
        for target in ("/", "/on", "/onedeep/seen", "/two"):
            answer = await path.get(target)
            assert (answer.status_code, answer.json()["reason"]) == (404, "NO_SUCH_ROUTE")
        assert (await path.get("/-/routes")).json() == {prefix: name for name, prefix in routes.items()}
        assert (await path.get("/-/healthz")).status_code == 200
        assert (await path.get("/-/other")).status_code == 404
        await grpc_routes(path)


async def grpc_routes(path: DataPath) -> None:
    async with grpc.aio.insecure_channel(path.gateways.gateway.grpc_address) as channel:
        stub = IngressServiceStub(channel)
        by_path = await stub.Handle(ingress.HandleRequest(path="/one/deep/seen?x=1"))
        by_name = await stub.Handle(
            ingress.HandleRequest(path="/seen?x=1"), metadata=(("application", "deep"), ("x-request-id", "mine"))
        )
        for told in (by_path, by_name):
            scope = json.loads(told.body)
            assert (scope["root_path"], scope["path"], scope["query"]) == ("/one/deep", "/one/deep/seen", "x=1")
        assert {header.name: header.value for header in by_name.headers}["x-request-id"] == "mine"
        for request, metadata, code in (
            (ingress.HandleRequest(path="/none"), (), grpc.StatusCode.UNIMPLEMENTED),
            (ingress.HandleRequest(path="/"), (("application", "none"),), grpc.StatusCode.UNIMPLEMENTED),
            (ingress.HandleRequest(path="none"), (), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Handle(request, metadata=metadata)
            assert caught.value.code() is code
        posted = await stub.Handle(ingress.HandleRequest(path="/one/seen", body=b"x"))
        scope = json.loads(posted.body)
        assert scope["method"] == "POST" and ["content-length", "1"] in scope["headers"]


async def test_a_handler_may_take_no_request(tmp_path: Path) -> None:
    async with data_path(tmp_path) as path:
        await path.serve("without_request")
        assert (await path.get("/any/path")).text == "no request"


async def test_connections_are_reused_after_every_kind_of_answer(kinds: DataPath) -> None:
    connection = await Connection.open(kinds.gateways.gateway.http_address)
    for name, status in (("text", 200), ("fails", 500), ("nothing", 204), ("bad-status", 500), ("large", 200)) * 3:
        connection.send(b"GET /%s HTTP/1.1\r\nhost: test\r\n\r\n" % name.encode())
        assert (await connection.answer())[0] == status
    await connection.close()


async def test_a_client_that_hangs_up_on_a_stream_while_it_uploads(kinds: DataPath) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        while True:
            yield bytes(10_000)
            await asyncio.sleep(0.01)

    task = asyncio.ensure_future(kinds.post("/mirror", content=slowly()))
    await kinds.until_running(1)
    await finish(task)
