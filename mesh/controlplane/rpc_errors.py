"""How the control plane's services tell of an error: its status with google.rpc details.

Owns the one place where errors become statuses here. An error's status carries BadRequest with a violation per problem
(INVALID_ARGUMENT only), and ErrorInfo (domain "mesh") whose metadata holds what mends it: "hint", and "hint_N" for the
violation number N; of a rollout under way also "revision/NAME" for each application. Called by the services.
"""

from __future__ import annotations

from typing import Any, Never

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from mesh.controlplane.forward import NoLeader
from mesh.controlplane.package_store import NoRoom
from mesh.controlplane.store import OutcomeUnknown, StoreUnreachable
from mesh.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidConfig,
    MeshError,
    NotFound,
    RolloutUnderWay,
    Unreachable,
)

STATUSES: dict[type[MeshError], tuple[grpc.StatusCode, str]] = {
    InvalidConfig: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CONFIG"),
    NotFound: (grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    Conflict: (grpc.StatusCode.ABORTED, "CONFLICT"),
    RolloutUnderWay: (grpc.StatusCode.ABORTED, "ROLLOUT_UNDER_WAY"),
    Unreachable: (grpc.StatusCode.UNAVAILABLE, "UNREACHABLE"),
    NoLeader: (grpc.StatusCode.UNAVAILABLE, NoLeader.REASON),
    StoreUnreachable: (grpc.StatusCode.UNAVAILABLE, StoreUnreachable.REASON),
    OutcomeUnknown: (grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN"),
    NoRoom: (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_ROOM"),
    DeadlineExceeded: (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
}
"""Code and reason of each error; others are INTERNAL."""


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: MeshError) -> Never:
    """End a call with an error."""
    await context.abort_with_status(rpc_status.to_status(rpc_error_status(error)))


def rpc_error_status(error: MeshError) -> status_pb2.Status:
    """Return an error as a status with google.rpc details."""
    code, reason = STATUSES.get(type(error), (grpc.StatusCode.INTERNAL, "INTERNAL"))
    hints = {"hint": error.hint} if error.hint else {}
    details: list[Message] = []
    if isinstance(error, InvalidConfig):
        violations = []
        for i, problem in enumerate(error.problems):
            violations.append(
                error_details_pb2.BadRequest.FieldViolation(field=problem.field, description=problem.message)
            )
            if problem.hint:
                hints[f"hint_{i}"] = problem.hint
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, RolloutUnderWay):
        hints |= {f"revision/{name}": str(revision) for name, revision in error.revisions.items()}
    details.append(error_details_pb2.ErrorInfo(reason=reason, domain="mesh", metadata=hints))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=error.message, details=packed)
