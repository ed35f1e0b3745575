"""What user code raised while it ran a call, as text for logs. Whatever it is, telling of it never raises.

Owns the form and its bounds. Called by `handler`, `grpc_calls` and `handle_calls`.
"""

from __future__ import annotations

import logging
import traceback

from mesh.pipe.failures import kind_of
from mesh.pipe.served_call import ServedCall
from mesh.v1 import replica_service_pb2 as pb
from mesh.worker.failures import cut_front, without_cache

TEXT_CHARS_MAX = 1000
TRACEBACK_CHARS_MAX = 16_000
_FRAMES_MAX = 20

log = logging.getLogger("mesh.replica")


def log_raised(call: ServedCall, error: BaseException, what: str) -> str:
    """Log what a handler raised, and return it in one phrase.

    Not where it let through what another deployment was told: that was logged where it arose, in bounds.
    """
    text = text_of(error)
    level = logging.ERROR if kind_of(error) == pb.FAILURE_KIND_HANDLER else logging.DEBUG
    if log.isEnabledFor(level):
        fields = {"request_id": call.head.request_id, "traceback": traceback_of(error)}
        log.log(level, "%s raised: %s", what, text, extra=fields)
    return text


def text_of(error: BaseException) -> str:
    """Return an exception in one phrase."""
    try:
        said = str(error)
    except Exception:
        said = "(its text cannot be had: __str__ raised)"
    return _writable(f"{type(error).__name__}: {said[:TEXT_CHARS_MAX]}")[:TEXT_CHARS_MAX]


def traceback_of(error: BaseException) -> str:
    """Return the last lines of an exception's traceback."""
    try:
        frames = "".join(part[:TRACEBACK_CHARS_MAX] for part in traceback.format_exception(error)[-_FRAMES_MAX:])
    except Exception:
        return text_of(error)
    return _writable(cut_front(without_cache(frames), TRACEBACK_CHARS_MAX))


def _writable(text: str) -> str:
    """Return a text without halves of surrogate pairs, which no encoding has."""
    return text.encode("utf-8", "replace").decode()
