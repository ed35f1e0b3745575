"""WebSockets through the gateway to FastAPI in a real replica, with a real client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.data_path import DataPath, data_path
from tests.support.gateways import Routed, until
from tests.support.handlers import CHUNK

APPS = Path(__file__).parents[1] / "support" / "asgi_apps.py"
MESSAGE_BYTES_MAX = 1_000_000

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DataPath]:
    """One replica of the FastAPI application for all tests."""
    directory = tmp_path_factory.mktemp("api")
    async with data_path(directory, code=APPS, message_bytes_max=MESSAGE_BYTES_MAX) as path:
        await path.serve("asgi_api", ongoing=2, queued=1, prefix="/live")
        yield path


@pytest_asyncio.fixture(loop_scope="module")
async def api(served: DataPath) -> AsyncIterator[DataPath]:
    served.forget_events()
    yield served
    await served.until_free()


def opened(path: DataPath, target: str, **options: Any) -> connect:
    """Connect to a WebSocket of the application."""
    return connect(f"ws://{path.gateways.gateway.http_address}{target}", proxy=None, max_size=None, **options)


async def closed(socket: ClientConnection) -> tuple[int, str]:
    """Wait for the other side's close; return its code and reason."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await socket.recv()
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


async def refusal(path: DataPath, target: str, **options: Any) -> Any:
    """Return the answer to a handshake that is refused."""
    with pytest.raises(InvalidStatus) as caught:
        await opened(path, target, **options)
    return caught.value.response


async def test_text_and_bytes_travel_both_ways_in_order(api: DataPath) -> None:
    async with opened(api, "/live/echo?a=1", subprotocols=["one", "two"]) as socket:
        assert socket.subprotocol == "two"
        sent: list[str | bytes] = ["", "héllo", b"", b"\0\xff", "x" * 400_000, bytes(900_000), *map(str, range(200))]
        for message in sent:
            await socket.send(message)
        assert [await socket.recv() for _ in sent] == sent
        await socket.send("seen")
        seen = json.loads(await socket.recv())
        assert (seen["type"], seen["scheme"], seen["query_string"]) == ("websocket", "ws", "a=1")
        assert (seen["root_path"], seen["path"]) == ("/live", "/live/echo")
        assert "x-forwarded-for" in seen["names"] and "connection" not in seen["names"]


async def test_closes_travel_both_ways(api: DataPath) -> None:
    async with opened(api, "/live/echo") as socket:
        await socket.close(4005, "enough")
    await api.until_event("closed 4005")
    async with opened(api, "/live/echo") as socket:
        await socket.send("close")
        assert await closed(socket) == (4001, "bye")
    await api.until_event("after close")
    for word, code in (("raise", 1011), ("return", 1000)):
        async with opened(api, "/live/echo") as socket:
            await socket.send(word)
            found, reason = await closed(socket)
            assert found == code and "secret" not in reason
    assert "the secret reason" in api.replica.log


async def test_a_client_that_is_lost_is_told_to_the_application(api: DataPath) -> None:
    socket = await opened(api, "/live/echo")
    socket.transport.abort()
    await api.until_event("closed 1005")


async def test_a_disconnect_that_nobody_catches_is_no_failure(api: DataPath) -> None:
    logged = api.replica.log.count("application raised")
    async with opened(api, "/live/raises-disconnect"):
        await api.until_event("accepted")
    await api.until_free()
    assert api.replica.log.count("application raised") == logged


async def test_an_application_may_refuse_a_handshake(api: DataPath) -> None:
    assert (await refusal(api, "/live/refused?how=close")).status_code == 403
    answer = await refusal(api, "/live/refused?how=answer")
    assert (answer.status_code, answer.headers["x-why"], json.loads(answer.body)) == (401, "no", {"why": "no"})
    answer = await refusal(api, "/live/refused?how=raise", additional_headers={"x-request-id": "mine"})
    problem = json.loads(answer.body)
    assert (answer.status_code, problem["reason"], problem["request_id"]) == (500, "HANDLER_FAILED", "mine")
    assert (await refusal(api, "/live/nowhere")).status_code == 403
    answer = await refusal(api, "/elsewhere")
    assert (answer.status_code, json.loads(answer.body)["reason"]) == (404, "NO_SUCH_ROUTE")


async def test_the_timeout_bounds_the_handshake_and_not_the_socket(api: DataPath) -> None:
    headers = {"x-request-timeout-seconds": "0.2"}
    answer = await refusal(api, "/live/refused?how=wait", additional_headers=headers)
    assert (answer.status_code, json.loads(answer.body)["reason"]) == (504, "DEADLINE_EXCEEDED")
    async with opened(api, "/live/echo", additional_headers=headers) as socket:
        await asyncio.sleep(0.3)
        await socket.send("still")
        assert await socket.recv() == "still"


async def test_an_open_socket_holds_its_slot(api: DataPath) -> None:
    async with opened(api, "/live/echo"), opened(api, "/live/echo") as second:
        waits = asyncio.ensure_future(opened(api, "/live/echo").__aenter__())
        await api.until_queued(1)
        answer = await refusal(api, "/live/echo")
        problem = json.loads(answer.body)
        assert (answer.status_code, problem["reason"]) == (503, "OVERLOADED") and int(answer.headers["retry-after"])
        assert not waits.done()
        await second.close()
        third = await waits
        await third.send("in")
        assert await third.recv() == "in"
        await third.close()


async def test_a_message_that_is_too_large_closes_the_socket(api: DataPath) -> None:
    async with opened(api, "/live/echo") as socket:
        await socket.send(bytes(MESSAGE_BYTES_MAX + 1))
        assert (await closed(socket))[0] == 1009
    await api.until_event("closed 1009")


async def test_a_client_that_reads_slowly_holds_up_the_application(api: DataPath) -> None:
    async with opened(api, "/live/floods", max_queue=1) as socket:
        made = -1
        while made != len(api.events("made")):  # until it stands
            made = len(api.events("made"))
            await asyncio.sleep(0.3)
        assert made * len(CHUNK) < 64 * 1024 * 1024
        for number in range(made + 20):
            message = await socket.recv()
            assert isinstance(message, bytes) and int.from_bytes(message[:4], "big") == number
    await api.until_event("floods stop")


async def test_an_application_that_reads_slowly_holds_up_its_client(api: DataPath) -> None:
    async with opened(api, "/live/deaf?gate=hear", write_limit=1024) as socket:
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(100):
                await socket.send(bytes(600_000))
                sent += 1

        sending = asyncio.ensure_future(send())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 100
        api.open("hear")
        await sending
        assert json.loads(await socket.recv()) == 100


async def test_an_application_that_does_not_listen_is_cancelled_when_its_client_is_lost(api: DataPath) -> None:
    socket = await opened(api, "/live/deaf?gate=never")
    await api.until_event("deaf")
    socket.transport.abort()
    await api.until_event("deaf cancelled")


async def test_a_deployment_without_websockets_says_so(tmp_path: Path) -> None:
    async with data_path(tmp_path) as path:
        await path.serve("async_kinds")
        answer = await refusal(path, "/text")
        assert (answer.status_code, json.loads(answer.body)["reason"]) == (501, "NOT_SUPPORTED")
        answer = await refusal(path, "/-/docs")
        assert answer.status_code == 404


async def test_a_replica_that_drains_lets_its_sockets_be_until_its_time_is_over(tmp_path: Path) -> None:
    async with data_path(tmp_path, code=APPS) as path:
        replica = await path.replica_of("asgi_api", graceful_shutdown_timeout_s=1.0)
        await path.gateways.publish(Routed(endpoints=((replica.replica_id, replica.address),)))
        async with opened(path, "/echo") as socket:
            replica.terminate()
            await socket.send("still")
            assert await socket.recv() == "still"
            assert (await closed(socket))[0] == 1012
        assert await replica.ended() == 0
        assert path.events()[-1] == "shutdown"


async def test_a_replica_that_is_lost_or_a_gateway_that_ends_closes_its_sockets(tmp_path: Path) -> None:
    async with data_path(tmp_path, code=APPS, drain_timeout_s=3.0) as path:
        first = await path.replica_of("asgi_api")
        second = await path.replica_of("asgi_api")

        async def route_to(replica: Any) -> None:
            await path.gateways.publish(Routed(endpoints=((replica.replica_id, replica.address),)))

        await route_to(first)
        async with opened(path, "/echo") as socket:
            await first.kill()
            assert (await closed(socket))[0] == 1012
        await route_to(second)
        async with opened(path, "/echo") as socket:
            draining = asyncio.ensure_future(path.gateways.gateway.drain())
            await until(lambda: path.gateways.gateway.pipeline.draining, "it drains")
            await socket.send("still")
            assert await socket.recv() == "still"
            assert (await closed(socket))[0] == 1001
            await draining
        await until(lambda: path.events("closed ") == ["1006"], "the application is told")
