"""What an error that etcd or its connection returned means for the caller.

Owns the table only; no I/O. Called by `etcd_connection`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import grpc

from mesh.controlplane.store import Compacted
from mesh.errors import InvalidConfig, NotFound, Problem


class Effect(Enum):
    """What may have happened, and so what may be done."""

    NONE = auto()
    """Nothing happened; trying again is safe and may help."""
    UNKNOWN = auto()
    """It may have happened. A read may be tried again."""
    LOGIN = auto()
    """Nothing happened; a new login is needed first."""
    FINAL = auto()
    """Nothing happened and nothing will: `error` says why."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed call. `error` is what to raise if `effect` is FINAL, or if a new login did not help."""

    effect: Effect
    text: str
    error: Exception | None = None
    hint: str = ""


_REFUSED = ("failed to connect to all addresses", "connections to all backends failing", "no leader", "too many")
_LOGIN = ("invalid auth token", "revision of auth store is old")
_WRONG_LOGIN = ("user name is empty", "authentication failed", "permission denied", "authentication is not enabled")
_IN_SHORT = (
    ("Connection refused", ": connection refused"),
    ("Deadline Exceeded", ""),
    ("ping timeout", ""),
    ("Socket closed", ": it closed the connection"),
)
"""What gRPC says of a connection, among much else, and what that is to people."""
_FULL_HINT = "etcd is full: compact and defragment it, then disarm its alarm (etcdctl alarm disarm)"


def classify(code: grpc.StatusCode, details: str) -> Failure:
    """Return what the gRPC status means."""
    text = details or code.name
    if any(part in text for part in _LOGIN) or code is grpc.StatusCode.UNAUTHENTICATED:
        return Failure(Effect.LOGIN, text, _login_error(text))
    if any(part in text for part in _WRONG_LOGIN) or code is grpc.StatusCode.PERMISSION_DENIED:
        return Failure(Effect.FINAL, text, _login_error(text))
    if code is grpc.StatusCode.NOT_FOUND:
        return Failure(Effect.FINAL, text, NotFound(text.removeprefix("etcdserver: ")))
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return Failure(Effect.FINAL, text, Compacted(text.removeprefix("etcdserver: ")))
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return Failure(Effect.FINAL, text, ValueError(text))
    if "database space exceeded" in text:
        # etcd may say so of a write that it has done.
        return Failure(Effect.UNKNOWN, text, hint=_FULL_HINT)
    refused = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    if refused and any(part in text for part in _REFUSED):
        return Failure(Effect.NONE, text)
    return Failure(Effect.UNKNOWN, text)


def in_short(text: str) -> str:
    """Return what failed as the end of a sentence; "" if there was just no answer."""
    return next((short for part, short in _IN_SHORT if part in text), f": {text}")


def _login_error(text: str) -> InvalidConfig:
    hint = "check the user, the password file and the rights of that user on the prefix"
    return InvalidConfig((Problem("etcd.user", f"etcd refused it: {text.removeprefix('etcdserver: ')}", hint),))
