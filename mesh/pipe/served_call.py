"""One call as the replica sees it: its head, its body, and its answer.

Owns the answer's frames and that a call ends exactly once. Never runs user code: a handler answers by it. Made by
`callee`, which has its slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mesh.pipe.codec import JOINED_PIECES, Chunk
from mesh.pipe.failures import failed
from mesh.pipe.flow import WHOLE_BYTES, Inbound, Outbound, chunks
from mesh.pipe.outbox import FRAMES_MAX
from mesh.v1 import replica_service_pb2 as pb

if TYPE_CHECKING:
    from mesh.pipe.callee import ServedPipe


class Cancellable(Protocol):
    """A call that can be given up."""

    def cancel(self) -> None:
        """Give it up."""


class ServedCall:
    """One call as the replica sees it: its head, its body, and its answer. Made and ended by the pipe."""

    __slots__ = (
        "__weakref__",
        "_arrived",
        "_cancel",
        "_number",
        "_over",
        "_pipe",
        "_started",
        "_tail",
        "_when_over",
        "body",
        "calls",
        "cancelled",
        "head",
        "window",
    )

    def __init__(self, pipe: ServedPipe, number: int, head: pb.Open) -> None:
        self.head = head
        self.body = Inbound()
        self.window = Outbound()
        self.cancelled = False
        self._pipe = pipe
        self._number = number
        self._over = False
        self._cancel: Callable[[], object] | None = None
        self._when_over: list[Callable[[], object]] | None = None
        self._arrived = pipe.heard_at
        self._started = False
        self._tail: Chunk | None = None
        """The last chunk of the answer that was put."""
        self.calls: set[Cancellable] | None = None
        """Calls that its handler made of other deployments and that are not over: if it is cancelled, so are they."""
        self.body.feed(head.data, head.end)

    def time_left_s(self, now: float) -> float | None:
        """Return the seconds that are left for its answer at `now`, by the loop's clock; None: it is not bounded.

        Once an answer that is streamed has begun, only its progress is, and that is its caller's affair.
        """
        if not self.head.timeout_ms or self._started or self._over:
            return None
        return self._arrived + self.head.timeout_ms / 1000 - now

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
        for each in tuple(self.calls or ()):
            each.cancel()
        self.window.close()
        self.body.fail(asyncio.CancelledError())
        if self._cancel is None:
            self.done()
        else:
            # Not now: a handler that has not had its first step could not end its call.
            asyncio.get_running_loop().call_soon(self._cancel)

    def when_over(self, then: Callable[[], object]) -> bool:
        """Call `then` when the call has ended, whatever its end. False if it has."""
        if self._over:
            return False
        if self._when_over is None:
            self._when_over = []
        self._when_over.append(then)
        return True

    async def read(self) -> bytes:
        """Return the next body chunk, b"" at the end."""
        data = await self.body.read()
        if credit := self.body.credit():
            self._put(pb.ResponseFrame(call=self._number, window=pb.Window(bytes=credit)))
        return data

    def answer(self, status: int, headers: list[bytes], body: bytes, *, over: bool = True) -> bool:
        """Send a whole answer and end the call, in one frame. False if the body is too large for that.

        `over`: whether the call ends with it; if not, `done` must follow. Raises ValueError if the headers are too
        large for a frame.
        """
        size = len(body) + _head_bytes(headers)
        if len(body) > WHOLE_BYTES:
            return False
        self._pipe.answering(self._number)
        frame = pb.ResponseFrame(call=self._number, done=over)
        head = frame.head
        head.status = status
        head.headers.extend(headers)
        if body:
            head.data = body
        head.end = True
        if over:
            self._finish(frame, size)
        else:
            self._started = True
            self._put(frame, size)
        return True

    def answer_grpc(self, metadata: list[bytes], message: bytes, trailers: pb.Trailers, compression: int = 0) -> bool:
        """Send the whole answer of a gRPC call and end it, in one frame. False if `message` is too large for that.

        `message` is one framed message, or b"" for none.
        """
        if len(message) > WHOLE_BYTES:
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
        self._started = True
        self._pipe.answering(self._number)
        head = pb.Head(status=status, headers=headers, compression=compression)
        self._put(pb.ResponseFrame(call=self._number, head=head), size)

    async def write(self, data: bytes, *, end: bool = False) -> bool:
        """Send body bytes as the reader takes them. False once nobody reads them any more."""
        outbox, tail = self._pipe.outbox, self._tail
        if tail is not None and tail.takes(len(data), outbox.batch) and self.window.grow(tail.size, len(data)):
            if self.cancelled or self._over:
                return False
            tail.add(data)
            tail.end = end
            return True
        pieces = chunks(data)
        for i, piece in enumerate(pieces):
            if piece and not await self.window.take(len(piece)):
                return False
            if tail is not None and tail.batch == outbox.batch and self._is_much(tail):
                # Code that never waits for anything else would keep all other calls from running meanwhile.
                await asyncio.sleep(0)
            if self.cancelled or self._over:
                return False
            last = end and i == len(pieces) - 1
            if piece or last:
                self._tail = tail = Chunk(self._number, piece, end=last, batch=outbox.batch)
                if len(piece) > _LARGE_BYTES:
                    outbox.put_data(tail, len(piece))
                else:
                    outbox.put(tail)
        return True

    def _is_much(self, tail: Chunk) -> bool:
        """Whether so much waits to be taken, since this call's last chunk at least, that others should run first."""
        return tail.pieces > JOINED_PIECES or len(self._pipe.outbox) >= FRAMES_MAX

    def fail(self, message: str, error: BaseException | None = None) -> None:
        """End the call: the handler raised `error`. `message` is what logs say of it."""
        self.window.close()
        self._finish(pb.ResponseFrame(call=self._number, done=True, failed=failed(message, error)), 0)

    def finish_grpc(self, trailers: pb.Trailers) -> None:
        """End a gRPC call whose head was sent."""
        self.window.close()
        frame = pb.ResponseFrame(call=self._number, done=True, trailers=trailers)
        self._finish(frame, _trailers_bytes(trailers))

    def done(self) -> None:
        """End the call; its answer, if any is owed, was sent."""
        self.window.close()
        if (tail := self._tail) is not None and tail.batch == self._pipe.outbox.batch:
            self._finish(None, 0)
            tail.done = True  # it has not left yet, and is the last of this call
        else:
            self._finish(pb.ResponseFrame(call=self._number, done=True), 0)

    def _finish(self, frame: pb.ResponseFrame | None, size: int) -> None:
        assert not self._over, "a call ends once"
        self._over = True
        if self._when_over is not None:
            for then in self._when_over:
                then()
        # The slot first, then the frame: when the caller sees `done`, the slot is free.
        self._pipe.over(self._number)
        if frame is not None and not self._pipe.closed:
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


def check_head(headers: list[bytes]) -> None:
    """Raise ValueError if an answer's headers are too large for a frame."""
    _head_bytes(headers)


def _head_bytes(headers: list[bytes]) -> int:
    """Return the size of headers. Raises ValueError if they are too large."""
    size = sum(map(len, headers))
    if size > HEAD_BYTES_MAX:
        raise ValueError(f"the answer's headers have {size} bytes; {HEAD_BYTES_MAX} are allowed")
    return size


def _trailers_bytes(trailers: pb.Trailers) -> int:
    return trailers.ByteSize() if trailers.metadata or trailers.message else 0
