"""The caller's side of one pipe, played by a test against a real `Callee`: frames in, frames out, no network."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from mesh.pipe.callee import Callee
from mesh.pipe.codec import REQUESTS, RESPONSES, Chunk
from mesh.v1 import replica_service_pb2 as pb


class ScriptedCaller:
    """Stands where grpc's servicer context stands. Start it, `send` frames, look at what was answered."""

    def __init__(self, callee: Callee) -> None:
        self.frames: list[pb.ResponseFrame] = []
        """Everything the replica sent."""
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._writable.set()
        self._serving = asyncio.ensure_future(callee.serve_pipe(self))

    async def send(self, *frames: pb.RequestFrame) -> None:
        """Send frames as one message and let everything run that is ready."""
        self._requests.put_nowait(REQUESTS.decode(pb.PipeRequest(frames=frames).SerializeToString()))
        await turns()

    def hold(self) -> None:
        """Take nothing of what the replica writes."""
        self._writable.clear()

    def let_go(self) -> None:
        """Take it."""
        self._writable.set()

    async def hang_up(self) -> None:
        """End the pipe."""
        self._requests.put_nowait(grpc.aio.EOF)
        await self._serving

    def of(self, call: int) -> list[pb.ResponseFrame]:
        """Return the frames of one call."""
        return [frame for frame in self.frames if frame.call == call]

    def kinds(self, call: int) -> list[str]:
        """Return what was sent for a call, "+done" where its end went along."""
        return [(frame.WhichOneof("kind") or "") + ("+done" if frame.done else "") for frame in self.of(call)]

    def body(self, call: int) -> bytes:
        """Return the body of a call's answer so far."""
        return b"".join(frame.head.data + frame.data.data for frame in self.of(call))

    # What `Callee` asks of a context.

    async def send_initial_metadata(self, metadata: Any) -> None:
        pass

    async def read(self) -> Any:
        return await self._requests.get()

    async def write(self, frames: list[pb.ResponseFrame | Chunk]) -> None:
        await self._writable.wait()
        self.frames.extend(pb.PipeResponse.FromString(RESPONSES.encode(frames)).frames)


def opened(call: int, *, method: str = "GET", path: str = "/", data: bytes = b"", **fields: Any) -> pb.RequestFrame:
    """Return an Open frame; its body is complete unless `end=False` is given."""
    known = {"end": True, "idempotent": method == "GET", **fields}
    head = pb.Open(method=method, raw_path=path.encode(), data=data, **known)
    return pb.RequestFrame(call=call, open=head)


def cancel(call: int) -> pb.RequestFrame:
    """Return a Cancel frame."""
    return pb.RequestFrame(call=call, cancel=pb.Cancel())


def data(call: int, chunk: bytes, *, end: bool = False) -> pb.RequestFrame:
    """Return a Data frame."""
    return pb.RequestFrame(call=call, data=pb.Data(data=chunk, end=end))


def credit(call: int, size: int) -> pb.RequestFrame:
    """Return a Window frame."""
    return pb.RequestFrame(call=call, window=pb.Window(bytes=size))


def decline() -> pb.RequestFrame:
    """Return a Decline frame."""
    return pb.RequestFrame(decline=pb.Decline())


async def turns(count: int = 20) -> None:
    """Let everything run that is ready."""
    for _ in range(count):
        await asyncio.sleep(0)
