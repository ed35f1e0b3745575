"""Runs a hosted ASGI application for HTTP calls and WebSockets.

Owns what ASGI promises an application and what its ends mean: a call's slot is free when the application returns, so
after its background tasks. Knows nothing of slots or of the wire: it gets `ServedCall`s and ends each exactly once.
Called by `replica`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import anyio
import anyio.to_thread

from mesh.lifecycle import Tasks
from mesh.pipe.served_call import ServedCall
from mesh.serving.asgi import AsgiApplication
from mesh.serving.current_request import Place
from mesh.telemetry import REPLICA_REQUESTS
from mesh.worker import current_call
from mesh.worker.handler import scope
from mesh.worker.http_exchange import HttpExchange
from mesh.worker.lifespan import Lifespan
from mesh.worker.raised import log_raised, text_of
from mesh.worker.websocket_exchange import WebSocketExchange, websocket_scope

LISTENER_S = 1.0
"""Seconds for an application that waits for `http.disconnect` to end by itself; any other is cancelled at once."""
Exchange: TypeAlias = HttpExchange | WebSocketExchange


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
        exchange: Exchange = WebSocketExchange(call) if call.head.websocket else HttpExchange(call)
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

    async def _serve(
        self, call: ServedCall, exchange: HttpExchange | WebSocketExchange, waits: anyio.CancelScope
    ) -> None:
        current_call.enter(call, self._place)
        try:
            if call.cancelled:  # before its first step
                raise asyncio.CancelledError
            described = websocket_scope(call) if call.head.websocket else scope(call)
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

    async def _raised(self, call: ServedCall, exchange: Exchange, error: BaseException) -> None:
        """End a call whose application raised: with what it answered, if it did."""
        cancelled = isinstance(error, asyncio.CancelledError) and (call.cancelled or self._closing)
        if cancelled:
            self._cancelled()
            call.done()
            return
        over = exchange.ended_by(error)
        text = "" if over else log_raised(call, error, "application")
        (self._cancelled if over else self._error)()
        try:
            await (exchange.finish() if over else exchange.fail(text, error))
        except Exception as cause:  # what it answered is nothing that can be sent
            call.fail(text_of(cause))
