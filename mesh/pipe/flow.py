"""Flow control of one call in one direction: windows of body bytes, and the buffer behind them.

Owns the arithmetic of credits and the chunks that wait for their reader. One call's slow reader holds up that
call only. Used by both ends of a pipe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import cast

WINDOW_BYTES = 512 * 1024
"""Body bytes a sender may have outstanding without credit."""
CHUNK_BYTES = 256 * 1024
"""Body bytes in one Data frame at most."""
WHOLE_BYTES = 1024 * 1024
"""Body bytes in the frame that opens or answers a call, where that is all of the body: it needs no window then.

In pieces, a body of that size would wait for its acceptance and for credit, which takes longer than sending it.
"""
CHARGE_MIN = 512
"""What a smaller chunk counts as in a window: it costs memory and time of its own, whatever is in it."""
_CREDIT_BYTES = WINDOW_BYTES // 2
"""Consumed bytes are credited in lots of this, so that credits cost little."""


def charge(size: int) -> int:
    """Return what a chunk of so many bytes counts as in a window, at both ends of it."""
    return max(size, CHARGE_MIN) if size else 0


class Inbound:
    """Body chunks that arrived and wait for their one reader."""

    __slots__ = ("_buffered", "_chunks", "_consumed", "_error", "_loop", "_reader", "ended")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """`loop`: the running one, where it is known: to ask for it costs a system call."""
        self._loop = loop
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._consumed = 0
        self._reader: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self.ended = False

    def feed(self, data: bytes, end: bool) -> bool:
        """Take a chunk that arrived. False if the sender overran its window: its call must be ended."""
        if data:
            self._chunks.append(data)
            self._buffered += max(len(data), CHARGE_MIN)
        if end:
            self.ended = True
        if self._reader is not None:
            self._notify()
        return self._buffered <= WINDOW_BYTES

    def fail(self, error: BaseException) -> None:
        """Let the reader see `error` once the chunks that arrived are read."""
        if not self.ended and self._error is None:
            self._error = error
            self._notify()

    @property
    def pending(self) -> bool:
        """Whether chunks wait to be read."""
        return bool(self._chunks)

    @property
    def whole(self) -> bool:
        """Whether all of the body is here, in one chunk at most."""
        return self.ended and len(self._chunks) <= 1

    async def read(self) -> bytes:
        """Return the next chunk, b"" at the end. Raises what `fail` was given."""
        while not self._chunks:
            if self.ended:
                return b""
            if self._error is not None:
                raise self._error
            self._reader = (self._loop or asyncio.get_running_loop()).create_future()
            await self._reader
        data = self._chunks.popleft()
        charged = max(len(data), CHARGE_MIN)
        self._buffered -= charged
        self._consumed += charged
        return data

    def read_on(self, data: bytes, bytes_max: int) -> bytes:
        """Return `data`, which was read, and what of the next chunks is here, up to `bytes_max` in all."""
        parts, total = [data], len(data)
        while self._chunks and total + (size := len(self._chunks[0])) <= bytes_max:
            parts.append(self._chunks.popleft())
            total += size
            charged = charge(size)
            self._buffered -= charged
            self._consumed += charged
        return b"".join(parts) if len(parts) > 1 else data

    def credit(self) -> int:
        """Return how many consumed bytes to credit the sender with now; 0: not worth a frame yet."""
        if self.ended or self._consumed < _CREDIT_BYTES:
            return 0
        credit, self._consumed = self._consumed, 0
        return credit

    def _notify(self) -> None:
        if self._reader is not None:
            if not self._reader.done():
                self._reader.set_result(None)
            self._reader = None


class Outbound:
    """The window of a sender. `closed` ends all waiting: nobody reads any more."""

    __slots__ = ("_window", "_writer", "closed")

    def __init__(self) -> None:
        self._window = WINDOW_BYTES
        self._writer: asyncio.Future[None] | None = None
        self.closed = False

    def take_nowait(self, size: int) -> bool:
        """Take a chunk of `size` bytes (at most CHUNK_BYTES) from the window, if there is room for it."""
        assert size <= CHUNK_BYTES
        if self._window < (charged := charge(size)):
            return False
        self._window -= charged
        return True

    def grow(self, size: int, more: int) -> bool:
        """Take what a chunk of `size` bytes, which was taken, counts more with `more` bytes, if there is room."""
        charged = charge(size + more) - charge(size)
        if self.closed or self._window < charged:
            return False
        self._window -= charged
        return True

    async def take(self, size: int) -> bool:
        """Take a chunk of `size` bytes, waiting for credit. False once closed."""
        while not self.closed:
            if self.take_nowait(size):
                return True
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
        return False

    def add(self, credit: int) -> None:
        """Add credit from the receiver."""
        self._window = min(WINDOW_BYTES, self._window + credit)
        self._notify()

    def close(self) -> None:
        """Let nobody wait here again."""
        self.closed = True
        self._notify()

    def _notify(self) -> None:
        if self._writer is not None:
            if not self._writer.done():
                self._writer.set_result(None)
            self._writer = None


def chunks(data: bytes) -> Sequence[bytes]:
    """Split a body into what fits Data frames, without copying it."""
    if len(data) <= CHUNK_BYTES:
        return [data]
    view = memoryview(data)
    return [cast(bytes, view[i : i + CHUNK_BYTES]) for i in range(0, len(data), CHUNK_BYTES)]
