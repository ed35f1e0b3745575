"""Runs a hosted ASGI application for HTTP calls.

Owns what ASGI promises an application and what its ends mean: a call's slot is free when the application returns, so
after its background tasks. Knows nothing of slots or of the wire: it gets `ServedCall`s and ends each exactly once.
Called by `replica`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import anyio.to_thread
from starlette.types import Message

from mesh.lifecycle import Tasks
from mesh.pipe.served_call import ServedCall
from mesh.serving.asgi import AsgiApplication
from mesh.serving.current_request import Place
from mesh.telemetry import REPLICA_REQUESTS
from mesh.worker import current_call
from mesh.worker.handler import LEFT, Gone, answer_headers, scope
from mesh.worker.lifespan import Lifespan
from mesh.worker.raised import log_raised, text_of

LISTENER_S = 1.0
"""Seconds for an application that waits for `http.disconnect` to end by itself; any other is cancelled at once."""
_THREADS_MIN = 40
"""What anyio starts with."""
_STOCK_500 = b"Internal Server Error"
"""Starlette's words for what raised. mesh's own say more: the request id, and which deployment was overloaded."""


def allow_threads(count: int) -> None:
    """Let as many sync endpoints run at once: Starlette runs them in threads, of which anyio allows 40."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = max(limiter.total_tokens, _THREADS_MIN, count)


class AsgiCalls:
    """Calls one ASGI application."""

    def __init__(self, place: Place, hosted: AsgiApplication) -> None:
        self.lifespan = Lifespan(hosted)
        self._hosted = hosted
        self._tasks = Tasks()
        self._threads = anyio.to_thread.current_default_thread_limiter()
        self._loop = asyncio.get_running_loop()
        self._closing = False
        labels = (place.application, place.deployment)
        self._place = place
        self._ok = REPLICA_REQUESTS.labels(*labels, "ok").inc
        self._error = REPLICA_REQUESTS.labels(*labels, "error").inc
        self._cancelled = REPLICA_REQUESTS.labels(*labels, "cancelled").inc

    def serve(self, call: ServedCall) -> Callable[[], object]:
        """Start `call` and return what cancels it."""
        exchange = HttpExchange(call)
        waits = anyio.CancelScope()
        task = self._tasks.spawn(self._serve(call, exchange, waits), name="call")

        def cancel() -> None:
            exchange.client_left()
            if exchange.listens:
                self._loop.call_later(LISTENER_S, self._stop, task, waits)
            else:
                self._stop(task, waits)

        return cancel

    async def close(self) -> None:
        """Cancel what runs. Threads of sync endpoints are left to end by themselves."""
        self._closing = True
        await self._tasks.cancel()

    def _stop(self, task: asyncio.Task[None], waits: anyio.CancelScope) -> None:
        """Cancel an application's task; one whose sync code runs in a thread when that has returned.

        anyio's own cancellation knows of threads, but goes on until the application has ended: code that awaits
        something when it is cancelled, to clean up, would not come to its end.
        """
        if task in self._threads.statistics().borrowers:
            waits.cancel()
        else:
            task.cancel()

    async def _serve(self, call: ServedCall, exchange: HttpExchange, waits: anyio.CancelScope) -> None:
        current_call.enter(call, self._place)
        try:
            if call.cancelled:  # before its first step
                raise asyncio.CancelledError
            described = scope(call)
            described["state"] = self.lifespan.state.copy()
            with waits:
                await self._hosted(described, exchange.receive, exchange.send)
            if waits.cancelled_caught:
                raise asyncio.CancelledError
            await exchange.finish()
            self._ok()
        except BaseException as error:  # none of it may leave the event loop, nor keep the slot
            await self._raised(call, exchange, error)
        finally:
            exchange.close()

    async def _raised(self, call: ServedCall, exchange: HttpExchange, error: BaseException) -> None:
        """End a call whose application raised: with what it answered, if it did."""
        cancelled = isinstance(error, asyncio.CancelledError) and (call.cancelled or self._closing)
        if cancelled or (call.cancelled and isinstance(error, LEFT)):
            self._cancelled()
            call.done()
            return
        self._error()
        text = log_raised(call, error, "application")
        if not exchange.answered:
            call.fail(text, error)
            return
        try:
            await exchange.finish()
        except ValueError as cause:  # headers that are too large
            call.fail(text_of(cause))


class HttpExchange:
    """One call as ASGI's `receive` and `send` see it."""

    def __init__(self, call: ServedCall) -> None:
        self._call = call
        self._read_all = False
        self._left = asyncio.Event()
        self._listeners = 0
        self._told = False
        """It was told that its client is gone."""
        self._started = self._complete = False
        self._held: tuple[list[bytes], bytes] | None = None
        """A whole answer of status 500, kept until it is known whether it tells of something that was raised."""
        self._held_head: list[bytes] | None = None

    @property
    def answered(self) -> bool:
        """Whether the application gave a whole answer of its own."""
        if self._held is not None:
            return self._held[1] != _STOCK_500
        return self._complete

    @property
    def listens(self) -> bool:
        """Whether the application hears that its client is gone."""
        return self._told or self._listeners > 0

    def client_left(self) -> None:
        """Tell the application that its client is gone."""
        self._left.set()

    def close(self) -> None:
        """Nothing more will be sent: whoever still listens hears of it."""
        self._left.set()

    async def receive(self) -> Message:
        """Return the next of the body, then wait for the end of the exchange."""
        if not self._read_all and not self._left.is_set():
            try:
                data = await self._read()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                # The call's body ends in this error when the client leaves; a task that is cancelled is another matter.
                if not self._call.cancelled or (task is not None and task.cancelling()):
                    raise
                self._told = True
            else:
                body = self._call.body
                self._read_all = body.ended and not body.pending
                return {"type": "http.request", "body": data, "more_body": not self._read_all}
        await self._listen()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send of the answer as its reader takes it. Raises OSError once nobody reads."""
        kind = message["type"]
        if kind == "http.response.start":
            if self._started:
                raise RuntimeError("the application started its answer twice")
            self._started = True
            headers = answer_headers(message.get("headers", ()))
            if message["status"] == 500:
                self._held_head = headers
            else:
                self._call.start(message["status"], headers)
        elif kind == "http.response.body":
            if not self._started:
                raise RuntimeError("the application sent a body before it started its answer")
            if not self._complete:
                await self._send_body(bytes(message.get("body", b"")), more=bool(message.get("more_body", False)))

    async def finish(self) -> None:
        """End the call with what the application answered. Raises RuntimeError if that is no whole answer."""
        if self._held is not None:
            headers, body = self._held
            self._held = None
            if self._call.answer(500, headers, body):
                return
            self._call.start(500, headers)
            await self._call.write(body, end=True)
        elif not self._complete and not self._call.cancelled:
            raise RuntimeError("the application returned without a whole answer")
        self._call.done()

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        if self._held_head is not None:
            if not more:
                self._held, self._complete = (self._held_head, data), True
                return
            self._call.start(500, self._held_head)
            self._held_head = None
        self._complete = not more
        sent = await self._call.write(data, end=not more)
        if self._complete:
            self._left.set()
        elif not sent:
            raise Gone("the client went away")

    async def _read(self) -> bytes:
        self._listeners += 1
        try:
            return await self._call.read()
        finally:
            self._listeners -= 1

    async def _listen(self) -> None:
        self._listeners += 1
        try:
            await self._left.wait()
        finally:
            self._listeners -= 1
