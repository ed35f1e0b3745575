"""Server-sent events: `sse` makes an answer of a generator, one event for each item.

Owns the form of events (the WHATWG's HTML standard, 9.2) and when the answer begins. Called by user code, in plain
handlers and in ASGI applications alike.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.background import BackgroundTask
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mesh.lifecycle import Tasks

_PING = b": ping\n\n"
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
_AHEAD = 1
"""Events that wait while one is written: the generator is no further ahead of its reader's window."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event with more than data. `data` is text as it is, anything else as JSON."""

    data: Any
    event: str = ""
    """Its type; a page listens for it by that name. "": "message"."""
    id: str = ""
    """What the page sends as Last-Event-ID when it connects again."""
    retry_ms: int | None = None
    """Milliseconds after which the page is to connect again."""


def sse(
    items: AsyncIterable[Any] | Iterable[Any],
    *,
    ping_s: float = 15.0,
    headers: dict[str, str] | None = None,
    background: BackgroundTask | None = None,
) -> Response:
    """Return an answer that sends each of `items` as a server-sent event, as the client reads them.

    An item is text, a `ServerSentEvent`, or a value that is sent as JSON. When none comes for `ping_s` seconds, a
    comment keeps the connection alive. The answer begins with the first of them: what the generator raises before that
    has the status that it has elsewhere; later, it breaks the answer off. A client that leaves ends the generator.
    `headers` are added to the answer, `background` runs after it.
    """
    return _EventStream(items, ping_s, headers, background)


def encoded(item: Any) -> bytes:
    """Return one event as it is sent. Raises ValueError if its name or id cannot be sent, or data is not JSON."""
    event = item if isinstance(item, ServerSentEvent) else ServerSentEvent(item)
    lines = []
    for name, value in (("event", event.event), ("id", event.id)):
        if value and any(forbidden in value for forbidden in "\r\n\0"):
            raise ValueError(f"the {name} of a server-sent event is one line, not {value[:40]!r}")
        if value:
            lines.append(f"{name}: {value}")
    if event.retry_ms is not None:
        lines.append(f"retry: {event.retry_ms:d}")
    if isinstance(event.data, str):
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
    else:
        text = json.dumps(event.data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    lines += [f"data: {line}" for line in text.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


@dataclass(frozen=True, slots=True)
class _End:
    """The generator is over; `error` is what it raised."""

    error: BaseException | None = None


class _EventStream(Response):
    """The answer. The generator runs in one task of its own, so that what waits for it can be told the time."""

    media_type = "text/event-stream"

    def __init__(
        self,
        items: AsyncIterable[Any] | Iterable[Any],
        ping_s: float,
        headers: dict[str, str] | None,
        background: BackgroundTask | None,
    ) -> None:
        self.status_code = 200
        self.background = background
        self._items = items
        self._ping_s = ping_s
        self.init_headers({**_HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        events: asyncio.Queue[bytes | _End] = asyncio.Queue(_AHEAD)
        tasks = Tasks()
        tasks.spawn(self._produce(events), name="events")
        started = False
        try:
            while True:
                event = await self._next(events)
                if isinstance(event, _End) and event.error is not None:
                    raise event.error
                if not started:
                    started = True
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                if isinstance(event, _End):
                    break
                await send({"type": "http.response.body", "body": event, "more_body": True})
        finally:
            await tasks.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if self.background is not None:
            await self.background()

    async def _next(self, events: asyncio.Queue[bytes | _End]) -> bytes | _End:
        try:
            async with asyncio.timeout(self._ping_s):
                return await events.get()
        except TimeoutError:
            return _PING

    async def _produce(self, events: asyncio.Queue[bytes | _End]) -> None:
        items = self._items if isinstance(self._items, AsyncIterable) else iterate_in_threadpool(self._items)
        try:
            async for item in items:
                await events.put(encoded(item))
        except (Exception, SystemExit) as error:
            await events.put(_End(error))
        else:
            await events.put(_End())
        finally:
            if inspect.isasyncgen(items):
                await items.aclose()
