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
from mesh.pipe.codec import Chunk
from mesh.pipe.outbox import Outbox
from mesh.pipe.served_call import ServedCall
from mesh.pipe.slots import Slots
from mesh.v1 import replica_service_pb2 as pb

OFFER_S = 1.0
"""Seconds for which an offered slot is reserved."""

Serve = Callable[[ServedCall], Callable[[], object]]
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
        self._model_ids: tuple[str, ...] = ()

    async def serve_pipe(self, context: Any) -> None:
        """Serve one pipe until its caller ends it or is lost; then cancel what it still runs."""
        pipe = ServedPipe(self, context)
        tasks = Tasks()
        await context.send_initial_metadata(())
        writer = tasks.spawn(pipe.outbox.run(pipe.acknowledge), name="pipe-writer")
        reader = tasks.spawn(self._read(pipe, context), name="pipe-reader")
        self._pipes.add(pipe)
        if self._model_ids:
            pipe.tell_models(self._model_ids)
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
            pipe.heard_at = clock()
            pipe.receive(message)

    def tell_models(self, model_ids: tuple[str, ...]) -> None:
        """Tell all callers which models this replica has now."""
        self._model_ids = model_ids
        for pipe in self._pipes:
            pipe.tell_models(model_ids)

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
        self.heard_at = 0.0
        """When the last message came, by the loop's clock."""
        self._context = context
        self._calls: dict[int, ServedCall] = {}
        self._unacknowledged: dict[int, None] = {}
        self._starting: deque[tuple[int, ServedCall]] = deque()
        """Calls whose Accepted is not written yet, and how many frames are written when it is."""
        self._taken = 0
        """Frames that were written, or are being."""
        self._offers: deque[asyncio.TimerHandle] = deque()
        self._models: pb.ResponseFrame | None = None
        """The frame that tells of models and was not written yet."""
        self.outbox: Outbox[pb.ResponseFrame | Chunk] = Outbox(self._write)

    def receive(self, frames: Any) -> None:
        """Act on the frames of one message, in order."""
        for frame in frames:
            if type(frame) is Chunk:
                if (call := self._calls.get(frame.call)) is not None and not call.body.feed(frame.data, frame.end):
                    call.cancel()
                continue
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

    def tell_models(self, model_ids: tuple[str, ...]) -> None:
        """Tell this caller which models there are; of changes while nothing can be written, only the last."""
        models = pb.Models(model_ids=model_ids)
        if self._models is not None:
            self._models.models.CopyFrom(models)
        else:
            self._models = pb.ResponseFrame(models=models)
            self.outbox.put(self._models)
            self.outbox.wake()

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

    async def _write(self, frames: list[pb.ResponseFrame | Chunk]) -> None:
        self._taken += len(frames)
        if self._models is not None and self._models in frames:
            self._models = None
        written = self._taken
        try:
            await self._context.write(frames)
        except grpc.aio.BaseError:
            # The caller is gone; the reading side learns it too and ends the pipe.
            self.closed = True
            return
        starting = self._starting
        while starting and starting[0][0] <= written:
            starting.popleft()[1].begin()


def _rejected(number: int, refusal: pb.Refusal.ValueType) -> pb.ResponseFrame:
    return pb.ResponseFrame(call=number, rejected=pb.Rejected(refusal=refusal))
