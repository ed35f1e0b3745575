"""Which call the running code serves: what its log lines say of it, and what `mesh.serving` may know of it.

Nothing is computed for a call that logs nothing. Set by `handler` and `grpc_calls`, read by the replica's log
formatter.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from mesh.clock import SYSTEM
from mesh.pipe.served_call import ServedCall
from mesh.serving import current_request
from mesh.serving.current_request import CurrentRequest, Place

_TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class ServedRequest(CurrentRequest):
    """A request that came as a call. Nothing is computed before it is asked for."""

    __slots__ = ("source",)

    def __init__(self, place: Place, call: ServedCall) -> None:
        # One for each call: what the base does, without the price of calling it.
        self.place = place
        head = call.head
        self.request_id = head.request_id
        self.model_id = head.model_id
        self.over = False
        self._callbacks = None
        # Not the call itself: code that outlives it, such as a task it started, keeps the context.
        self.source: Callable[[], Any] | None = weakref.ref(call)

    @property
    def deadline(self) -> float | None:
        """When its time is over; None once it is."""
        call = self._call()
        left_s = call.time_left_s(now := SYSTEM.monotonic()) if call is not None else None
        return None if left_s is None else now + left_s

    def watch_end(self) -> bool:
        """Have the call tell of its end."""
        call = self._call()
        return call is not None and call.when_over(self.end)

    def _call(self) -> ServedCall | None:
        call: ServedCall | None = self.source() if self.source is not None else None
        return call


def enter(call: ServedCall, place: Place) -> None:
    """From here on, the code of this task or context serves `call`."""
    current_request.enter(ServedRequest(place, call))


def served() -> tuple[ServedCall | None, str, float | None]:
    """Return the call that the running code serves, if it is one and not gone, its request's id or "", and a deadline.

    The deadline is that of a batch, which serves several. Code that outlives its call has the id still.
    """
    if (request := current_request.current()) is None:
        return None, "", None
    if request.source is None:
        return None, request.request_id, request.deadline
    return request.source(), request.request_id, None


def fields() -> Mapping[str, str]:
    """Return what a log line says of its call: request_id, and trace_id if the client sent one."""
    request = current_request.current()
    if request is None or not request.request_id:
        return {}
    found = {"request_id": request.request_id}
    call = request.source() if request.source is not None else None
    if call is not None and (trace_id := _trace_id(call)):
        found["trace_id"] = trace_id
    return found


def _trace_id(call: ServedCall) -> str:
    """Return the trace's id of the W3C header traceparent, "" without a valid one."""
    headers = call.head.headers
    for i in range(0, len(headers) - 1, 2):
        if headers[i] == b"traceparent":
            found = _TRACE_PARENT.fullmatch(headers[i + 1])
            return found[1].decode() if found else ""
    return ""
