"""One HTTP request as the server hands it over: its body, and whether its client is still there.

Owns the taking of body messages and what their end means. Never routes or answers. Called by `http_front` and
`rest_front`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mesh.errors import DeadlineExceeded, MeshError
from mesh.gateway.answer import BodyBroken, ClientGone, PayloadTooLarge
from mesh.gateway.exchange import Exchange

RESET_SHOWS_S = 0.025
"""Seconds within which a body that a reset ended shows as one: a reset without an error looks like its end at first."""
RESET_SHOWS_TRIES = 4
"""So often it is waited again where that took twice as long: the threads that would show it lack time too."""

LINGER_S = 5.0
"""Seconds for which the rest of a body is taken and dropped after the answer."""
LINGER_IDLE_S = 1.0
"""Seconds of it without a byte."""
LINGER_BYTES = 64 * 1024 * 1024

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def _gone() -> Message:
    return {"type": "http.disconnect"}


async def _into_nothing(_: Message) -> None:
    pass


class Request:
    """One HTTP request and how far its answer has come."""

    __slots__ = (
        "_early",
        "_over",
        "_reads",
        "_receive",
        "client",
        "method",
        "request_id",
        "route",
        "scope",
        "send",
        "started",
        "unread",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self.send = send
        self.method: str = scope["method"]
        peer = scope["client"]
        self.client: str = peer[0] if peer else ""
        self.request_id = ""
        self.route = ""
        self.started = False
        self.unread = False
        """Some of its body may be on its way still."""
        self._early: EarlyBody | None = None
        self._reads = self._over = False
        """Whether its body is read past `_early`, and whether it is over."""

    async def read(self) -> tuple[bytes, bool]:
        """Return the next body bytes and whether more follow. Raises BodyBroken or ClientGone."""
        if self._early is not None:
            return await self._early.take()
        self._reads = True
        return await self.receive()

    async def early_body(self) -> MeshError:
        """Return when the client is gone; takes the beginning of the body meanwhile. Instead of `disconnected`."""
        self._early = EarlyBody(self)
        if self._reads:  # it began before this task did: nothing is left to take early
            self._early.wanted = True
        if self._over:
            self._early.complete.set()
        return await self._early.run()

    async def linger(self) -> None:
        """Take and drop what is left of the body once the answer was sent; then let the server close or go on.

        A client that still sends reads the answer afterwards, if at all: closing under it would reset the connection,
        and the answer would be lost (RFC 9112, 9.6). Bounded by LINGER_S, LINGER_IDLE_S and LINGER_BYTES.
        """
        if self.scope["http_version"] != "2":
            size, clock = 0, asyncio.get_running_loop().time
            until = clock() + LINGER_S
            with contextlib.suppress(TimeoutError, MeshError):
                while self.unread and size < LINGER_BYTES and (left_s := until - clock()) > 0:
                    async with asyncio.timeout(min(LINGER_IDLE_S, left_s)):
                        size += len((await self.receive())[0])
        # An error, its traceback and what they hold live until the next garbage collection; the server closes a
        # connection whose body was not read only when nobody can read it any more.
        self._receive, self.send, self._early = _gone, _into_nothing, None

    def body_over(self) -> None:
        """Nothing more of the body is wanted."""
        self._over = True
        if self._early is not None:
            self._early.complete.set()

    async def receive(self) -> tuple[bytes, bool]:
        """Take the next body bytes from the server. Raises BodyBroken or ClientGone."""
        message = await self._receive()
        if message["type"] != "http.request":
            self.unread = False
            if self.scope["http_version"] == "2":
                raise ClientGone("the client went away while it sent the body")
            # The server does not tell bad chunks from a client that left, and one that left hears nothing anyway.
            raise BodyBroken("the body broke off, or its chunks are not what HTTP says")
        more: bool = message.get("more_body", False)
        self.unread = more
        return message.get("body", b""), more

    async def disconnected(self) -> MeshError:
        """Return when the client is gone. For requests whose body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        return ClientGone("the client went away")


class EarlyBody:
    """The beginning of a body, taken while its request waits for a slot: the only way to see a client leave then.

    One task (`run`) takes from the server; `take` hands on what it took, and takes the rest itself.
    """

    BYTES = 64 * 1024

    def __init__(self, request: Request) -> None:
        self._request = request
        self._parts: deque[tuple[bytes, bool]] = deque()
        self._taking = True
        self._broken: MeshError | None = None
        self.wanted = False
        self._news = asyncio.Event()
        self.complete = asyncio.Event()

    async def run(self) -> MeshError:
        """Take until the body is wanted, then wait for the end of it. Return when the client is gone."""
        size, more = 0, True
        try:
            while more and size < self.BYTES and not self.wanted:
                part = await self._request.receive()
                if part[0] or not part[1]:  # empty ones would be kept without bound
                    self._parts.append(part)
                    self._news.set()
                size, more = size + len(part[0]), part[1]
        except (BodyBroken, ClientGone) as error:
            self._broken = error
        self._taking = False
        self._news.set()
        if self._broken is not None:
            return self._broken
        if more:
            await self.complete.wait()
        return await self._request.disconnected()

    async def take(self) -> tuple[bytes, bool]:
        """Return the next body bytes and whether more follow. Raises BodyBroken or ClientGone."""
        self.wanted = True
        while self._taking and not self._parts:
            self._news.clear()
            await self._news.wait()
        if self._broken is not None:
            raise self._broken
        part = self._parts.popleft() if self._parts else await self._request.receive()
        if not part[1]:
            self.complete.set()
        return part


async def read_body(
    request: Request, exchange: Exchange, length: int, bytes_max: int, *, only_begin: bool = False
) -> tuple[bytes, bool]:
    """Return a body of `length` bytes (-1: not known), and whether more follows: only of one whose length is not known.

    `only_begin`: of such a one return the first piece. Raises PayloadTooLarge, BodyTimeout, BodyBroken, ClientGone.
    """
    parts: list[bytes] = []
    total, more = 0, True
    try:
        async with asyncio.timeout(None) as limit:
            exchange.reading(limit)
            exchange.await_body()
            # The server's word that the body is over costs as much as the body itself.
            while more and total != length and not (only_begin and parts and length < 0):
                data, more = await request.read()
                if data:
                    total += len(data)
                    if total > bytes_max:
                        raise PayloadTooLarge(f"the body is larger than {bytes_max} bytes")
                    parts.append(data)
                    exchange.body_came()
                    exchange.await_body()
            exchange.reading(None)
    except TimeoutError:
        raise exchange.error or DeadlineExceeded("the body took too long") from None
    exchange.body_over()
    if length >= 0:
        if total != length:
            raise ClientGone("the client went away while it sent the body")
        request.unread = more = False
    if not more:  # the server may not have said so yet; from now on only the client's leave is waited for
        request.body_over()
    return parts[0] if len(parts) == 1 else b"".join(parts), more


async def check_end(request: Request, exchange: Exchange, missing: int) -> None:
    """Raise ClientGone unless the body is whole: over HTTP/2 a reset may look like the end of a body.

    `missing`: bytes that are missing of its length; below 0 there is no length to compare with.
    """
    if missing > 0:
        raise ClientGone("the client went away while it sent the body")
    if missing < 0 and request.scope["http_version"] == "2":
        request.body_over()
        exchange.watch(request.disconnected)
        exchange.slow()
        clock = asyncio.get_running_loop().time
        for _ in range(RESET_SHOWS_TRIES):
            started = clock()
            await asyncio.sleep(RESET_SHOWS_S)
            if exchange.error is not None:
                raise exchange.error
            if clock() - started < 2 * RESET_SHOWS_S:
                break
