"""A client that writes bytes to a connection and reads until the server has answered, or closed it."""

from __future__ import annotations

import asyncio
import re
from typing import cast

from tests.fuzz.http_mutations import PREFACE, frames

PATIENCE_S = 0.25
"""Seconds without an answer after which the client says that it sends no more."""
BOUND_S = 20.0
"""Seconds within which the server must have closed the connection then."""
ANSWER_BYTES_MAX = 256 * 1024
"""What is longer is not read to its end: the client leaves."""

_HEAD = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)
_LAST_STREAM_FLAG = 1


class Exchange(asyncio.Protocol):
    """One connection: what was sent, and what came back."""

    def __init__(self, data: bytes) -> None:
        self.answer = bytearray()
        self.left = False
        """The client broke the answer off."""
        self._data = data
        self._second = data.startswith(PREFACE)
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._transport: asyncio.Transport | None = None

    @property
    def statuses(self) -> list[int]:
        """The statuses of all whole heads that came over HTTP/1."""
        return [] if self._second else [int(found[1]) for found in _HEAD.finditer(self.answer)]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._transport.write(self._data)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        if len(self.answer) > ANSWER_BYTES_MAX:
            self.leave()
        elif not self.answered.done() and self._is_whole():
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.answered, self.closed):
            if not future.done():
                future.set_result(None)

    def leave(self) -> None:
        """Break the connection off."""
        self.left = True
        assert self._transport is not None
        self._transport.abort()

    def finish(self) -> None:
        """Say that nothing more is sent."""
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write_eof()

    def _is_whole(self) -> bool:
        """Whether an answer is there. Only to be quick: where it errs, patience ends the wait."""
        if self._second:
            found = list(frames(bytes(self.answer)))
            return any(kind in (3, 7) or (kind in (0, 1) and flags & _LAST_STREAM_FLAG) for kind, flags, _ in found)
        head = _HEAD.match(self.answer)
        if head is None or head[1].startswith(b"1"):
            return False
        if (length := _LENGTH.search(head[0])) is not None:
            return self._data.startswith(b"HEAD") or len(self.answer) >= head.end() + int(length[1])
        return self.answer.endswith(b"0\r\n\r\n") or head[1] in (b"204", b"304")


async def exchange(address: str, data: bytes, number: int) -> Exchange:
    """Send bytes on a connection of their own; return what came once the server has closed it. Bounded.

    `number` chooses the client's own address: so many connections in a row use up the ports of one.
    """
    host, _, port = address.rpartition(":")
    local = (f"127.0.0.{2 + number % 200}", 0)
    async with asyncio.timeout(BOUND_S):
        _, made = await asyncio.get_running_loop().create_connection(
            lambda: Exchange(data), host, int(port), local_addr=local
        )
    try:
        await asyncio.wait((made.answered,), timeout=PATIENCE_S)
        made.finish()
        async with asyncio.timeout(BOUND_S):
            await asyncio.shield(made.closed)
    except TimeoutError:
        raise AssertionError(f"open for {BOUND_S:g} s, with {bytes(made.answer[:500])!r}") from None
    finally:
        if not made.closed.done():
            made.leave()
    return made
