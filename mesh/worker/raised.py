"""What user code raised while it ran a call, as text for logs. Whatever it is, telling of it never raises.

Owns the form and its bounds. Pure. Called by `handler` and `grpc_calls`.
"""

from __future__ import annotations

import traceback

from mesh.worker.failures import cut_front, without_cache

TEXT_CHARS_MAX = 1000
TRACEBACK_CHARS_MAX = 16_000
_FRAMES_MAX = 20


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
