"""What code that calls by handle is told when a call fails: the errors of the pipe, with the deployment's name in them.

Owns that mapping. What another deployment was told, further down, keeps the name of the one that it is about.
Called by `flight` and `item_flight`.
"""

from __future__ import annotations

import grpc

from mesh.errors import (
    BackPressureError,
    CallRefused,
    DecodingFailed,
    HandleMisused,
    HandlerFailed,
    Overloaded,
    RemoteError,
    ReplicaLost,
    Unavailable,
)
from mesh.pipe.messages import BadFraming
from mesh.serving.handle import Callee
from mesh.v1 import replica_service_pb2 as pb

RETURNED, YIELDED = 200, 206
"""Statuses of an answer's head: one value, or items."""


def named(callee: Callee) -> str:
    """Return what is called, for people."""
    return f"deployment {callee.deployment!r} of application {callee.application!r}"


def told(error: BaseException, callee: Callee) -> BaseException:
    """Return an error as the calling code sees it."""
    to = {"application": callee.application, "deployment": callee.deployment}
    match error:
        case BackPressureError() if error.deployment:
            return error
        case Overloaded():
            return BackPressureError(f"{named(callee)}: {error.message}", retry_after_s=error.retry_after_s, **to)
        case ReplicaLost():
            return ReplicaLost(f"{named(callee)}: {error.message}")
        case Unavailable():
            return Unavailable(f"{named(callee)}: {error.message}")
        case CallRefused() | RemoteError():
            return error
        case HandlerFailed():
            return RemoteError(f"{named(callee)} raised {error.message}", raised=error.raised, **to)
        case BadFraming() | DecodingFailed():
            text = f"the answer of {named(callee)}: {error.message}"
            return DecodingFailed(text, hint=error.hint)
    return error


def refused(trailers: pb.Trailers, callee: Callee) -> CallRefused | None:
    """Return what tells of the status of a gRPC method, None if it is OK."""
    if not trailers.code:
        return None
    name = next((s.name for s in grpc.StatusCode if s.value[0] == trailers.code), str(trailers.code))
    return CallRefused(
        f"{named(callee)} answered {name}: {trailers.message}",
        code=trailers.code,
        details=trailers.message,
        application=callee.application,
        deployment=callee.deployment,
    )


def misused(status: int, callee: Callee) -> HandleMisused | None:
    """Return what is wrong with how a method was called, None if nothing is. `status` is that of the answer's head."""
    if status == YIELDED and not callee.stream:
        text = f"{callee.deployment}.{callee.method} yields items"
        return HandleMisused(text, hint="call it by handle.options(stream=True), and iterate over the response")
    if status == RETURNED and callee.stream:
        text = f"{callee.deployment}.{callee.method} yields no items"
        return HandleMisused(text, hint="call it without stream=True, and await the response")
    return None
