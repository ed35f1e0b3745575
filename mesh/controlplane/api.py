"""DeploymentService: the control plane's API for people and tools.

Owns the mapping between messages and values and, here alone, between errors and statuses. Changes are made by
`goal`, status is derived by `status`; an instance that does not lead passes calls on. Called by grpc.

An error's status carries google.rpc details: BadRequest with a violation per problem (INVALID_ARGUMENT only), and
ErrorInfo (domain "mesh") whose metadata holds what mends it: "hint", and "hint_N" for the violation number N.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Never, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from mesh import wire
from mesh.clock import Clock
from mesh.controlplane import status
from mesh.controlplane.bell import wait_until
from mesh.controlplane.forward import Forwarder, NoLeader, was_forwarded
from mesh.controlplane.goal import GoalState, unknown
from mesh.controlplane.leader import Leadership
from mesh.controlplane.loop import Loop
from mesh.controlplane.store import OutcomeUnknown
from mesh.controlplane.term import Term
from mesh.errors import Conflict, DeadlineExceeded, InvalidConfig, MeshError, NotFound, Unreachable
from mesh.v1 import deployment_service_pb2, deployment_service_pb2_grpc

LEADER_WAIT_S = 8.0
"""Seconds a call waits for somebody to lead: longer than a change of leader takes."""
LOOK_AGAIN_S = 0.25
"""Seconds after which a leader that does not answer is tried again, if no other is chosen meanwhile."""
COALESCE_S = 0.05
"""Changes of the status within this time are told as one."""

STATUSES: dict[type[MeshError], tuple[grpc.StatusCode, str]] = {
    InvalidConfig: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CONFIG"),
    NotFound: (grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    Conflict: (grpc.StatusCode.ABORTED, "CONFLICT"),
    Unreachable: (grpc.StatusCode.UNAVAILABLE, "UNREACHABLE"),
    NoLeader: (grpc.StatusCode.UNAVAILABLE, NoLeader.REASON),
    OutcomeUnknown: (grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN"),
    DeadlineExceeded: (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
}
"""Code and reason of each error; others are INTERNAL."""

_Context = grpc.aio.ServicerContext[Any, Any]
_T = TypeVar("_T", bound=Message)
_R = TypeVar("_R")


class Deployments(deployment_service_pb2_grpc.DeploymentServiceServicer):
    """Serves DeploymentService."""

    def __init__(self, loop: Loop, leadership: Leadership, goal: GoalState, forwarder: Forwarder, clock: Clock) -> None:
        self._loop = loop
        self._leadership = leadership
        self._goal = goal
        self._forwarder = forwarder
        self._clock = clock

    async def Apply(
        self, request: deployment_service_pb2.ApplyRequest, context: _Context
    ) -> deployment_service_pb2.ApplyResponse:
        """Make the goal state equal to the config."""

        async def work(term: Term) -> deployment_service_pb2.ApplyResponse:
            applied = await self._goal.apply(
                term, request.config, keep_others=request.keep_others, validate_only=request.validate_only
            )
            return deployment_service_pb2.ApplyResponse(
                applications=[
                    deployment_service_pb2.AppliedApplication(name=a.name, revision=a.revision, change=int(a.change))  # type: ignore[arg-type]
                    for a in applied
                ]
            )

        return await self._answer("Apply", request, context, work)

    async def GetConfig(
        self, request: deployment_service_pb2.GetConfigRequest, context: _Context
    ) -> deployment_service_pb2.GetConfigResponse:
        """Return the goal state as it was applied."""

        async def work(term: Term) -> deployment_service_pb2.GetConfigResponse:
            return deployment_service_pb2.GetConfigResponse(config=await self._goal.config(request.application))

        return await self._answer("GetConfig", request, context, work)

    async def GetStatus(
        self, request: deployment_service_pb2.GetStatusRequest, context: _Context
    ) -> deployment_service_pb2.GetStatusResponse:
        """Return how all is doing, or one application."""

        async def work(term: Term) -> deployment_service_pb2.GetStatusResponse:
            message = _status_message(_only(self._status(term), request.application))
            return deployment_service_pb2.GetStatusResponse(status=message)

        return await self._answer("GetStatus", request, context, work)

    async def WatchStatus(  # type: ignore[override]
        self, request: deployment_service_pb2.WatchStatusRequest, context: _Context
    ) -> None:
        """Send the status at once and after each change, until the caller cancels or the leader changes."""

        async def work(term: Term) -> None:
            _only(self._status(term), request.application)
            await self._watch(term, request.application, context)

        async def forward(leader: str) -> None:
            await self._forwarder.stream(leader, "WatchStatus", request, context)

        try:
            await self._at_leader(context, work, forward)
            # The term is over: whoever watches asks again and finds the new leader.
            raise NoLeader()
        except MeshError as error:
            await _abort(context, error)

    async def Delete(
        self, request: deployment_service_pb2.DeleteRequest, context: _Context
    ) -> deployment_service_pb2.DeleteResponse:
        """Delete one application."""

        async def work(term: Term) -> deployment_service_pb2.DeleteResponse:
            await self._goal.delete(term, request.application)
            return deployment_service_pb2.DeleteResponse()

        return await self._answer("Delete", request, context, work)

    async def Shutdown(
        self, request: deployment_service_pb2.ShutdownRequest, context: _Context
    ) -> deployment_service_pb2.ShutdownResponse:
        """Delete all applications and the options."""

        async def work(term: Term) -> deployment_service_pb2.ShutdownResponse:
            await self._goal.shutdown(term)
            return deployment_service_pb2.ShutdownResponse()

        return await self._answer("Shutdown", request, context, work)

    async def ListWorkers(
        self, request: deployment_service_pb2.ListWorkersRequest, context: _Context
    ) -> deployment_service_pb2.ListWorkersResponse:
        """Return all workers that are not lost."""

        async def work(term: Term) -> deployment_service_pb2.ListWorkersResponse:
            return deployment_service_pb2.ListWorkersResponse(workers=_status_message(self._status(term)).workers)

        return await self._answer("ListWorkers", request, context, work)

    async def _answer(
        self, method: str, request: Message, context: _Context, work: Callable[[Term], Awaitable[_T]]
    ) -> _T:
        """Answer here if this instance leads, else let the leader answer."""

        async def forward(leader: str) -> _T:
            answer: _T = await self._forwarder.unary(leader, method, request, context)
            return answer

        try:
            return await self._at_leader(context, work, forward)
        except MeshError as error:
            await _abort(context, error)

    async def _at_leader(
        self,
        context: _Context,
        work: Callable[[Term], Awaitable[_R]],
        forward: Callable[[str], Awaitable[_R]],
    ) -> _R:
        """Do `work` if this instance leads, else `forward` to the leader, waiting while a new one is chosen.

        Raises NoLeader if nobody leads in time, or a call was passed on to an instance that does not lead.
        """
        ends = self._clock.monotonic() + LEADER_WAIT_S
        while (left_s := ends - self._clock.monotonic()) > 0:
            state = self._leadership.state
            if (term := await self._loop.acting(left_s)) is not None:
                return await work(term)
            if was_forwarded(context):
                break
            if not state.is_leader and state.leader_address:
                try:
                    return await forward(state.leader_address)
                except NoLeader:
                    left_s = LOOK_AGAIN_S  # its successor is known soon; should it come back itself, nothing tells
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._leadership.changed(state)
        raise NoLeader()

    async def _watch(self, term: Term, application: str, context: _Context) -> None:
        sent: status.Status | None = None
        while not term.over:
            ticket = term.reported.ticket()
            now_status = _filtered(self._status(term), application)
            if sent is None or status.steady(now_status) != status.steady(sent):
                sent = now_status
                await context.write(deployment_service_pb2.WatchStatusResponse(status=_status_message(sent)))
            await wait_until(ticket, None)
            await asyncio.sleep(COALESCE_S)

    def _status(self, term: Term) -> status.Status:
        leader = self._leadership.leader_address
        return term.status(leader, now=self._clock.monotonic(), wall=self._clock.wall())


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
    details.append(error_details_pb2.ErrorInfo(reason=reason, domain="mesh", metadata=hints))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=error.message, details=packed)


async def _abort(context: _Context, error: MeshError) -> Never:
    await context.abort_with_status(rpc_status.to_status(rpc_error_status(error)))


def _only(value: status.Status, application: str) -> status.Status:
    """Return the status of one application (""  means all). Raises NotFound."""
    names = [a.name for a in value.applications]
    if application and application not in names:
        raise unknown(application, names)
    return _filtered(value, application)


def _filtered(value: status.Status, application: str) -> status.Status:
    if not application:
        return value
    return replace(value, applications=tuple(a for a in value.applications if a.name == application))


def _status_message(value: status.Status) -> deployment_service_pb2.Status:
    return wire.to_proto(value, deployment_service_pb2.Status)
