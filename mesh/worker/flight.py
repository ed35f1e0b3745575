"""One call by handle on its way: from its frame to the value that came back.

Owns its deadline and its end. Moves in the event loop; threads may wait for it and cancel it. Made by `handles`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from mesh.errors import (
    DecodingFailed,
    HandleMisused,
    HandlerFailed,
    MeshError,
    RequestTimeout,
)
from mesh.pipe.call import Call
from mesh.pipe.messages import Assembly, sole
from mesh.pipe.served_call import ServedCall
from mesh.serving import encoding
from mesh.serving.handle import Callee
from mesh.v1 import replica_service_pb2 as pb
from mesh.worker.call_errors import misused, named, refused, told

if TYPE_CHECKING:
    from mesh.worker.handles import Handles, Reached

_TRACE = (b"traceparent", b"tracestate", b"baggage")


class Origin(NamedTuple):
    """Whence a call comes: the call that the calling code serves, if any, and the id of the request.

    A batch serves several calls; what calls from it has the `deadline` of the batch, in seconds of the loop's clock.
    """

    served: ServedCall | None
    request_id: str
    deadline: float | None = None


class _Call(Call):
    """A call that tells its flight at once when its head came, or never will."""

    __slots__ = ("flight",)

    flight: Flight | None
    """None once it was told. (A cycle would keep both, and all they hold, until the collector comes round.)"""

    def answer(self, head: pb.Head) -> None:
        super().answer(head)
        if (flight := self.flight) is not None:
            self.flight = None
            flight.answered(head)

    def fail(self, error: MeshError) -> None:
        super().fail(error)
        if (flight := self.flight) is not None:
            self.flight = None
            flight.failed(error)


class Flight:
    """A call of `callee` (`handle.Flight`)."""

    __slots__ = (
        "__weakref__",
        "_call",
        "_callee",
        "_cancelled",
        "_handles",
        "_is_over",
        "_origin",
        "_outcome",
        "_preparing",
        "_reached",
        "_timeout_s",
        "due",
        "timer",
    )

    def __init__(self, handles: Handles, callee: Callee, origin: Origin) -> None:
        self._handles = handles
        self._callee = callee
        self._origin = origin
        self._outcome: asyncio.Future[Any] = handles.loop.create_future()
        self._call: Call | None = None
        self._reached: Reached | None = None
        self.due = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self._timeout_s: float | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._cancelled = False
        self._is_over = False

    # What the calling code asks.

    def outcome(self) -> Any:
        """Return what to await for the answer."""
        if self._handles.is_here():
            return self._outcome
        return asyncio.wrap_future(self._elsewhere())

    def wait(self, timeout_s: float | None) -> Any:
        """Return the answer, in a thread."""
        waiting = self._elsewhere()
        try:
            return waiting.result(timeout_s)
        except TimeoutError:
            if waiting.done():
                raise
            raise RequestTimeout(f"{named(self._callee)} did not answer within {timeout_s:g} s") from None

    def cancel(self) -> None:
        """Give the call up, from any thread."""
        if not self.done():
            self._in_loop(self._cancel)

    def done(self) -> bool:
        """Whether the answer is there, or never will be."""
        return self._is_over

    # What happens to it.

    def preparing(self, task: asyncio.Task[None]) -> None:
        """Its arguments are answers of others, which `task` waits for."""
        self._preparing = task
        self._begin()

    def start(self, body: list[bytes]) -> None:
        """Send it, or let it wait, or fail it."""
        self._preparing = None
        if self._reached is None:
            self._begin()
        if self._is_over or self._reached is None:
            return
        loop = self._handles.loop
        frame = self._frame(body[0], end=len(body) == 1)
        call = self._call = _Call(frame, loop, idempotent=False, body_follows=len(body) > 1)
        call.flight = self
        if self._callee.model_id:
            call.for_model(self._callee.model_id)
        try:
            self._reached.dispatcher.submit(call, self._origin.request_id)
        except MeshError as error:
            call.ended = True
            self.fail(told(error, self._callee))
            return
        if len(body) > 1:
            self._handles.tasks.spawn(self._send(call, body), name="arguments")

    def fail(self, error: BaseException) -> None:
        """End it with an error."""
        self._finish()
        if not self._outcome.done():
            self._outcome.set_exception(error)
            self._outcome.exception()  # whoever waits elsewhere sees it; this one may never be awaited
        self._give_up(error if isinstance(error, MeshError) else HandleMisused(str(error)))

    def _begin(self) -> None:
        """Bind it to the call that the calling code serves, and set its deadline."""
        handles, callee = self._handles, self._callee
        self._reached = handles.reach(callee.application, callee.deployment)
        served, timeout_s = self._origin.served, callee.timeout_s
        now = handles.loop.time()
        if own_s := self._reached.timeout_s:
            timeout_s = own_s if timeout_s is None else min(own_s, timeout_s)
        left_s = None
        if served is not None:
            if served.cancelled:
                self._cancel()
                return
            left_s = served.time_left_s(now)
            if served.calls is None:
                served.calls = set()
            served.calls.add(self)
        elif self._origin.deadline is not None:
            left_s = self._origin.deadline - now
        if left_s is not None:
            timeout_s = left_s if timeout_s is None else min(left_s, timeout_s)
        self._timeout_s = timeout_s
        if timeout_s is None:
            return
        self.due = now + timeout_s
        if timeout_s <= 0:
            self.late()
        else:
            handles.deadlines.add(self, now)

    def _frame(self, data: bytes, *, end: bool) -> pb.RequestFrame:
        callee, served = self._callee, self._origin.served
        frame = pb.RequestFrame()
        head = frame.open
        head.handle = True
        head.method = callee.method
        head.request_id = self._origin.request_id
        if self.due:
            head.timeout_ms = max(1, int((self.due - self._handles.loop.time()) * 1000))
        if served is not None and (headers := served.head.headers):
            for at in range(0, len(headers) - 1, 2):
                if headers[at] in _TRACE:
                    head.headers.extend(headers[at : at + 2])
        if end:
            head.data, head.end = data, True
        return frame

    async def _send(self, call: Call, body: list[bytes]) -> None:
        """Send a body that is larger than one frame."""
        assert self._reached is not None
        try:
            await call.granted()
            self._reached.dispatcher.open(call, body[0], end=False)
            await call.wait_accepted()
            for i, piece in enumerate(body[1:], 2):
                if not await call.write(piece, end=i == len(body)):
                    return
        except MeshError:
            return  # the head's future has it, too

    def answered(self, head: pb.Head) -> None:
        """The head of the answer is there."""
        if self._outcome.done():  # or cancelled, just now
            return
        if (error := misused(head.status, self._callee)) is not None:
            self.fail(error)
        else:
            self._take_head(head)

    def failed(self, error: MeshError) -> None:
        """There will be no answer."""
        if not self._is_over:
            self.fail(told(error, self._callee))

    def _take_head(self, head: pb.Head) -> None:
        call = self._call
        assert call is not None
        if (
            head.end
            and (whole := sole(head.data, encoding.MESSAGE_BYTES_MAX)) is not None
            and not (head.HasField("trailers") and head.trailers.code)
        ):
            self._take(whole)
        else:
            self._handles.tasks.spawn(self._read(call), name="answer")

    async def _read(self, call: Call) -> None:
        """Read an answer that did not come in one frame."""
        assembly, whole = Assembly(encoding.MESSAGE_BYTES_MAX), list[bytes | bytearray]()
        try:
            while data := await call.read():
                whole += assembly.feed(data)
            assembly.end()
            self._check_status(call)
            if len(whole) != 1:
                raise HandlerFailed(f"{len(whole)} values came, not one")
        except Exception as error:
            self.fail(told(error, self._callee))
        else:
            self._take(whole[0])

    def _take(self, message: bytes | bytearray) -> None:
        if self._outcome.done():
            return
        try:
            value = encoding.decode(message)
        except DecodingFailed as error:
            self.fail(DecodingFailed(f"the answer of {named(self._callee)}: {error.message}", hint=error.hint))
            return
        self._outcome.set_result(value)
        self._finish()

    def _check_status(self, call: Call) -> None:
        """Raise CallRefused if the status of a gRPC method is not OK."""
        head = call.head.result()
        trailers = call.trailers or (head.trailers if head.HasField("trailers") else None)
        if trailers is not None and (error := refused(trailers, self._callee)) is not None:
            raise error

    def late(self) -> None:
        """Its time is over."""
        self.fail(
            RequestTimeout(f"{named(self._callee)} did not answer within the {self._timeout_s:.3g} s that were left")
        )

    def _cancel(self) -> None:
        """Give it up, in the loop."""
        if self._is_over:
            return
        self._cancelled = True
        self._finish()
        self._outcome.cancel()
        self._give_up(HandleMisused("the call was cancelled"))

    def _give_up(self, error: MeshError) -> None:
        """Tell the replica, and whoever reads or writes, that nobody waits for the call any more."""
        call = self._call
        if call is not None and not call.ended and self._reached is not None:
            self._reached.dispatcher.cancel(call)
            call.fail(error)

    def _unlimited(self) -> None:
        self._handles.deadlines.drop(self)

    def _finish(self) -> None:
        """Free what it holds."""
        self._is_over = True
        self._handles.deadlines.drop(self)
        if self._preparing is not None:
            self._preparing.cancel()
            self._preparing = None
        served = self._origin.served
        if served is not None and served.calls is not None:
            served.calls.discard(self)

    def _elsewhere(self) -> concurrent.futures.Future[Any]:
        """Return what holds the answer for other threads."""
        waiting: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def tell(outcome: asyncio.Future[Any]) -> None:
            if outcome.cancelled():
                waiting.cancel()
                waiting.set_running_or_notify_cancel()
            elif waiting.set_running_or_notify_cancel():
                if (error := outcome.exception()) is not None:
                    waiting.set_exception(error)
                else:
                    waiting.set_result(outcome.result())

        self._in_loop(lambda: self._outcome.add_done_callback(tell))
        return waiting

    def _in_loop(self, work: Callable[[], object]) -> None:
        if self._handles.is_here():
            work()
        else:
            self._handles.loop.call_soon_threadsafe(work)
