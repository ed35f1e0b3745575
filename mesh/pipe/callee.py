"""The replica's end of pipes: takes calls within the slots and carries answers back.

Owns the protocol of `ReplicaService.Pipe` on the serving side: acceptance, refusals and offers, flow control,
and that each call ends exactly once. Never runs user code itself: it hands a `ServedCall` to the handler.
Called by `worker/replica.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

import grpc

from mesh.lifecycle import Tasks
from mesh.liveness import Standstill
from mesh.pipe.flow import CHUNK_BYTES, Inbound, Outbound, chunks
from mesh.pipe.outbox import FRAMES_MAX, Outbox
from mesh.pipe.slots import Slots
from mesh.v1 import replica_service_pb2 as pb

OFFER_S = 1.0
"""Seconds for which an offered slot is reserved."""

Serve = Callable[["ServedCall"], Callable[[], object]]
"""Starts a call and returns what cancels it. It must end with `answer` or `done`, exactly once."""


class Callee:
    """All pipes of one replica, and its slots."""

    def __init__(self, limit: int, serve: Serve) -> None:
        self.slots = Slots(limit)
        self.draining = False
        self._serve = serve
        self._idle: asyncio.Future[None] | None = None
        self._pipes: set[ServedPipe] = set()
        self._closing = False
        self._standstill = Standstill()

    async def serve_pipe(self, context: Any) -> None:
        """Serve one pipe until its caller ends it or is lost; then cancel what it still runs."""
        pipe = ServedPipe(self, context)
        tasks = Tasks()
        await context.send_initial_metadata(())
        writer = tasks.spawn(pipe.outbox.run(pipe.acknowledge), name="pipe-writer")
        reader = tasks.spawn(self._read(pipe, context), name="pipe-reader")
        self._pipes.add(pipe)
        if self._closing:
            pipe.outbox.end()
        try:
            await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pipes.discard(pipe)
            pipe.close()
            await tasks.cancel()

    async def _read(self, pipe: ServedPipe, context: Any) -> None:
        clock = asyncio.get_running_loop().time
        while (message := await context.read()) is not grpc.aio.EOF:
            if hold_s := self._standstill.hold_s(clock()):
                # If the caller gave this replica up meanwhile, another runs these calls; the pipe's end cancels us.
                await asyncio.sleep(hold_s)
            pipe.receive(message.frames)

    def tick(self) -> None:
        """Time goes on; called each second, so that a standstill of this process is noticed."""
        self._standstill.tick(asyncio.get_running_loop().time())

    def close(self) -> None:
        """End all pipes once what they have to say is written. For after a drain."""
        self._closing = True
        for pipe in self._pipes:
            pipe.outbox.end()

    def start(self, call: ServedCall) -> Callable[[], object]:
        """Hand a call that has a slot to the handler."""
        return self._serve(call)

    def release(self) -> None:
        """Free the slot of a call that is over."""
        self.send_offers(self.slots.release())
        if self._idle is not None and not self.slots.ongoing:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None

    def resize(self, limit: int) -> None:
        """Put another limit in force."""
        self.send_offers(self.slots.resize(limit))

    def send_offers(self, callers: list[Hashable]) -> None:
        """Tell each of the callers that a slot is reserved for it."""
        for pipe in callers:
            assert isinstance(pipe, ServedPipe)
            pipe.offer()

    async def drain(self) -> None:
        """Take no new calls and return when the last one is over."""
        self.draining = True
        if self.slots.ongoing:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle


class ServedPipe:
    """One caller's pipe."""

    def __init__(self, callee: Callee, context: Any) -> None:
        self.callee = callee
        self.closed = False
        self._context = context
        self._calls: dict[int, ServedCall] = {}
        self._unacknowledged: dict[int, None] = {}
        self._starting: deque[tuple[int, ServedCall]] = deque()
        """Calls whose Accepted is not written yet, and how many frames are written when it is."""
        self._taken = 0
        """Frames that were written, or are being."""
        self._offers: deque[asyncio.TimerHandle] = deque()
        self.outbox: Outbox[pb.ResponseFrame] = Outbox(self._write)

    def receive(self, frames: Any) -> None:
        """Act on the frames of one message, in order."""
        for frame in frames:
            kind = frame.WhichOneof("kind")
            if kind == "open":
                self._open(frame.call, frame.open)
            elif kind == "decline":
                self._end_offer()
                self.callee.send_offers(self.callee.slots.decline(self))
            elif (call := self._calls.get(frame.call)) is None:
                continue  # its last frame crossed our `done` on the way
            elif kind == "data":
                if not call.body.feed(frame.data.data, frame.data.end):
                    call.cancel()
            elif kind == "window":
                call.window.add(frame.window.bytes)
            elif kind == "cancel":
                call.cancel()
        # After the loop: handlers that end in their first step answer before the writer looks, so that
        # their `accepted` and their answer share one frame.
        self.outbox.wake()

    def acknowledge(self) -> None:
        """Put an Accepted for each running call that has not answered yet."""
        if self._unacknowledged:
            for number in self._unacknowledged:
                self.outbox.put(pb.ResponseFrame(call=number, accepted=pb.Accepted()))
            self._unacknowledged.clear()

    def offer(self) -> None:
        """Reserve a slot for this caller and tell it."""
        loop = asyncio.get_running_loop()
        self._offers.append(loop.call_later(OFFER_S, self._expire))
        self.outbox.put(pb.ResponseFrame(offer=pb.Offer()))

    def answering(self, number: int) -> None:
        """The call's Head goes out now: it says by itself that the call was accepted."""
        self._unacknowledged.pop(number, None)

    def over(self, number: int) -> None:
        """Forget a call whose `done` is on its way and free its slot."""
        del self._calls[number]
        self._unacknowledged.pop(number, None)
        self.callee.release()

    def close(self) -> None:
        """Cancel all calls and give back what is reserved; what still runs keeps its slot until it ends."""
        self.closed = True
        for call in list(self._calls.values()):
            call.cancel()
        while self._offers:
            self._offers.popleft().cancel()
        self.callee.send_offers(self.callee.slots.forget(self))

    def _open(self, number: int, head: pb.Open) -> None:
        if head.offer:
            self._end_offer()
        if self.callee.draining:
            if head.offer:
                self.callee.send_offers(self.callee.slots.decline(self))
            self.outbox.put(_rejected(number, pb.REFUSAL_DRAINING))
            return
        if number in self._calls:
            raise ValueError(f"call {number} was opened twice on one pipe")
        if not self.callee.slots.take(self, offered=head.offer):
            self.outbox.put(_rejected(number, pb.REFUSAL_FULL))
            return
        call = ServedCall(self, number, head)
        self._calls[number] = call
        if head.idempotent:
            self._unacknowledged[number] = None
            call.begin()
        else:
            self.outbox.put(pb.ResponseFrame(call=number, accepted=pb.Accepted()))
            self._starting.append((self._taken + len(self.outbox), call))

    def _end_offer(self) -> None:
        if self._offers:
            self._offers.popleft().cancel()

    def _expire(self) -> None:
        self._offers.popleft()
        self.callee.send_offers(self.callee.slots.decline(self))

    async def _write(self, frames: list[pb.ResponseFrame]) -> None:
        self._taken += len(frames)
        written = self._taken
        try:
            await self._context.write(pb.PipeResponse(frames=frames))
        except grpc.aio.BaseError:
            # The caller is gone; the reading side learns it too and ends the pipe.
            self.closed = True
            return
        starting = self._starting
        while starting and starting[0][0] <= written:
            starting.popleft()[1].begin()


class ServedCall:
    """One call as the replica sees it: its head, its body, and its answer. Made and ended by the pipe."""

    __slots__ = ("__weakref__", "_cancel", "_number", "_over", "_pipe", "body", "cancelled", "head", "window")

    def __init__(self, pipe: ServedPipe, number: int, head: pb.Open) -> None:
        self.head = head
        self.body = Inbound()
        self.window = Outbound()
        self.cancelled = False
        self._pipe = pipe
        self._number = number
        self._over = False
        self._cancel: Callable[[], object] | None = None
        self.body.feed(head.data, head.end)

    def begin(self) -> None:
        """Start the handler, unless the call was cancelled before that."""
        if self._over:
            return
        self._cancel = self._pipe.callee.start(self)

    def cancel(self) -> None:
        """The caller is gone or gave up: stop the handler. Its slot stays taken until it has ended."""
        if self._over or self.cancelled:
            return
        self.cancelled = True
        self.window.close()
        self.body.fail(asyncio.CancelledError())
        if self._cancel is None:
            self.done()
        else:
            # Not now: a handler that has not had its first step could not end its call.
            asyncio.get_running_loop().call_soon(self._cancel)

    async def read(self) -> bytes:
        """Return the next body chunk, b"" at the end."""
        data = await self.body.read()
        if credit := self.body.credit():
            self._put(pb.ResponseFrame(call=self._number, window=pb.Window(bytes=credit)))
        return data

    def answer(self, status: int, headers: list[bytes], body: bytes) -> bool:
        """Send a whole answer and end the call, in one frame. False if the body is too large for that.

        Raises ValueError if the headers are too large for a frame.
        """
        size = len(body) + _head_bytes(headers)
        if len(body) > CHUNK_BYTES or not self.window.take_nowait(len(body)):
            return False
        self._pipe.answering(self._number)
        frame = pb.ResponseFrame(call=self._number, done=True)
        head = frame.head
        head.status = status
        head.headers.extend(headers)
        if body:
            head.data = body
        head.end = True
        self._finish(frame, size)
        return True

    def answer_grpc(self, metadata: list[bytes], message: bytes, trailers: pb.Trailers, compression: int = 0) -> bool:
        """Send the whole answer of a gRPC call and end it, in one frame. False if `message` is too large for that.

        `message` is one framed message, or b"" for none.
        """
        if len(message) > CHUNK_BYTES or not self.window.take_nowait(len(message)):
            return False
        self._pipe.answering(self._number)
        frame = pb.ResponseFrame(call=self._number, done=True)
        head = frame.head
        if metadata:
            head.headers.extend(metadata)
        if message:
            head.data = message
        if compression:
            head.compression = compression
        head.end = True
        head.trailers.CopyFrom(trailers)
        self._finish(frame, len(message) + _trailers_bytes(trailers))
        return True

    def start(self, status: int, headers: list[bytes], compression: int = 0) -> None:
        """Send the head of an answer; its body follows by `write`. Raises ValueError if it is too large for a frame."""
        size = _head_bytes(headers)
        self._pipe.answering(self._number)
        head = pb.Head(status=status, headers=headers, compression=compression)
        self._put(pb.ResponseFrame(call=self._number, head=head), size)

    async def write(self, data: bytes, *, end: bool = False) -> bool:
        """Send body bytes as the reader takes them. False once nobody reads them any more."""
        pieces = chunks(data)
        for i, piece in enumerate(pieces):
            if piece and not await self.window.take(len(piece)):
                return False
            if len(self._pipe.outbox) >= FRAMES_MAX:
                # Code that never waits for anything else would keep all other calls from running meanwhile.
                await asyncio.sleep(0)
            if self.cancelled or self._over:
                return False
            last = end and i == len(pieces) - 1
            if piece or last:
                frame = pb.ResponseFrame(call=self._number, data=pb.Data(data=piece, end=last))
                self._pipe.outbox.put_data(frame, len(piece))
        return True

    def fail(self, message: str) -> None:
        """End the call: the handler raised."""
        self.window.close()
        self._finish(pb.ResponseFrame(call=self._number, done=True, failed=pb.Failed(message=message)), 0)

    def finish_grpc(self, trailers: pb.Trailers) -> None:
        """End a gRPC call whose head was sent."""
        self.window.close()
        frame = pb.ResponseFrame(call=self._number, done=True, trailers=trailers)
        self._finish(frame, _trailers_bytes(trailers))

    def done(self) -> None:
        """End the call; its answer, if any is owed, was sent."""
        self.window.close()
        self._finish(pb.ResponseFrame(call=self._number, done=True), 0)

    def _finish(self, frame: pb.ResponseFrame, size: int) -> None:
        assert not self._over, "a call ends once"
        self._over = True
        # The slot first, then the frame: when the caller sees `done`, the slot is free.
        self._pipe.over(self._number)
        if not self._pipe.closed:
            if size > _LARGE_BYTES:
                self._pipe.outbox.put_data(frame, size)
            else:
                self._pipe.outbox.put(frame)

    def _put(self, frame: pb.ResponseFrame, size: int = 0) -> None:
        if self._pipe.closed:
            return
        if size > _LARGE_BYTES:
            self._pipe.outbox.put_data(frame, size)
        else:
            self._pipe.outbox.put(frame)


_LARGE_BYTES = 4096
HEAD_BYTES_MAX = 1024 * 1024
"""Bytes of an answer's headers: a message of the pipe that is too large would end all calls on it."""


def _head_bytes(headers: list[bytes]) -> int:
    """Return the size of headers. Raises ValueError if they are too large."""
    size = sum(map(len, headers))
    if size > HEAD_BYTES_MAX:
        raise ValueError(f"the answer's headers have {size} bytes; {HEAD_BYTES_MAX} are allowed")
    return size


def _trailers_bytes(trailers: pb.Trailers) -> int:
    return trailers.ByteSize() if trailers.metadata or trailers.message else 0


def _rejected(number: int, refusal: pb.Refusal.ValueType) -> pb.ResponseFrame:
    return pb.ResponseFrame(call=number, rejected=pb.Rejected(refusal=refusal))
