"""The sending half of a pipe: frames go out in batches, without a timer.

Owns the order of frames and the size of messages. While one message is written, frames gather; they leave as
one message as soon as the write returns. Where the sender asks for it (`hold`), they gather until the peer has spoken
as well, for `HOLD_S` at most; calls that came one by one wait for one another when time is short (`pace`). So there is
no delay at low load and a large batch at high load.
Bounded by what fills it: each call has a window and each replica a limit. Used by `caller` and `callee`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from mesh.clock import thread_wanted_s
from mesh.pipe.pace import Pace

MESSAGE_BYTES = 1024 * 1024
"""Body bytes after which a message is closed; one frame more than that fits any message limit."""
FRAMES_MAX = 128
"""Frames in one message: so many with the largest heads that pass a gateway fit the message limit too."""
HOLD_S = 0.002
"""Seconds for which a message waits at most until the peer has spoken."""
HEARD_TURNS = 8
"""Turns of the loop after that: what the peer's words set going joins the message."""

_F = TypeVar("_F")


class Outbox(Generic[_F]):
    """Frames that wait to be written. `put` never waits; `run` writes until cancelled."""

    def __init__(self, write: Callable[[list[_F]], Awaitable[object]], calls: Callable[[], int] = lambda: 0) -> None:
        """`calls` returns how many calls are on the pipe that may wait for one another; 0: what is put cannot wait."""
        self._write = write
        self._calls = calls
        self._pace = Pace()
        self._enough = 0
        """Frames that end the gathering; 0: nothing gathers."""
        self._frames: list[_F] = []
        self.batch = 0
        """Number of the message that what is put now goes into, or a later one: it counts what was taken."""
        self._sizes: list[tuple[int, int]] = []
        self._wake: asyncio.Future[None] | None = None
        self._ending = False
        self._asks = False
        """What the next message asks is answered at once."""
        self._held = False
        """The peer has not spoken since such a message."""
        self._spoken: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Return how many frames wait to be taken into a message."""
        return len(self._frames)

    def put(self, frame: _F) -> None:
        """Send `frame` after all that were put before it."""
        self._frames.append(frame)
        if self._wake is not None and len(self._frames) >= self._enough:
            self.wake()

    def put_data(self, frame: _F, size: int) -> None:
        """Send `frame`, which carries `size` body bytes, so many that they count for the size of a message."""
        self._sizes.append((len(self._frames), size))
        self.put(frame)

    def hold(self) -> None:
        """Hold what comes after the next message back until `heard`: the peer answers that message at once.

        One message then carries all that came up in the meantime, as Nagle's algorithm does with small packets. Each
        message costs both sides some ten times what a frame does.
        """
        self._asks = True

    def heard(self) -> None:
        """The peer has spoken: nothing is held back any more."""
        self._held = False
        if self._spoken is not None:
            if not self._spoken.done():
                self._spoken.set_result(None)
            self._spoken = None

    def wake(self) -> None:
        """Let `run` look for frames."""
        if self._wake is not None:
            if not self._wake.done():
                self._wake.set_result(None)
            self._wake = None

    def end(self) -> None:
        """Let `run` return once all that was put is written."""
        self._ending = True
        self.wake()

    async def run(self, before_write: Callable[[], object] | None = None) -> None:
        """Write what is put, until cancelled, ended or a write raises. `before_write` may put more frames."""
        loop = asyncio.get_running_loop()
        while True:
            if before_write is not None:
                before_write()
            if not self._frames:
                if self._ending:
                    return
                self._wake = loop.create_future()
                await self._wake
                # One more turn of the loop: what else is ready now joins this message. Under load that makes
                # messages fewer and larger; at low load it costs a few microseconds.
                await asyncio.sleep(0)
                continue
            enough, wait_s = self._pace.gather(self._calls())
            if len(self._frames) < min(enough, FRAMES_MAX):
                await self._gathering(loop, enough, wait_s)
            elif self._held and len(self._frames) < FRAMES_MAX:
                await self._hearing(loop)
            self._held, self._asks = self._asks, False
            batch = self._batch()
            await self._write(batch)
            if self._pace.wrote(len(batch), now := loop.time()):
                self._pace.measure(now, thread_wanted_s())

    async def _gathering(self, loop: asyncio.AbstractEventLoop, enough: int, wait_s: float) -> None:
        """Wait until so many frames are there, `wait_s` seconds at most."""
        self._enough = enough
        self._wake = loop.create_future()
        timer = loop.call_later(wait_s, self.wake)
        try:
            await self._wake
        finally:
            self._enough = 0
            timer.cancel()

    async def _hearing(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until the peer has spoken, HOLD_S at most."""
        self._spoken = loop.create_future()
        timer = loop.call_later(HOLD_S, self.heard)
        try:
            await self._spoken
        finally:
            timer.cancel()
        for _ in range(HEARD_TURNS):
            await asyncio.sleep(0)

    def _batch(self) -> list[_F]:
        self.batch += 1
        frames = self._frames
        end = min(len(frames), FRAMES_MAX)
        total = 0
        for index, size in self._sizes:
            total += size
            if total >= MESSAGE_BYTES:
                end = min(end, index + 1)
                break
        if end == len(frames):
            self._frames = []
            if self._sizes:
                self._sizes = []
            return frames
        self._frames = frames[end:]
        self._sizes = [(index - end, size) for index, size in self._sizes if index >= end]
        return frames[:end]
