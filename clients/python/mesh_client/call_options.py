"""Options of the calls in a block of code: `with calling(timeout_s=2, idempotent=True): ...`.

Owns the variable that carries them; each task and thread has its own. Stubs and HTTP sessions have no room for more
arguments than they have, so this is how single calls differ. Read by the shells.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What differs from the policy; None: as that says."""

    timeout_s: float | None = None
    idempotent: bool | None = None
    request_id: str | None = None


_NONE = CallOptions()
_current: ContextVar[CallOptions] = ContextVar("mesh_client_call_options", default=_NONE)


def current() -> CallOptions:
    """Return the options that hold here and now."""
    return _current.get()


@contextlib.contextmanager
def calling(
    *, timeout_s: float | None = None, idempotent: bool | None = None, request_id: str | None = None
) -> Iterator[None]:
    """Make the calls of this block differ: their time in seconds, whether they may run twice, the id in logs.

    Blocks nest; what an inner one leaves out holds as outside. An argument of the call itself, such as the `timeout=`
    of a stub, goes first.
    """
    if timeout_s is not None and timeout_s <= 0:
        raise ValueError("must be timeout_s > 0")
    outer = _current.get()
    inner = CallOptions(
        timeout_s=outer.timeout_s if timeout_s is None else timeout_s,
        idempotent=outer.idempotent if idempotent is None else idempotent,
        request_id=outer.request_id if request_id is None else request_id,
    )
    token = _current.set(inner)
    try:
        yield
    finally:
        _current.reset(token)
