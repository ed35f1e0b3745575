"""The lifespan of a hosted ASGI application: its startup before the replica is ready, its shutdown after the drain.

Owns the lifespan's task and the state that it leaves for requests. What the application raises at startup is a start
that failed. Called by `replica`, by way of `asgi_calls`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from mesh.errors import UserCodeError
from mesh.lifecycle import Tasks
from mesh.serving.asgi import AsgiApplication
from mesh.worker.failures import one_line
from mesh.worker.raised import text_of, traceback_of
from mesh.worker.user_code import user_error

LAST_WORDS_S = 1.0
"""Seconds for an application that said it failed to raise what it failed with."""
ASGI = {"version": "3.0", "spec_version": "2.4"}

log = logging.getLogger("mesh.replica")


class Lifespan:
    """One application's lifespan. An application that knows of none is served without."""

    def __init__(self, application: AsgiApplication) -> None:
        self.state: dict[str, Any] = {}
        """What it keeps for its requests; each gets a copy of its own."""
        self._application = application
        self._tasks = Tasks()
        self._orders: asyncio.Queue[str] = asyncio.Queue()
        self._asked = False
        """It takes part: it asked what to do."""
        self._answer: asyncio.Future[str | None] | None = None
        """What it says to the order that it has: how that failed, or None."""
        self._running: asyncio.Task[BaseException | None] | None = None

    async def start(self) -> None:
        """Run its startup; cancel it if that fails or is cancelled. Raises UserCodeError if it failed."""
        self._running = self._tasks.spawn(self._run(), name="lifespan")
        try:
            await self._start(self._running)
        except BaseException:
            await self._tasks.cancel()
            raise

    async def _start(self, running: asyncio.Task[BaseException | None]) -> None:
        failure = await self._order("lifespan.startup")
        if not running.done() and failure is not None:
            await asyncio.wait((running,), timeout=LAST_WORDS_S)
        raised = self._raised()
        if raised is not None and (self._asked or failure is not None):
            raise user_error(raised) from None
        if failure is not None:
            last = failure.strip().rpartition("\n")[2]
            raise UserCodeError(f"startup failed: {one_line(last)[:400]}", traceback=failure)

    async def stop(self) -> None:
        """Run its shutdown; cancel it when this is cancelled."""
        if self._running is None:
            return
        try:
            if not self._running.done() and self._asked:
                failure = await self._order("lifespan.shutdown")
                if failure is not None:
                    log.error("shutdown failed: %s", one_line(failure)[:400])
                await asyncio.wait((self._running,))
            if self._asked and (error := self._raised()) is not None:
                log.error("lifespan raised: %s", text_of(error), extra={"traceback": traceback_of(error)})
        finally:
            await self._tasks.cancel()

    async def _order(self, order: str) -> str | None:
        """Give an order and wait for its end. Return how it failed; None if it did not."""
        assert self._running is not None
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._answer = answer
        self._orders.put_nowait(order)
        await asyncio.wait((answer, self._running), return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None

    def _raised(self) -> BaseException | None:
        ended = self._running is not None and self._running.done() and not self._running.cancelled()
        return self._running.result() if ended and self._running is not None else None

    async def _run(self) -> BaseException | None:
        """Call the application. Return what it raised."""
        scope = {"type": "lifespan", "asgi": dict(ASGI), "state": self.state}
        try:
            await self._application(scope, self._receive, self._send)
        except (Exception, SystemExit) as error:
            return error
        return None

    async def _receive(self) -> dict[str, str]:
        self._asked = True
        return {"type": await self._orders.get()}

    async def _send(self, message: Any) -> None:
        answer, kind = self._answer, message["type"]
        if answer is None or answer.done():
            return
        if kind.endswith(".complete"):
            answer.set_result(None)
        elif kind.endswith(".failed"):
            answer.set_result(str(message.get("message", "")) or kind)
