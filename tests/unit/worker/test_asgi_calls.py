"""What a hosted application answers or raises, and how each call ends exactly once, on a real `Callee`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse

from mesh.errors import BackPressureError
from mesh.pipe.callee import Callee
from mesh.pipe.socket_messages import BINARY, CLOSE, TEXT, SocketMessages, close_of, framed, framed_close
from mesh.serving import current_request
from mesh.serving.current_request import Place
from mesh.v1 import replica_service_pb2 as pb
from mesh.worker.asgi_calls import AsgiCalls
from mesh.worker.thread_limit import allow_threads
from mesh.worker.websocket_exchange import WebSocketExchange
from tests.support.pipes import ScriptedCaller, cancel, data, opened, turns


class Served:
    """An application, its slots and one caller."""

    def __init__(self, application: Any, *, limit: int = 4) -> None:
        self.calls = AsgiCalls(Place("default", "Test"), application)
        self.callee = Callee(limit, self.calls.serve)
        self.caller = ScriptedCaller(self.callee)

    async def send(self, *frames: pb.RequestFrame) -> None:
        await self.caller.send(*frames)

    async def over(self, number: int = 1) -> list[pb.ResponseFrame]:
        """Wait for the end of a call; return its frames."""
        await self.until(lambda: any(frame.done for frame in self.caller.of(number)))
        assert sum(frame.done for frame in self.caller.of(number)) == 1
        return self.caller.of(number)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)

    async def get(self, path: str, **fields: Any) -> list[pb.ResponseFrame]:
        await self.send(opened(1, path=path, http_version="1.1", scheme="http", **fields))
        return await self.over()

    def messages(self) -> list[tuple[int, bytes]]:
        """Return what was sent of a WebSocket so far."""
        reader, seen = SocketMessages(1 << 20), []
        reader.feed(self.caller.body(1))
        while (payload := reader.next()) is not None:
            seen.append((reader.flag, payload))
        return seen

    async def close(self) -> None:
        await self.caller.hang_up()
        await self.calls.close()
        await turns()
        assert self.callee.slots.ongoing == 0 and self.callee.slots.free == self.callee.slots.limit


Serve = Callable[..., Served]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    made: list[Served] = []

    def serve(application: Any, **options: Any) -> Served:
        made.append(Served(application, **options))
        return made[-1]

    yield serve
    for served in made:
        await served.close()


def failed(frames: list[pb.ResponseFrame]) -> pb.Failed:
    assert frames[-1].WhichOneof("kind") == "failed", frames
    return frames[-1].failed


def head(frames: list[pb.ResponseFrame]) -> pb.Head:
    return next(frame.head for frame in frames if frame.WhichOneof("kind") == "head")


OVERLOADED = BackPressureError("the child is full", retry_after_s=2.0, application="default", deployment="Child")


def raising(*, debug: bool = False) -> FastAPI:
    api = FastAPI(debug=debug)

    @api.middleware("http")
    async def through(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    @api.get("/child")
    async def child() -> None:
        raise OVERLOADED

    @api.get("/thread")
    def thread() -> None:
        raise OVERLOADED

    @api.get("/group")
    async def group() -> None:
        async with asyncio.TaskGroup() as calls:
            calls.create_task(child())
            calls.create_task(child())

    @api.get("/own")
    async def own() -> None:
        raise ValueError("the reason")

    return api


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("path", ["/child", "/thread", "/group"])
async def test_an_overload_that_nobody_handles_stays_one(serve: Serve, path: str, debug: bool) -> None:
    told = failed(await serve(raising(debug=debug)).get(path))
    assert (told.kind, told.deployment, told.retry_after_s) == (pb.FAILURE_KIND_OVERLOADED, "Child", 2.0)


async def test_what_else_is_raised_failed_without_an_answer(serve: Serve) -> None:
    told = failed(await serve(raising()).get("/own"))
    assert (told.kind, told.message) == (pb.FAILURE_KIND_HANDLER, "ValueError: the reason")


async def test_what_an_application_answers_to_its_own_errors_counts(serve: Serve) -> None:
    api = raising()

    @api.exception_handler(Exception)
    async def any_error(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"mine": True}, status_code=500)

    @api.exception_handler(BackPressureError)
    async def degrade(request: Request, error: BackPressureError) -> PlainTextResponse:
        return PlainTextResponse(f"without {error.deployment}")

    served = serve(api)
    assert head(await served.get("/own")).data == b'{"mine":true}'
    served.caller.frames.clear()
    await served.send(opened(2, path="/child", http_version="1.1", scheme="http"))
    await served.over(2)
    assert served.caller.body(2) == b"without Child"


async def test_an_answer_of_500_is_sent_when_the_application_returns(serve: Serve) -> None:
    go_on = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 300_000})
        await go_on.wait()

    served = serve(application)
    await served.send(opened(1))
    assert served.caller.body(1) == b""
    go_on.set()
    await served.over()
    assert len(served.caller.body(1)) == 300_000


@pytest.mark.parametrize("number", range(5))
async def test_what_is_no_whole_answer_failed(serve: Serve, number: int) -> None:
    start = {"type": "http.response.start", "status": 200}
    part = {"type": "http.response.body", "body": b"x", "more_body": True}
    sends: list[list[dict[str, Any]]] = [[], [start], [start, part], [part], [start, start]]

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in sends[number]:
            await send(message)

    told = failed(await serve(application).get("/"))
    assert "RuntimeError" in told.message


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "head",
    [
        {"status": 200, "headers": [("text", "text")]},
        {"status": 200, "headers": [(b"name", bytearray(b"value"))]},
        {"status": 200, "headers": [None]},
        {"status": "200"},
        {"status": 101},
        {"status": 10**12},
    ],
)
async def test_an_answer_that_cannot_be_sent_failed_and_its_slot_is_free(
    serve: Serve, head: dict[str, Any], whole: bool
) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", "body": b"x", "more_body": not whole})

    served = serve(application)
    failed(await served.get("/"))
    assert served.callee.slots.ongoing == 0


async def test_a_call_ends_also_when_the_end_of_its_application_cannot_be_told(serve: Serve) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        raise OSError

    served = serve(application)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WebSocketExchange, "finish", broken)
        patch.setattr(WebSocketExchange, "fail", broken)
        await served.send(opened(1, websocket=True))
        assert "broken" in failed(await served.over()).message
    assert served.callee.slots.ongoing == 0


async def broken(*_: object) -> None:
    raise RuntimeError("broken")


async def test_the_application_sees_its_call(serve: Serve) -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        request = current_request.current()
        assert request is not None
        seen.append((request.request_id, scope["root_path"], scope["path"], scope["state"]))
        seen.append(await receive())
        seen.append(await receive())
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})
        seen.append(await receive())

    served = serve(application)
    served.calls.lifespan.state["a"] = 1
    await served.send(opened(1, path="/p/x%20y", root_path="/p", request_id="id", data=b"one", end=False))
    await served.send(data(1, b"two", end=True))
    await served.over()
    assert seen == [
        ("id", "/p", "/p/x y", {"a": 1}),
        {"type": "http.request", "body": b"one", "more_body": True},
        {"type": "http.request", "body": b"two", "more_body": False},
        {"type": "http.disconnect"},
    ]


async def test_a_client_that_leaves_before_the_first_step(serve: Serve) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    served = serve(application)
    await served.send(opened(1, idempotent=True), cancel(1))
    assert served.caller.kinds(1)[-1] == "+done"


async def test_one_that_hears_of_it_is_cancelled_all_the_same_if_it_goes_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.worker.asgi_calls.LISTENER_S", 0.01)
    ends: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            assert (await receive())["type"] == "http.disconnect"
            ends.append("heard")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            await asyncio.sleep(0)
            ends.append("cleaned")
            raise

    served = serve(application)
    await served.send(opened(1))
    await served.send(cancel(1))
    await served.over()
    assert ends == ["heard", "cancelled", "cleaned"]


async def test_a_thread_is_waited_for(serve: Serve) -> None:
    api, running, go_on = FastAPI(), threading.Event(), threading.Event()

    @api.get("/")
    def endpoint() -> None:
        running.set()
        go_on.wait(10)

    served = serve(api)
    await served.send(opened(1, http_version="1.1", scheme="http"))
    await served.until(running.is_set)
    await served.send(cancel(1))
    await turns()
    assert served.callee.slots.ongoing == 1
    go_on.set()
    assert not any(frame.WhichOneof("kind") for frame in await served.over() if frame.done)


async def test_threads_for_all_slots() -> None:
    import anyio.to_thread

    allow_threads(3)
    limiter = anyio.to_thread.current_default_thread_limiter()
    assert limiter.total_tokens == 40
    allow_threads(90)
    assert limiter.total_tokens == 90
    allow_threads(50)
    assert limiter.total_tokens == 90, "what user code asked for is not taken away"


# WebSockets.


def socket(**fields: Any) -> pb.RequestFrame:
    return opened(1, path="/ws", end=False, websocket=True, scheme="ws", http_version="1.1", **fields)


def echoing() -> FastAPI:
    api = FastAPI()

    @api.websocket("/ws")
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            said = await websocket.receive_text()
            if said == "overload":
                raise OVERLOADED
            if said == "fail":
                raise ValueError
            if said == "return":
                return
            await websocket.send_text(said)

    return api


async def test_a_socket_from_handshake_to_close(serve: Serve) -> None:
    served = serve(echoing())
    await served.send(socket())
    await served.until(lambda: served.caller.of(1)[-1].WhichOneof("kind") == "head")
    assert head(served.caller.of(1)).status == 101
    await served.send(data(1, framed(TEXT, b"one")), data(1, framed(TEXT, b"two")[:3]))
    await served.send(data(1, framed(TEXT, b"two")[3:] + framed_close(1000), end=True))
    await served.over()
    # What came before the close may or may not have found somebody to read its answer, as with any server.
    assert [flag for flag, _ in served.messages()][-1] == CLOSE


@pytest.mark.parametrize(("word", "code"), [("overload", 1013), ("fail", 1011), ("return", 1000)])
async def test_how_an_application_ends_closes_its_socket(serve: Serve, word: str, code: int) -> None:
    served = serve(echoing())
    await served.send(socket())
    await served.send(data(1, framed(TEXT, word.encode())))
    await served.over()
    flag, payload = served.messages()[-1]
    assert flag == CLOSE and close_of(payload)[0] == code


async def test_messages_that_are_none_are_a_disconnect(serve: Serve) -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["subprotocols"] == ["a", "b"] and "method" not in scope
        seen.append(await receive())
        await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x-more", b"1")]})
        seen.append(await receive())
        seen.append(await receive())
        seen.append(await receive())
        with pytest.raises(OSError):
            await send({"type": "websocket.send", "text": "late"})

    served = serve(application)
    await served.send(socket(headers=[b"sec-websocket-protocol", b"a, b"]))
    await served.send(data(1, framed(BINARY, b"\xff") + framed(TEXT, b"\xff")))
    await served.over()
    assert seen[:2] == [{"type": "websocket.connect"}, {"type": "websocket.receive", "bytes": b"\xff"}]
    assert [message["type"] for message in seen[2:]] == ["websocket.disconnect"] * 2
    assert list(head(served.caller.of(1)).headers) == [b"x-more", b"1", b"sec-websocket-protocol", b"b"]


async def test_a_handshake_that_is_refused_or_left_open(serve: Serve) -> None:
    async def closes(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "code": 1008})

    async def returns(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def sends(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.send", "text": "early"})

    served = serve(closes)
    await served.send(socket())
    assert head(await served.over()).status == 403
    for wrong in (returns, sends):
        served = serve(wrong)
        await served.send(socket())
        assert "RuntimeError" in failed(await served.over()).message


async def test_a_client_that_is_lost_ends_who_does_not_listen(serve: Serve) -> None:
    ended = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    served = serve(application)
    await served.send(socket())
    await served.send(cancel(1))
    await served.over()
    assert ended.is_set()
