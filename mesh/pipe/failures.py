"""What a replica says of a call that failed, and the error that its caller makes of it.

Owns the mapping both ways, so that what a deployment was told by one that it called, and let through, reaches the first
caller as what it is: overload, time that is over, no replica. Called by `callee` and `dispatch`.
"""

from __future__ import annotations

from mesh.errors import (
    BackPressureError,
    ChildUnavailable,
    DeadlineExceeded,
    HandlerFailed,
    MeshError,
    Overloaded,
    ReplicaLost,
    RequestTimeout,
    Unavailable,
)
from mesh.v1 import replica_service_pb2 as pb

DETAIL_CHARS_MAX = 1000
RETRY_AFTER_S_MAX = 300.0
GROUP_MAX = 1000
"""Errors of a group that are looked at."""
_KINDS: tuple[tuple[type[MeshError], pb.FailureKind.ValueType], ...] = (
    (Overloaded, pb.FAILURE_KIND_OVERLOADED),
    (Unavailable, pb.FAILURE_KIND_UNAVAILABLE),
    (DeadlineExceeded, pb.FAILURE_KIND_DEADLINE_EXCEEDED),
    (ReplicaLost, pb.FAILURE_KIND_REPLICA_LOST),
)


def kind_of(error: BaseException | None) -> pb.FailureKind.ValueType:
    """Return what kind of failure it is that user code raised or let through."""
    return _kind(_counting(error))


def failed(message: str, error: BaseException | None = None) -> pb.Failed:
    """Return how a call's end by `error` is told. `message` is for logs."""
    error = _counting(error)
    told = pb.Failed(message=message, kind=_kind(error))
    if error is not None:
        cls = type(error)
        told.raised = f"{cls.__module__}.{cls.__qualname__}"[:DETAIL_CHARS_MAX]
    if isinstance(error, MeshError) and told.kind != pb.FAILURE_KIND_HANDLER:
        told.detail = error.message[:DETAIL_CHARS_MAX]
        told.application, told.deployment = getattr(error, "application", ""), getattr(error, "deployment", "")
        if isinstance(error, Overloaded):
            told.retry_after_s = error.retry_after_s
    return told


def _kind(error: BaseException | None) -> pb.FailureKind.ValueType:
    return next((kind for cls, kind in _KINDS if isinstance(error, cls)), pb.FAILURE_KIND_HANDLER)


def _counting(error: BaseException | None) -> BaseException | None:
    """Return what counts of an error: of a group, such as a TaskGroup raises, its first, if none is user code's own.

    So a child that is overloaded is told of as such, however many were called at once.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    left: list[BaseException] = [error]
    found: BaseException | None = None
    for _ in range(GROUP_MAX):
        if not left:
            return found
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            left += reversed(each.exceptions)
        elif _kind(each) == pb.FAILURE_KIND_HANDLER:
            return error
        else:
            found = found or each
    return error


def error_of(told: pb.Failed) -> MeshError:
    """Return the error that a caller sees."""
    detail = told.detail[:DETAIL_CHARS_MAX]
    match told.kind:
        case pb.FAILURE_KIND_OVERLOADED:
            # A replica's word: no client is told to stay away for ever.
            seconds = told.retry_after_s if 0.0 <= told.retry_after_s <= RETRY_AFTER_S_MAX else 1.0
            named = {"application": told.application, "deployment": told.deployment}
            return BackPressureError(detail, retry_after_s=seconds, **named)
        case pb.FAILURE_KIND_UNAVAILABLE:
            return ChildUnavailable(detail)
        case pb.FAILURE_KIND_DEADLINE_EXCEEDED:
            return RequestTimeout(detail)
        case pb.FAILURE_KIND_REPLICA_LOST:
            return ReplicaLost(detail)
    return HandlerFailed(told.message, raised=told.raised)
