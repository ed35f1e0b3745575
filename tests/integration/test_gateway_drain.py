"""What clients see of a gateway that ends: nothing, if they connect again when they are asked to."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from mesh.gateway import listening_sockets
from mesh.gateway.server import Gateway
from mesh.lifecycle import Tasks
from tests.support.data_path import Connection, DataPath, data_path, finish
from tests.support.gateways import until
from tests.support.native import WAIT_S, ask, native_path, stub_of

NEVER_S = 60.0
"""Longer than any test waits."""
GET = b"GET /?id=%d HTTP/1.1\r\nhost: test\r\n\r\n"


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[DataPath]:
    async with data_path(tmp_path) as path:
        yield path


@contextlib.contextmanager
def ending(gateway: Gateway) -> Iterator[asyncio.Task[None]]:
    """Tell a gateway to end; it goes on to end within the block."""
    task = Tasks().spawn(gateway.drain(), name="drain")
    try:
        yield task
    finally:
        task.cancel()


async def test_clients_that_keep_connections_lose_no_request(path: DataPath) -> None:
    """One that sends in the very moment in which its connection is closed sees that: nobody took its request."""
    await path.serve("brief", ongoing=8, queued=100)
    gateway = path.gateways.gateway
    seen: Counter[str] = Counter()

    async def client() -> None:
        """Send requests on one connection after the other, until there is nobody to connect to."""
        while True:
            try:
                connection = await Connection.open(gateway.http_address)
            except ConnectionRefusedError:
                return
            closes = False
            while not closes:
                connection.send(GET % 1)
                try:
                    status, headers, _ = await connection.answer()
                except (asyncio.IncompleteReadError, ConnectionResetError):
                    seen["cut"] += 1
                    break
                closes = headers.get("connection") == "close"
                seen[f"{status} {'close' if closes else 'stay'}"] += 1
            await connection.close()

    clients = [asyncio.ensure_future(client()) for _ in range(8)]
    await until(lambda: seen["200 stay"] > 100, f"they are served: {seen}")
    with ending(gateway) as draining:
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*clients)
            await draining
    unanswered = seen.pop("cut", 0)
    assert set(seen) == {"200 stay", "200 close"}, seen
    assert gateway._front.entered == seen.total(), f"what entered is answered; {unanswered} were not taken"
    assert unanswered <= len(clients)


async def test_idle_connections_are_closed_and_requests_that_run_or_wait_are_finished(path: DataPath) -> None:
    await path.serve("async_gated", ongoing=1)
    gateway = path.gateways.gateway
    idle, fresh = await Connection.open(gateway.http_address), await Connection.open(gateway.http_address)
    idle.send(GET % 0)
    assert (await idle.answer())[0] == 200
    tasks = [asyncio.ensure_future(path.get(f"/?id={i}&gate=go")) for i in range(3)]
    await path.until_running(1)
    await path.until_queued(2)
    with ending(gateway) as draining:
        assert await idle.ended() and await fresh.ended()
        with pytest.raises(ConnectionRefusedError):
            await Connection.open(gateway.http_address)
        assert gateway.not_ready() == "draining"
        assert not draining.done()
        path.open("go")
        assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200] * 3
        async with asyncio.timeout(WAIT_S):
            await draining
    assert path.gateways.gateway.pipeline._exchanges == 0


async def test_what_comes_within_the_delay_is_served_as_ever(tmp_path: Path) -> None:
    async with native_path(tmp_path, drain_delay_s=NEVER_S) as path:
        await path.serve("asynchronous", ongoing=4)
        with ending(path.gateways.gateway):
            await until(lambda: path.gateways.gateway.not_ready() == "draining", "it is not ready")
            assert (await path.stub.Unary(ask(id="late"), timeout=WAIT_S)).text == "late"
            answer = await path.get("/-/healthz")
            assert (answer.status_code, answer.headers.get("connection")) == (503, None)
            async with path.connect() as fresh:
                assert (await stub_of(fresh).Unary(ask(id="new"), timeout=WAIT_S)).text == "new"


async def test_streams_of_an_answer_are_finished(path: DataPath, tmp_path: Path) -> None:
    await path.serve("async_gated", ongoing=4)
    async with httpx.AsyncClient(http1=False, http2=True) as second:
        url = path.url("/?id=1&gate=go")
        clients = [asyncio.ensure_future(client.get(url, timeout=WAIT_S)) for client in (second, path.client)]
        await path.until_running(2)
        with ending(path.gateways.gateway) as draining:
            await until(lambda: path.gateways.gateway._front.last, "connections are about to be closed")
            path.open("go")
            answers = await asyncio.gather(*clients)
            assert [(a.status_code, a.http_version) for a in answers] == [(200, "HTTP/2"), (200, "HTTP/1.1")]
            # It hears that its connection ends, and closes it, only when it reads: it is waited for.
            await second.aclose()
            async with asyncio.timeout(WAIT_S):
                await draining


async def test_grpc_streams_go_on_to_their_end(tmp_path: Path) -> None:
    async with native_path(tmp_path) as path:
        await path.serve("asynchronous", ongoing=4)
        chat = path.stub.Chat(timeout=WAIT_S)
        await chat.write(ask(id="before"))
        assert (await chat.read()).text == "before"
        with ending(path.gateways.gateway) as draining:
            await until(lambda: path.gateways.gateway.not_ready() == "draining", "it is not ready")
            for i in range(3):
                await chat.write(ask(id=f"during {i}"))
                assert (await chat.read()).text == f"during {i}"
            assert not draining.done()
            await chat.done_writing()
            assert await chat.read() is grpc.aio.EOF
            assert await chat.code() is grpc.StatusCode.OK
            async with asyncio.timeout(WAIT_S):
                await draining


async def test_grpc_clients_with_another_gateway_lose_no_call(tmp_path: Path) -> None:
    async with native_path(tmp_path, gateways=2, grpc_connection_age_s=0.4) as path:
        await path.serve("asynchronous", ongoing=8, queued=100)
        first, second = path.gateways.gateways
        seen: Counter[str] = Counter()

        async def client() -> None:
            options = (("grpc.use_local_subchannel_pool", 1),)
            target = f"ipv4:{first.grpc_address},{second.grpc_address}"
            async with grpc.aio.insecure_channel(target, options=options) as channel:
                stub = stub_of(channel)
                while True:
                    try:
                        await stub.Unary(ask(id="x"), timeout=WAIT_S)
                        seen["OK"] += 1
                    except grpc.aio.AioRpcError as error:
                        seen[f"{error.code().name} {error.details()}"] += 1

        clients = [asyncio.ensure_future(client()) for _ in range(4)]
        await until(lambda: first.pipeline.entered > 50, f"calls come: {seen}")
        with ending(first) as draining:
            async with asyncio.timeout(WAIT_S):
                await draining
            before = second.pipeline.entered
            await until(lambda: second.pipeline.entered > before + 50, f"they have gone elsewhere: {seen}")
        for task in clients:
            await finish(task)
        assert set(seen) == {"OK"}, seen


async def test_an_answer_without_end_is_cut_off_in_time(tmp_path: Path) -> None:
    async with data_path(tmp_path, drain_timeout_s=1.0) as path:
        await path.serve("async_gated", ongoing=1)
        client = asyncio.ensure_future(path.get("/?id=1&gate=never"))
        await path.until_running(1)
        gateway = path.gateways.gateway
        async with asyncio.timeout(WAIT_S):
            await gateway.drain()
            await gateway.stop()
            assert (await client).status_code == 503
        await until(lambda: "cancelled 1" in path.events(), "the replica was told")


async def test_a_listener_that_is_shut_leaves_connections_alone() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert listening_sockets.shut(port) == 1
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"still there\n")
    assert await reader.readline() == b"still there\n"
    writer.close()
    assert listening_sockets.shut(port) == 0
    server.close()
