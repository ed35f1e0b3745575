"""One call as its caller sees it: what is asked, where it stands, and what comes back.

Owns the state of a call and the futures that its one user waits on. Moves only when `dispatch` and `link` say
so; sends only through its link. Used by the gateway's pipeline and by handles.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mesh.errors import MeshError
from mesh.pipe.codec import JOINED_BYTES, Chunk
from mesh.pipe.flow import WHOLE_BYTES, Inbound, Outbound, chunks
from mesh.v1 import replica_service_pb2 as pb

if TYPE_CHECKING:
    from mesh.pipe.dispatch import Dispatcher
    from mesh.pipe.link import Link


class Call:
    """A call on its way.

    `frame` is its Open frame, kept until it is answered, so that it can be sent to another replica; None
    until the body's first bytes are at hand (`open_with`). `order` is its place in the line.
    """

    __slots__ = (
        "_accept",
        "_grant",
        "_loop",
        "_tail",
        "accepted",
        "body",
        "broken",
        "ended",
        "frame",
        "head",
        "holder",
        "idempotent",
        "link",
        "losses",
        "model_id",
        "number",
        "offered",
        "order",
        "repeated",
        "single",
        "streams",
        "trailers",
        "window",
    )

    def __init__(
        self, frame: pb.RequestFrame, loop: asyncio.AbstractEventLoop, *, idempotent: bool, body_follows: bool
    ) -> None:
        # The loop is handed in: asking for the running one costs a system call, several times a request.
        self._loop = loop
        self.frame = frame
        self.idempotent = idempotent
        if idempotent:
            frame.open.idempotent = True
        self.order = 0
        self.holder: Dispatcher | None = None
        """Who dispatches it now; another than it was submitted to, if that one is gone."""
        self.link: Link | None = None
        self.number = 0
        """Its number on the link's pipe; 0 until its Open was sent."""
        self.offered = False
        self.accepted = False
        self.repeated = False
        self.losses = 0
        """Replicas that were lost with it."""
        self.model_id = ""
        """The model that it is for, if it names one."""
        self.single = False
        """It came by itself, not in a bunch with others, as calls over gRPC do."""
        self.broken = False
        """Its answer says that the server is at fault."""
        self.ended = False
        """The caller needs no more of it: answered, failed or cancelled."""
        self.streams = False
        """Part of its body was or will be sent by `write`, so it cannot be sent again once accepted."""
        self.trailers: pb.Trailers | None = None
        """Status of a gRPC call; there once its body has ended."""
        self.head: asyncio.Future[pb.Head] = loop.create_future()
        self.body = Inbound(loop)
        self.window = Outbound()
        self._tail: Chunk | None = None
        """The last chunk of its body that was sent."""
        self._grant: asyncio.Future[None] | None = None
        self._accept: asyncio.Future[None] | None = None
        if body_follows:
            self._grant = loop.create_future()

    def __repr__(self) -> str:
        where = f"on {self.link.address}" if self.link is not None else "unsent"
        return f"<Call {self.order} {where}{' accepted' if self.accepted else ''}{' ended' if self.ended else ''}>"

    def for_model(self, model_id: str) -> None:
        """Say which of the replicas' models it is for. Before it is submitted."""
        self.model_id = self.frame.open.model_id = model_id

    @property
    def complete(self) -> bool:
        """Whether nothing is owed either way: the answer came whole, and so did the body if it was streamed."""
        return self.body.ended and (self.window.closed or not self.streams)

    @property
    def ready(self) -> bool:
        """Whether the Open frame is complete and may be sent as soon as there is a slot."""
        return self._grant is None

    async def granted(self) -> None:
        """Wait for a slot. Only for calls whose body follows. Raises what `fail` was given."""
        assert self._grant is not None
        await self._grant

    def grant(self) -> None:
        """Let `granted` return: a slot is held for this call."""
        assert self._grant is not None
        if not self._grant.done():
            self._grant.set_result(None)

    def revoke_grant(self) -> None:
        """The slot that was held is gone (its replica was lost); wait for another."""
        assert self._grant is not None
        if self._grant.done():
            self._grant = self._loop.create_future()

    def open_with(self, data: bytes, *, end: bool) -> None:
        """Complete the Open frame with the first body bytes. Without `end`, the rest follows by `write`."""
        head = self.frame.open
        head.data = data
        head.end = end
        self.streams = not end
        self._grant = None
        if self.streams:
            self.window.take_nowait(len(data))
            self._accept = self._loop.create_future()

    def accept(self) -> None:
        """The replica runs it."""
        self.accepted = True
        if self._accept is not None and not self._accept.done():
            self._accept.set_result(None)

    async def wait_accepted(self) -> None:
        """Wait until the replica runs it. Raises what `fail` was given."""
        assert self._accept is not None
        await self._accept

    def answer(self, head: pb.Head) -> None:
        """Take the head of the answer."""
        self.accept()
        if self.head.done():
            return
        if head.status >= _SERVER_ERROR or (head.HasField("trailers") and head.trailers.code in _BROKEN):
            self.broken = True
        self.body.feed(head.data, head.end)
        self.head.set_result(head)

    def finish(self, trailers: pb.Trailers) -> None:
        """Take the end of a gRPC call's answer."""
        self.trailers = trailers
        if trailers.code in _BROKEN:
            self.broken = True
        self.body.feed(b"", True)

    def fail(self, error: MeshError) -> None:
        """End it with an error, wherever its user waits."""
        self.ended = True
        self.window.close()
        self.body.fail(error)
        for future in (self._grant, self._accept, self.head):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # whoever waits elsewhere sees it there; this one may never be awaited

    async def write(self, data: bytes, *, end: bool) -> bool:
        """Send more of the body. False once the replica reads no more of it. Wait for `wait_accepted` first."""
        tail, link = self._tail, self.link
        joins = tail is not None and link is not None and tail.takes(len(data), link.batch)
        if tail is not None and joins and self.window.grow(tail.size, len(data)):
            tail.add(data)
            if end:
                tail.end = True
                self.window.close()
            return True
        pieces = chunks(data)
        for i, piece in enumerate(pieces):
            if piece and not await self.window.take(len(piece)):
                return False
            if self.link is None:  # the replica was lost
                return False
            last = end and i == len(pieces) - 1
            if piece or last:
                self._tail = self.link.send_data(self, piece, end=last)
        if end:
            self.window.close()
        return True

    async def read(self) -> bytes:
        """Return the next of the answer's body, b"" at the end. Raises ReplicaLost or HandlerFailed.

        All that is here, up to a bound: to hand on many small pieces one by one costs far more.
        """
        data = await self.body.read()
        if self.body.pending:
            data = self.body.read_on(data, JOINED_BYTES)
        if (credit := self.body.credit()) and self.link is not None:
            self.link.send_credit(self, credit)
        return data


_SERVER_ERROR = 500
_BROKEN = frozenset((2, 13, 14, 15))
"""gRPC's UNKNOWN, INTERNAL, UNAVAILABLE and DATA_LOSS."""
OPEN_BYTES_MAX = WHOLE_BYTES
"""Body bytes that may travel in an Open frame."""
