"""What a handler returns or raises, and how each call ends exactly once, on a real `Callee` without a network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from mesh.pipe import served_call
from mesh.pipe.callee import Callee
from mesh.pipe.codec import JOINED_PIECES
from mesh.pipe.flow import CHARGE_MIN, CHUNK_BYTES, WHOLE_BYTES, WINDOW_BYTES
from mesh.serving.current_request import Place
from mesh.serving.threads import Threads
from mesh.worker import current_call
from mesh.worker.handler import Handler
from tests.support.pipes import ScriptedCaller, cancel, credit, data, opened, turns

pytestmark = pytest.mark.filterwarnings("error")


class Served:
    """A handler, its slots and one caller."""

    def __init__(self, target: Callable[..., Any], *, limit: int = 4) -> None:
        self.threads = Threads(limit)
        self.handler = Handler(Place("default", "Test"), target, self.threads)
        self.callee = Callee(limit, self.handler.serve)
        self.caller = ScriptedCaller(self.callee)

    async def call(self, number: int = 1, **fields: Any) -> Any:
        """Make a call, wait for its end, return its head."""
        await self.caller.send(opened(number, **fields))
        return await self.over(number)

    async def over(self, number: int = 1) -> Any:
        """Wait for the end of a call; return its Head, or its last frame if it has none."""
        async with asyncio.timeout(10):
            while not any(frame.done for frame in self.caller.of(number)):
                await asyncio.sleep(0.001)
        assert sum(frame.done for frame in self.caller.of(number)) == 1
        heads = [frame.head for frame in self.caller.of(number) if frame.WhichOneof("kind") == "head"]
        return heads[0] if heads else self.caller.of(number)[-1]

    async def close(self) -> None:
        await self.caller.hang_up()
        await self.handler.close()
        await turns()
        assert self.callee.slots.ongoing == 0 and self.callee.slots.free == self.callee.slots.limit


Serve = Callable[..., Served]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    made: list[Served] = []

    def serve(target: Callable[..., Any], **options: Any) -> Served:
        made.append(Served(target, **options))
        return made[-1]

    yield serve
    for served in made:
        await served.close()


def both(value: Callable[[], Any]) -> list[Any]:
    """The same handler as sync and as async code."""

    async def asynchronous(request: Request) -> Any:
        return value()

    def synchronous(request: Request) -> Any:
        return value()

    return [asynchronous, synchronous]


PLAIN: list[tuple[Callable[[], Any], int, bytes, bytes]] = [
    (lambda: "hé", 200, b"text/plain; charset=utf-8", "hé".encode()),
    (lambda: b"\x00", 200, b"application/octet-stream", b"\x00"),
    (lambda: {"a": [1, "ü"]}, 200, b"application/json", '{"a":[1,"ü"]}'.encode()),
    (lambda: [1, None], 200, b"application/json", b"[1,null]"),
    (lambda: None, 204, b"", b""),
    (lambda: JSONResponse({"a": 1}, status_code=201), 201, b"application/json", b'{"a":1}'),
    (lambda: "", 200, b"text/plain; charset=utf-8", b""),
]


@pytest.mark.parametrize(("value", "status", "kind", "body"), PLAIN)
@pytest.mark.parametrize("way", [0, 1], ids=["async", "sync"])
async def test_plain_values_are_one_frame(
    serve: Serve, value: Callable[[], Any], status: int, kind: bytes, body: bytes, way: int
) -> None:
    served = serve(both(value)[way])
    head = await served.call()
    headers = dict(zip(head.headers[::2], head.headers[1::2], strict=True))
    assert (head.status, headers.get(b"content-type", b""), head.data, head.end) == (status, kind, body, True)
    assert headers.get(b"content-length") == (None if status == 204 else b"%d" % len(body))
    assert served.caller.kinds(1)[-1] == "head+done"


@pytest.mark.parametrize("way", [0, 1], ids=["async", "sync"])
async def test_a_large_answer_travels_in_chunks(serve: Serve, way: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_call, "WHOLE_BYTES", CHUNK_BYTES)
    text = "x" * (CHUNK_BYTES + 1000)
    served = serve(both(lambda: {"text": text})[way])
    head = await served.call()
    assert head.status == 200 and not head.end
    assert json.loads(served.caller.body(1)) == {"text": text}
    assert all(len(frame.data.data) <= CHUNK_BYTES for frame in served.caller.of(1))


@pytest.mark.parametrize("way", [0, 1], ids=["async", "sync"])
async def test_an_answer_that_is_at_hand_is_one_frame_and_waits_for_no_credit(serve: Serve, way: int) -> None:
    text = "x" * (WHOLE_BYTES - 20)
    served = serve(both(lambda: {"text": text})[way])
    head = await served.call()
    assert head.end and json.loads(head.data) == {"text": text}
    assert served.caller.kinds(1)[-1] == "head+done"


@pytest.mark.parametrize("way", [0, 1], ids=["async", "sync"])
@pytest.mark.parametrize(
    "value",
    [
        lambda: object(),
        lambda: 3,
        lambda: {"a": object()},
        lambda: [float("nan")],
        lambda: "\ud800",
        lambda: [].pop(),
        lambda: sys.exit(2),
    ],
    ids=["object", "int", "not JSON", "NaN", "surrogate", "IndexError", "SystemExit"],
)
async def test_what_cannot_be_answered_fails_the_call_alone(
    serve: Serve, value: Callable[[], Any], way: int, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve(both(value)[way])
    with caplog.at_level(logging.ERROR):
        frame = await served.call(request_id="rid")
    assert frame.WhichOneof("kind") == "failed" and "Traceback" not in frame.failed.message
    assert [record.__dict__["request_id"] for record in caplog.records] == ["rid"]
    assert await served.call(2)


async def test_a_sync_handler_may_raise_stop_iteration(serve: Serve) -> None:
    def handler() -> Any:
        return next(iter(()))

    frame = await serve(handler).call()
    assert frame.failed.message.startswith("StopIteration")


async def test_a_head_that_makes_no_request_fails_the_call(serve: Serve) -> None:
    for handler in both(lambda: "never"):
        frame = await serve(handler).call(headers=[b"odd"])
        assert frame.WhichOneof("kind") == "failed"


async def test_handlers_without_parameters_get_no_request(serve: Serve) -> None:
    assert (await serve(lambda: "plain").call()).data == b"plain"


async def test_the_request_is_what_the_client_sent(serve: Serve) -> None:
    async def handler(request: Request) -> Any:
        return {
            "method": request.method,
            "path": request.url.path,
            "query": request.query_params["q"],
            "header": request.headers["x-a"],
            "body": (await request.body()).decode(),
            "client": [request.client.host, request.client.port] if request.client else None,
            "root": request.scope["root_path"],
            "gone": await request.is_disconnected(),
        }

    served = serve(handler)
    head = await served.call(
        method="PUT",
        path="/pre/%C3%BC%2F",
        query=b"q=1",
        root_path="/pre",
        headers=[b"host", b"h", b"x-a", b"1"],
        data=b"body",
        client="::1:50",
        scheme="http",
        http_version="1.1",
    )
    assert json.loads(head.data) == {
        "method": "PUT",
        "path": "/pre/ü/",
        "query": "1",
        "header": "1",
        "body": "body",
        "client": ["::1", 50],
        "root": "/pre",
        "gone": False,
    }


async def test_a_body_that_streams_in_is_credited(serve: Serve) -> None:
    async def handler(request: Request) -> Any:
        return {"size": sum([len(chunk) async for chunk in request.stream()])}

    served = serve(handler)
    await served.caller.send(opened(1, method="POST", end=False))
    chunks = 2 * WINDOW_BYTES // CHUNK_BYTES
    for i in range(chunks):
        await served.caller.send(data(1, bytes(CHUNK_BYTES), end=i == chunks - 1))
    head = await served.over()
    assert json.loads(head.data) == {"size": 2 * WINDOW_BYTES}
    credited = sum(frame.window.bytes for frame in served.caller.of(1))
    assert WINDOW_BYTES <= credited <= 2 * WINDOW_BYTES


async def test_a_sender_that_overruns_its_window_is_cancelled(serve: Serve) -> None:
    async def handler(request: Request) -> Any:
        await asyncio.Event().wait()

    served = serve(handler)
    await served.caller.send(opened(1, method="POST", end=False))
    await served.caller.send(*(data(1, bytes(CHUNK_BYTES)) for _ in range(WINDOW_BYTES // CHUNK_BYTES + 1)))
    await served.over()


async def test_generators_stream_by_the_readers_pace_and_stop_with_it(serve: Serve) -> None:
    sent: list[int] = []
    stopped = asyncio.Event()

    async def handler(request: Request) -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    sent.append(1)
                    yield bytes(CHUNK_BYTES)
            finally:
                stopped.set()

        return chunks()

    served = serve(handler)
    await served.caller.send(opened(1))
    await turns(50)
    window = WINDOW_BYTES // CHUNK_BYTES
    assert len(sent) == window + 1, "one chunk more than the window waits for credit"
    await served.caller.send(credit(1, CHUNK_BYTES))
    assert len(served.caller.body(1)) == WINDOW_BYTES + CHUNK_BYTES
    await served.caller.send(cancel(1))
    await served.over()
    assert stopped.is_set()


async def test_small_pieces_go_in_one_frame_with_the_end(serve: Serve) -> None:
    async def handler(request: Request) -> Any:
        async def pieces() -> AsyncIterator[str]:
            for number in range(50):
                yield f"{number};"

        return pieces()

    served = serve(handler)
    await served.call()
    assert served.caller.kinds(1) == ["head", "data+done"]
    assert served.caller.body(1) == b"".join(b"%d;" % number for number in range(50))


async def test_a_piece_leaves_before_the_next_is_made(serve: Serve) -> None:
    more = asyncio.Event()

    async def handler(request: Request) -> Any:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"first"
            await more.wait()
            yield b"second"

        return pieces()

    served = serve(handler)
    await served.caller.send(opened(1))
    assert served.caller.body(1) == b"first"
    more.set()
    await served.over(1)
    assert served.caller.kinds(1) == ["head", "data", "data+done"]


async def test_a_generator_that_never_waits_holds_up_nobody(serve: Serve) -> None:
    async def handler(request: Request) -> Any:
        if request.url.path == "/short":
            return "short"

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x"

        return endless()

    served = serve(handler)
    await served.caller.send(opened(1))
    assert (await served.call(2, path="/short")).data == b"short"
    assert len(served.caller.body(1)) <= WINDOW_BYTES // CHARGE_MIN * (1 + JOINED_PIECES)
    await served.caller.send(cancel(1))
    await served.over(1)


@pytest.mark.parametrize("chunk", [3, {"a": 1}, None])
async def test_a_generator_yields_text_or_bytes(serve: Serve, chunk: Any) -> None:
    async def handler() -> Any:
        async def chunks() -> AsyncIterator[Any]:
            yield chunk

        return chunks()

    frame = await serve(handler).call()
    assert "yields str or bytes" in frame.failed.message


async def test_sync_generators_and_empty_ones(serve: Serve) -> None:
    def words() -> Any:
        return (word for word in ("a ", "b"))

    def nothing() -> Any:
        return (word for word in list[str]())

    served = serve(words)
    assert (await served.call()).headers[1].startswith(b"text/plain") and served.caller.body(1) == b"a b"
    served = serve(nothing)
    assert (await served.call()).status == 200 and served.caller.body(1) == b""


async def test_a_generator_that_fails_late_ends_the_call_as_failed(serve: Serve) -> None:
    async def handler() -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            raise ValueError("late")

        return chunks()

    served = serve(handler)
    await served.call()
    assert served.caller.kinds(1)[-3:] == ["head", "data", "failed+done"]


async def test_responses_of_their_own_kind_send_themselves(serve: Serve) -> None:
    class Own(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("own", status_code=203)(scope, receive, send)

    async def streaming() -> Any:
        return StreamingResponse(iter([b"a", b"b"]))

    served = serve(lambda: Own(b"not this"))
    assert (await served.call()).status == 203 and served.caller.body(1) == b"own"
    served = serve(streaming)
    assert (await served.call()).status == 200 and served.caller.body(1) == b"ab"


@pytest.mark.parametrize("kind", [Response, StreamingResponse])
async def test_headers_go_in_lower_case_and_those_that_connection_names_stay(serve: Serve, kind: Any) -> None:
    async def handler() -> Any:
        answer = kind(b"x" if kind is Response else iter([b"x"]))
        given = ("X-Kept", "X-One", "Connection", "x-two", "CONNECTION", "close")
        values = ("1", "2", "close, X-One", "3", " X-TWO ,", "kept? no")
        answer.raw_headers[:] = [(n.encode(), v.encode()) for n, v in zip(given, values, strict=True)]
        return answer

    served = serve(handler)
    assert list((await served.call()).headers) == [b"x-kept", b"1"]


async def test_a_background_task_runs_after_the_answer_and_holds_the_slot(serve: Serve) -> None:
    go, ran = asyncio.Event(), asyncio.Event()

    async def later() -> None:
        await go.wait()
        ran.set()

    async def handler() -> Any:
        return PlainTextResponse("now", background=BackgroundTask(later))

    served = serve(handler)
    await served.caller.send(opened(1))
    assert served.caller.body(1) == b"now" and served.callee.slots.ongoing == 1
    go.set()
    await served.over()
    assert ran.is_set()


async def test_an_async_handler_is_cancelled_with_its_call(serve: Serve) -> None:
    seen: list[str] = []

    async def handler(request: Request) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    served = serve(handler)
    await served.caller.send(opened(1))
    await served.caller.send(cancel(1), cancel(1))
    await served.over()
    assert seen == ["cancelled"]


async def test_a_response_that_streams_to_a_client_that_left_is_no_failure(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Its `send` raises, and Starlette raises another error because of that."""
    let_go = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        with contextlib.suppress(asyncio.CancelledError):
            await let_go.wait()
        yield b"second"

    served = serve(lambda request: StreamingResponse(chunks()), limit=1)
    await served.caller.send(opened(1))
    await served.caller.send(cancel(1))
    await served.over()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert served.caller.kinds(1)[-1] == "+done"


async def test_a_call_cancelled_in_the_message_that_opened_it_never_runs_and_frees_its_slot(serve: Serve) -> None:
    ran: list[int] = []

    async def handler(request: Request) -> Any:
        ran.append(1)

    served = serve(handler, limit=1)
    for number in range(1, 20):
        await served.caller.send(opened(number), cancel(number))
        await served.over(number)
    assert ran == []


async def test_a_call_that_must_not_run_twice_starts_once_its_acceptance_is_written(serve: Serve) -> None:
    ran: list[str] = []

    async def handler(request: Request) -> Any:
        ran.append(request.method)
        return {}

    served = serve(handler)
    served.caller.hold()
    await served.caller.send(opened(1, method="POST"), opened(2, method="GET"), opened(3, method="POST"))
    assert ran == ["GET"] and served.callee.slots.ongoing == 2
    await served.caller.send(cancel(3))
    served.caller.let_go()
    for number in (1, 2, 3):
        await served.over(number)
    assert ran == ["GET", "POST"] and served.caller.kinds(1) == ["accepted", "head+done"]
    assert served.callee.slots.ongoing == 0


async def test_a_pipe_that_ends_before_it_wrote_an_acceptance_runs_nothing(serve: Serve) -> None:
    ran: list[int] = []

    async def handler(request: Request) -> Any:
        ran.append(1)

    served = serve(handler, limit=1)
    served.caller.hold()
    await served.caller.send(opened(1, method="POST"))
    await served.caller.hang_up()
    await turns()
    assert not ran and served.callee.slots.ongoing == 0


async def test_a_pipe_that_ends_right_after_an_open_frees_the_slot(serve: Serve) -> None:
    async def handler(request: Request) -> Any:
        await asyncio.Event().wait()

    served = serve(handler, limit=1)
    other = ScriptedCaller(served.callee)
    await turns()
    other._requests.put_nowait(type("Message", (), {"frames": [opened(1)]}))
    await other.hang_up()
    await turns()
    assert served.callee.slots.ongoing == 0


async def test_a_handler_that_does_not_mind_cancellation_keeps_its_slot_until_it_ends(serve: Serve) -> None:
    go = asyncio.Event()

    async def handler(request: Request) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await go.wait()
        return "at last"

    served = serve(handler, limit=1)
    await served.caller.send(opened(1))
    await served.caller.send(cancel(1))
    assert served.callee.slots.ongoing == 1
    go.set()
    await served.over()
    assert served.callee.slots.ongoing == 0


async def test_a_sync_handler_keeps_its_slot_until_its_thread_returns(serve: Serve) -> None:
    go = threading.Event()

    def handler(request: Request) -> Any:
        go.wait(10)
        return "too late"

    served = serve(handler, limit=1)
    await served.caller.send(opened(1))
    await served.caller.send(cancel(1), opened(2))
    assert served.callee.slots.ongoing == 1
    assert served.caller.of(2)[0].rejected.refusal
    go.set()
    await served.over()
    assert served.caller.kinds(1)[-1] == "+done", "nobody is answered"
    assert [frame.WhichOneof("kind") for frame in served.caller.of(0)] == ["offer"]


async def test_as_many_sync_calls_run_at_once_as_there_are_slots_also_after_a_change(serve: Serve) -> None:
    together = threading.Barrier(3)

    def handler(request: Request) -> Any:
        together.wait(10)

    served = serve(handler, limit=1)
    served.threads.resize(3)
    served.callee.resize(3)
    await served.caller.send(opened(1), opened(2), opened(3))
    for number in (1, 2, 3):
        assert (await served.over(number)).status == 204


# What the code that runs says of its call.


async def test_code_knows_for_which_call_it_logs_and_no_other_code_does(serve: Serve) -> None:
    said: list[tuple[str, Mapping[str, str]]] = []

    async def asynchronous(request: Request) -> str:
        said.append(("async", current_call.fields()))
        return ""

    def synchronous(request: Request) -> Any:
        said.append(("sync", current_call.fields()))

        def chunks() -> Any:
            said.append(("chunk", current_call.fields()))
            yield "x"

        return chunks()

    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    head: dict[str, Any] = {"request_id": "r1", "headers": [b"accept", b"*/*", b"traceparent", parent]}
    await serve(asynchronous).call(**head)
    await serve(synchronous).call(**head)
    expected = {"request_id": "r1", "trace_id": "0af7651916cd43dd8448eb211c80319c"}
    assert said == [(kind, expected) for kind in ("async", "sync", "chunk")]
    assert current_call.fields() == {}


async def test_a_task_that_outlives_its_call_still_logs_for_it(serve: Serve) -> None:
    go_on, fields = asyncio.Event(), []
    tasks = []

    async def later() -> None:
        await go_on.wait()
        fields.append(current_call.fields())

    async def handler(request: Request) -> str:
        tasks.append(asyncio.ensure_future(later()))
        return ""

    await serve(handler).call(request_id="r1")
    go_on.set()
    await asyncio.gather(*tasks)
    assert fields[0]["request_id"] == "r1"
