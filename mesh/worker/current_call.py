"""Which call the running code serves, so that what it logs says so.

Owns the context variable. Nothing is computed for a call that logs nothing. Set by `handler` and `grpc_calls`, read by
the replica's log formatter.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping
from contextvars import ContextVar

from mesh.pipe.callee import ServedCall

_TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

# Not the call itself: code that outlives it, such as a task it started, keeps the context.
_current: ContextVar[tuple[str, weakref.ref[ServedCall]] | None] = ContextVar("mesh_current_call", default=None)


def enter(call: ServedCall) -> None:
    """From here on, the code of this task or context serves `call`."""
    _current.set((call.head.request_id, weakref.ref(call)))


def fields() -> Mapping[str, str]:
    """Return what a log line says of its call: request_id, and trace_id if the client sent one."""
    if (current := _current.get()) is None:
        return {}
    request_id, reference = current
    found = {"request_id": request_id}
    if (call := reference()) is not None and (trace_id := _trace_id(call)):
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
