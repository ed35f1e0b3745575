"""Pipes between a caller and replicas of the same process: what gRPC carries elsewhere, without gRPC.

Messages pass the same codec, as bytes, and wait for a turn of the loop as writes to gRPC do, so that what is above
behaves as it does on a connection. Owns nothing of the protocol. Counts what passes. Used by `guarded_path`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from mesh.lifecycle import Tasks
from mesh.pipe import link
from mesh.pipe.codec import REQUESTS, RESPONSES
from mesh.v1.replica_service_pb2_grpc import ReplicaServiceServicer


class Way:
    """Messages in one direction, and how many there were."""

    def __init__(self, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> None:
        self.messages = self.frames = self.bytes = 0
        self._encode, self._decode = encode, decode
        self._waiting: deque[bytes] = deque()
        self._wake: asyncio.Future[None] | None = None

    async def write(self, frames: Any) -> None:
        """Send a message."""
        message = self._encode(frames)
        self.messages += 1
        self.frames += len(frames)
        self.bytes += len(message)
        self._waiting.append(message)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        await asyncio.sleep(0)

    async def read(self) -> Any:
        """Return the next message."""
        while not self._waiting:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        return self._decode(self._waiting.popleft())


class _End:
    """One end of a pipe: `stream` to a caller, `context` to a servicer."""

    def __init__(self, out: Way, back: Way, opened: asyncio.Event) -> None:
        self.write, self.read = out.write, back.read
        self._opened = opened

    async def initial_metadata(self) -> tuple[()]:
        await self._opened.wait()
        return ()

    async def send_initial_metadata(self, _: Any) -> None:
        self._opened.set()

    def done(self) -> bool:
        return False


class _Channel:
    """Stands for a connection to one replica."""

    def __init__(self, pipes: Pipes, address: str) -> None:
        self.pipes, self.address = pipes, address

    async def close(self, grace: float | None = None) -> None:
        """Nothing is open."""


class Pipes:
    """All pipes of this process, by the names that stand for addresses."""

    def __init__(self) -> None:
        self.replicas: dict[str, ReplicaServiceServicer] = {}
        self.ways: list[tuple[Way, Way]] = []
        """There and back, of each pipe that was opened."""
        self._tasks = Tasks()

    @contextmanager
    def in_place_of_grpc(self) -> Iterator[None]:
        """Have links open these."""
        with (
            mock.patch.object(link, "channel", lambda address, *_: _Channel(self, address)),
            mock.patch.object(link, "open_pipe", self._open),
        ):
            yield

    def counts(self) -> dict[str, int]:
        """Return the messages, frames and bytes that passed in all, either way."""
        counts = {}
        for number, way in enumerate(("to replicas", "back")):
            for what in ("messages", "frames", "bytes"):
                counts[f"{what} {way}"] = sum(getattr(ways[number], what) for ways in self.ways)
        return counts

    async def close(self) -> None:
        """End all."""
        await self._tasks.cancel()

    def _open(self, channel: Any) -> Any:
        there, back = Way(REQUESTS.encode, REQUESTS.decode), Way(RESPONSES.encode, RESPONSES.decode)
        self.ways.append((there, back))
        opened = asyncio.Event()
        replica = self.replicas[channel.address]
        self._tasks.spawn(replica.Pipe(None, _End(back, there, opened)), name="memory-pipe")  # type: ignore[arg-type]
        return _End(there, back, opened)
