"""What takes frames: the readers of messages and lines, and both ends of a pipe, without a network.

The frames are those that a peer could send, in an order it would not, and then mutated as bytes. A pipe may break of
them; nothing may be left behind, and other pipes go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from mesh.clock import Clock
from mesh.credentials import OPEN
from mesh.errors import MeshError
from mesh.lifecycle import Tasks
from mesh.pipe.call import Call
from mesh.pipe.callee import Callee
from mesh.pipe.codec import REQUESTS, RESPONSES, Chunk, Codec
from mesh.pipe.dispatch import Dispatcher, Limits
from mesh.pipe.link import Link
from mesh.pipe.messages import BadFraming, Messages, framed, sole
from mesh.pipe.outbox import Outbox
from mesh.pipe.served_call import ServedCall
from mesh.transcode.refusals import RequestRefused
from mesh.transcode.streams import LineSplitter
from mesh.v1 import replica_service_pb2 as pb
from tests.fuzz.inputs import Make, Outcome, check_words
from tests.fuzz.wire_mutations import Wire
from tests.support.gateways import until
from tests.support.pipes import ScriptedCaller, opened

WAIT_S = 20.0
MESSAGE_BYTES_MAX = 2000
LIMIT = 3
"""Slots of a replica, and calls of a gateway."""
_SIZES = (0, 1, 100, 65536, 2**31, 2**32 - 1)


class Framing:
    """Messages in a byte stream, in whatever pieces; and lines."""

    def __init__(self, wire: Make[bytes]) -> None:
        self._wire = wire

    def make(self, random: Random) -> tuple[bytes, ...]:
        """Return the pieces of a body."""
        data = b"".join(framed(self._wire(random), plain=random.random() < 0.1) for _ in range(random.randrange(5)))
        for _ in range(random.randrange(3)):
            at = random.randrange(len(data) + 1)
            data = (
                data[:at]
                + random.choice((b"\n", b"\0", b"\xff", b"\0\0\0\0\0", b"\2", b""))
                + data[at + random.randrange(6) :]
            )
        cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.choice((0, 1, 3, 20))))
        return tuple(data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True))

    def check(self, pieces: tuple[bytes, ...]) -> Outcome:
        """Read the pieces as messages and as lines."""
        data, lines = b"".join(pieces), LineSplitter(500)
        try:
            found = [line for piece in pieces for line in lines.feed(piece)] + lines.end()
            assert found == [line for each in data.split(b"\n") if (line := each.strip(b" \t\r"))]
        except RequestRefused:
            assert any(len(line) > 500 for line in data.split(b"\n"))
        messages, read = Messages(MESSAGE_BYTES_MAX), []
        try:
            for piece in pieces:
                messages.feed(piece)
                while (message := messages.next()) is not None:
                    read.append(framed(message, plain=messages.plain))
            messages.end()
        except BadFraming:
            assert data.startswith(b"".join(read))
            return "bad framing"
        assert b"".join(read) == data
        alone = sole(data, MESSAGE_BYTES_MAX)
        assert (alone is not None) == (len(read) == 1 and not data[0]), "the short way differs from the long one"
        return "messages"


class Pipe:
    """Makes the messages of one side of a pipe."""

    def __init__(self, codec: Codec[Any], kind: Any, frame: Callable[[Random], Any], random: Random) -> None:
        self._codec = codec
        self._kind = kind
        self._frame = frame
        starts = [self._message(random).SerializeToString() for _ in range(200)]
        self._wire = Wire(starts, list(range(1, 11)), [1, 2, 5])

    def make(self, random: Random) -> tuple[bytes, ...]:
        """Return serialized messages: frames in any order, some of them mutated."""
        count = random.choice((1, 2, 3, 6))
        return tuple(
            self._wire(random) if random.random() < 0.4 else self._message(random).SerializeToString()
            for _ in range(count)
        )

    def parsed(self, data: bytes) -> Any:
        """Return a message's frames as grpc would hand them over. Raises DecodeError."""
        return self._codec.decode(data)

    def _message(self, random: Random) -> Any:
        return self._kind(frames=[self._frame(random) for _ in range(random.choice((1, 1, 2, 4, 8)))])


def _data(random: Random) -> bytes:
    if random.random() < 0.002:
        return bytes(300_000)
    return random.choice((b"", b"x", b"\0\0\0\0\0", framed(b"\x08\x01"), random.randbytes(30)))


def _to_replica(random: Random) -> pb.RequestFrame:
    call, end = random.choice((0, 2**64 - 1, *range(1, 20))), random.random() < 0.5
    match random.randrange(9):
        case 0 | 1 | 2 | 3:
            path = random.choice((b"/answer", b"/stream", b"/grpc", b"/fail", b"/wait", b""))
            head = pb.Open(method="POST", raw_path=path, data=_data(random), end=end, offer=random.random() < 0.1)
            head.idempotent, head.headers[:] = random.random() < 0.5, [b"a", b"b"] if end else [b"odd"]
            return pb.RequestFrame(call=random.randrange(1, 40), open=head)
        case 4 | 5:
            return pb.RequestFrame(call=call, data=pb.Data(data=_data(random), end=end))
        case 6:
            return pb.RequestFrame(call=call, cancel=pb.Cancel())
        case 7:
            return pb.RequestFrame(call=call, window=pb.Window(bytes=random.choice(_SIZES)))
        case _:
            return pb.RequestFrame(call=call, decline=pb.Decline())


class CalleePipe:
    """A replica's end: one pipe for each input, beside one whose calls are always answered."""

    def __init__(self, random: Random) -> None:
        self._pipe = Pipe(REQUESTS, pb.PipeRequest, _to_replica, random)
        self._callee = Callee(LIMIT, self._serve)
        self._handlers = Tasks()
        self._beside = ScriptedCaller(self._callee)
        self._count = 0
        self._failed: list[BaseException | None] = []
        self._log = _Raised(self._failed)
        logging.getLogger("mesh").addHandler(self._log)
        self.make = self._pipe.make

    async def check(self, messages: tuple[bytes, ...]) -> Outcome:
        """Serve one pipe to its end."""
        self._failed.clear()
        async with asyncio.timeout(WAIT_S):
            await self._callee.serve_pipe(_Peer(self._pipe, messages))
            if len(self._handlers):
                await until(lambda: not len(self._handlers), "all handlers have ended")
        slots = self._callee.slots
        assert (slots.ongoing, slots.free, len(self._callee._pipes)) == (0, LIMIT, 1), slots
        for error in self._failed:  # what a peer may not do ends its pipe, and is logged
            assert isinstance(error, ValueError) and "was opened twice" in str(error), repr(error)
        self._count += 1
        if self._count % 20 == 0:
            await self._good()
        return "broken" if self._failed else "served"

    async def close(self) -> None:
        """End the good pipe."""
        await self._good()
        await self._beside.hang_up()
        logging.getLogger("mesh").removeHandler(self._log)

    async def _good(self) -> None:
        self._beside.frames.clear()
        await self._beside.send(opened(self._count, path="/answer"))
        await until(lambda: self._beside.kinds(self._count)[-1:] == ["head+done"], "the good call is answered")

    def _serve(self, call: ServedCall) -> Callable[[], object]:
        return self._handlers.spawn(_handle(call), name="handler").cancel


async def _handle(call: ServedCall) -> None:
    """Do what the path says, and end the call once, whatever happens."""
    path = bytes(call.head.raw_path)
    try:
        while await call.read():
            pass
        if path == b"/wait":
            await asyncio.Event().wait()
        if path == b"/fail":
            call.fail("it failed")
        elif path == b"/grpc":
            call.answer_grpc([], framed(b"x"), pb.Trailers(code=5, message="none"))
        elif path == b"/stream":
            call.start(200, [b"a", b"b"])
            await call.write(bytes(1000))
            await call.write(b"", end=True)
            call.done()
        else:
            assert call.answer(200, [], b"x")
    except asyncio.CancelledError:
        call.done()


class _Peer:
    """Stands where grpc's servicer context stands, and says what it was given."""

    def __init__(self, pipe: Pipe, messages: tuple[bytes, ...]) -> None:
        self._pipe = pipe
        self._messages = list(messages)

    async def send_initial_metadata(self, metadata: Any) -> None:
        pass

    async def write(self, frames: list[pb.ResponseFrame | Chunk]) -> None:
        RESPONSES.encode(frames)

    async def read(self) -> Any:
        await asyncio.sleep(0)
        if not self._messages:
            return grpc.aio.EOF
        try:
            return self._pipe.parsed(self._messages.pop(0))
        except DecodeError:
            return grpc.aio.EOF


class _Raised(logging.Handler):
    """Collects what was logged with an exception."""

    def __init__(self, failed: list[BaseException | None]) -> None:
        super().__init__()
        self._failed = failed

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._failed.append(record.exc_info[1])


def _to_gateway(random: Random) -> pb.ResponseFrame:
    frame = pb.ResponseFrame(call=random.choice((0, 1, 1, 1, 2, 2, 3, 4, 9)), done=random.random() < 0.3)
    end = random.random() < 0.5
    match random.randrange(9):
        case 0 | 1:
            frame.head.MergeFrom(pb.Head(status=200, headers=[b"a", b"b"], data=_data(random), end=end))
            if random.random() < 0.3:
                frame.head.trailers.code, frame.head.trailers.metadata[:] = random.choice((0, 5, 17)), [b"odd"]
        case 2 | 3:
            frame.data.MergeFrom(pb.Data(data=_data(random), end=end))
        case 4:
            frame.accepted.SetInParent()
        case 5:
            frame.rejected.MergeFrom(pb.Rejected(refusal=random.choice(pb.Refusal.values())))
        case 6:
            frame.window.bytes = random.choice(_SIZES)
        case 7:
            frame.trailers.MergeFrom(pb.Trailers(code=random.choice((0, 3, 99)), message="m", metadata=[b"a"]))
        case _:
            if end:
                frame.failed.message = "it failed"
            else:
                frame.offer.SetInParent()
    return frame


class LinkPipe:
    """A gateway's end: a dispatcher with calls of each kind, and a link whose replica says what it was given."""

    def __init__(self, random: Random) -> None:
        self._pipe = Pipe(RESPONSES, pb.PipeResponse, _to_gateway, random)
        self._clock = Clock()
        self.make = self._pipe.make

    async def check(self, messages: tuple[bytes, ...]) -> Outcome:
        """Let one replica speak, and then be lost."""
        dispatcher = Dispatcher("fuzz", "Handler", Limits(LIMIT, 2), OPEN, self._clock)
        link = Link("replica", "nowhere", dispatcher, OPEN, self._clock)
        link._outbox = Outbox(_nowhere)
        dispatcher.connected(link)
        calls = [self._call(dispatcher, number) for number in range(LIMIT + 2)]
        outcome = "heard"
        try:
            for data in messages:
                link._receive(self._pipe.parsed(data))
                await self._read(calls)
        except DecodeError:
            outcome = "no message"
        finally:
            link._outbox, sent = None, list(link._calls.values())
            link._calls.clear()
            dispatcher.lost(link, sent)
        assert (link.in_flight, dispatcher.in_flight) == (0, 0), dispatcher
        await dispatcher.close("the end")
        assert dispatcher.queued == 0, dispatcher
        for call in calls:
            assert call.ended and (call.head.done() or not call.ready), f"{call} waits for ever"
            await self._told(call)
        return outcome

    async def close(self) -> None:
        """Nothing is left to end."""

    def _call(self, dispatcher: Dispatcher, number: int) -> Call:
        frame = pb.RequestFrame(open=pb.Open(method="POST", end=True))
        call = Call(frame, dispatcher.loop, idempotent=number % 2 == 0, body_follows=number == 1)
        dispatcher.submit(call, "id")
        if number == 1:
            dispatcher.open(call, b"begin", end=False)
        return call

    async def _read(self, calls: list[Call]) -> None:
        """Read what is there of the answers, as a gateway would."""
        for call in calls:
            while call.body.pending:
                await call.read()

    async def _told(self, call: Call) -> None:
        """Whoever waits for the call gets an answer or an error of mesh."""
        try:
            async with asyncio.timeout(WAIT_S):
                if call.ready:
                    await call.head
                    while await call.read():
                        pass
                else:
                    await call.granted()
        except MeshError as error:
            check_words(error)


async def _nowhere(frames: list[pb.RequestFrame | Chunk]) -> None:
    """Take what is written."""
