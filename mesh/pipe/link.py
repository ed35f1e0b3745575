"""The caller's end of one pipe: the connection to one replica and the calls on it.

Owns the stream, its reconnection and the numbering of calls. Decides nothing about who is sent where: it tells
its `Dispatcher` what the replica said. One link per replica and caller process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import grpc

from mesh.backoff import Backoff
from mesh.clock import Clock
from mesh.connection import channel
from mesh.credentials import Credentials
from mesh.errors import ReplicaLost
from mesh.liveness import pings
from mesh.pipe.call import Call
from mesh.pipe.codec import Chunk
from mesh.pipe.outbox import Outbox
from mesh.pipe.service import open_pipe
from mesh.settings import MESSAGE_BYTES_MAX
from mesh.v1 import replica_service_pb2 as pb

CONNECT_S = 5.0
WARN_AFTER = 5
"""Attempts in a row without a pipe after which that is logged, once."""
RECONNECT = Backoff(initial_s=0.05, max_s=2.0, floor=0.2)
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    *pings(),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # The time for a connection, round trips included; the pauses are the two below.
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

log = logging.getLogger("mesh.pipe")


class LinkEvents(Protocol):
    """What a link tells its dispatcher."""

    def connected(self, link: Link) -> None:
        """Calls can be sent."""

    def lost(self, link: Link, calls: list[Call]) -> None:
        """The stream broke with these calls on it."""

    def rejected(self, link: Link, call: Call, refusal: int) -> None:
        """The replica refused a call before running it."""

    def offered(self, link: Link) -> None:
        """The replica reserved a slot for this caller."""

    def models(self, link: Link, model_ids: Sequence[str]) -> None:
        """The replica told which models it has."""

    def done(self, link: Link, call: Call) -> None:
        """A call is over and its slot is free."""

    def failed(self, link: Link, call: Call, told: pb.Failed) -> None:
        """A call's handler raised."""


class Link:
    """A pipe to the replica at `address`. `in_flight` to `failures` belong to the balance it stands in."""

    def __init__(
        self, replica_id: str, address: str, events: LinkEvents, credentials: Credentials, clock: Clock
    ) -> None:
        self.replica_id = replica_id
        self.address = address
        self.in_flight = 0
        self.open = self.ranked = False
        self.failures = 0
        self.fresh = True
        """Its first attempt to connect has not ended yet."""
        self.refusals = 0
        """Refusals by this replica that no offer has answered yet."""
        self.draining = False
        self.retiring = False
        """No longer in the snapshot: what is on it may end, nothing new is sent."""
        self.held: set[Call] = set()
        """Calls that hold a slot here and whose Open was not sent yet."""
        self._events = events
        self._credentials = credentials
        self._clock = clock
        self._calls: dict[int, Call] = {}
        self._number = 0
        self._single = False
        """Calls come one by one: they may wait for one another."""
        self._outbox: Outbox[pb.RequestFrame | Chunk] | None = None
        self._cause = ""
        """Why the last attempt failed."""

    def __repr__(self) -> str:
        return f"<Link {self.replica_id} {self.address} {self.in_flight} in flight{' open' if self.open else ''}>"

    async def run(self) -> None:
        """Keep the pipe connected until cancelled, or until it breaks while retiring."""
        attempt = 0
        while not self.retiring:
            try:
                connected = await self._serve_once()
            except Exception:
                # Whatever a replica sent: its link must come back, for nobody else will open it again.
                log.exception("pipe failed", extra={"replica": self.replica_id})
                connected = False
            attempt = 0 if connected else attempt + 1
            if attempt == WARN_AFTER:
                told = {"replica": self.replica_id, "address": self.address, "cause": self._cause}
                log.warning("no pipe to a replica; trying again", extra=told)
            await asyncio.sleep(RECONNECT.pause_s(attempt, self._clock.random))

    def send_open(self, call: Call, *, offer: bool) -> None:
        """Send a call's Open frame."""
        self._number += 1
        call.link, call.number = self, self._number
        self._calls[self._number] = call
        frame = call.frame
        frame.call = self._number
        if offer or frame.open.offer:
            frame.open.offer = offer
        if size := len(frame.open.data):
            self._put_data(frame, size)
        else:
            self._put(frame)
        self._single = call.single
        if self._outbox is not None:  # the replica answers or accepts at once, or refuses
            self._outbox.hold()

    @property
    def batch(self) -> int:
        """Number of the message that is gathered now, by its outbox's count."""
        return self._outbox.batch if self._outbox is not None else -1

    def send_data(self, call: Call, data: bytes, *, end: bool) -> Chunk | None:
        """Send body bytes of a call that runs. Returns what they go in."""
        if call.number not in self._calls:
            return None
        chunk = Chunk(call.number, data, end=end, batch=self.batch)
        self._put_data(chunk, len(data))
        return chunk

    def send_credit(self, call: Call, credit: int) -> None:
        """Let the replica send `credit` more body bytes."""
        if call.number in self._calls:
            self._put(pb.RequestFrame(call=call.number, window=pb.Window(bytes=credit)))

    def send_cancel(self, call: Call) -> None:
        """Ask the replica to stop a call. `done` still follows."""
        if call.number in self._calls:
            self._put(pb.RequestFrame(call=call.number, cancel=pb.Cancel()))

    def decline(self) -> None:
        """Give an offered slot back."""
        self._put(pb.RequestFrame(decline=pb.Decline()))

    async def _serve_once(self) -> bool:
        connected = False
        opened = channel(self.address, self._credentials, CHANNEL_OPTIONS)
        try:
            stream = open_pipe(opened)
            async with asyncio.timeout(CONNECT_S):
                # The replica's own word: its host may take the connection when it takes no stream any more.
                await stream.initial_metadata()
                if stream.done():
                    await stream.wait_for_connection()  # raises the stream's status
            connected = True
            outbox: Outbox[pb.RequestFrame | Chunk] = Outbox(
                stream.write, lambda: len(self._calls) if self._single else 0
            )
            self._outbox = outbox
            self._events.connected(self)
            await self._exchange(stream, outbox)
        except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError, TimeoutError) as error:
            self._cause = _cause(error)
            if connected and not self.retiring:
                log.info("pipe lost", extra={"replica": self.replica_id, "cause": self._cause})
        finally:
            self._outbox, self.fresh = None, False
            calls = list(self._calls.values())
            self._calls.clear()
            self._events.lost(self, calls)
            await opened.close()
        return connected

    async def _exchange(self, stream: Any, outbox: Outbox[pb.RequestFrame | Chunk]) -> None:
        """Read and write until either ends."""
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(_ending(outbox.run()), name="pipe-writer")
            try:
                while (message := await stream.read()) is not grpc.aio.EOF:
                    self._receive(message)
                    outbox.heard()
                    if writer.done():
                        break
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                if not self.retiring:
                    log.info("pipe lost", extra={"replica": self.replica_id, "cause": _cause(error)})
            finally:
                writer.cancel()

    def _receive(self, frames: Any) -> None:
        events = self._events
        for frame in frames:
            if type(frame) is Chunk:
                if (call := self._calls.get(frame.call)) is not None and not call.body.feed(frame.data, frame.end):
                    self._overrun(call)
                continue
            kind = frame.WhichOneof("kind")
            if kind == "offer":
                events.offered(self)
                continue
            number = frame.call
            call = self._calls.get(number)
            if call is None:
                if kind == "models":
                    events.models(self, frame.models.model_ids)
                continue
            if kind == "head":
                call.answer(frame.head)
            elif kind == "data":
                data = frame.data
                if not call.body.feed(data.data, data.end):
                    self._overrun(call)
            elif kind == "accepted":
                call.accept()
            elif kind == "window":
                call.window.add(frame.window.bytes)
            elif kind == "trailers":
                call.finish(frame.trailers)
            elif kind == "rejected":
                del self._calls[number]
                events.rejected(self, call, frame.rejected.refusal)
                continue
            elif kind == "failed":
                events.failed(self, call, frame.failed)
            if frame.done:
                del self._calls[number]
                events.done(self, call)

    def _overrun(self, call: Call) -> None:
        """The replica sent more than it had credit for: its call must not fill the memory here."""
        call.fail(ReplicaLost(f"replica {self.replica_id} sent more than was taken"))
        self.send_cancel(call)

    def _put(self, frame: pb.RequestFrame) -> None:
        if self._outbox is not None:
            self._outbox.put(frame)

    def _put_data(self, frame: pb.RequestFrame | Chunk, size: int) -> None:
        if self._outbox is not None:
            self._outbox.put_data(frame, size)


async def _ending(work: Any) -> None:
    """Let a failed write end quietly: the reading side gets the stream's status."""
    try:
        await work
    except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
        return


def _cause(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
