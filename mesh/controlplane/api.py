"""DeploymentService: the control plane's API for people and tools.

Owns the mapping between messages and values and, here alone, between errors and statuses. Changes are made by
`goal`, status is derived by `status`; an instance that does not lead passes calls on. Called by grpc.

An error's status carries google.rpc details: BadRequest with a violation per problem (INVALID_ARGUMENT only), and
ErrorInfo (domain "mesh") whose metadata holds what mends it: "hint", and "hint_N" for the violation number N.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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
from mesh.controlplane.availability import Availability
from mesh.controlplane.bell import wait_until
from mesh.controlplane.forward import Forwarder, NoLeader, was_forwarded
from mesh.controlplane.goal import GoalState, config_of, unknown
from mesh.controlplane.leader import Leadership
from mesh.controlplane.loop import Loop
from mesh.controlplane.mirror import Mirror
from mesh.controlplane.reconcile import Desired
from mesh.controlplane.store import OutcomeUnknown, StoreUnreachable
from mesh.controlplane.streams import PeerGone, write
from mesh.controlplane.term import Term
from mesh.errors import Conflict, DeadlineExceeded, InvalidConfig, MeshError, NotFound, Unreachable
from mesh.lifecycle import Tasks
from mesh.v1 import deployment_service_pb2, deployment_service_pb2_grpc

LEADER_WAIT_S = 8.0
"""Seconds a call waits for somebody to lead: longer than a change of leader takes."""
CALL_S = 30.0
"""Seconds for a call whose caller set no deadline."""
READ_WAIT_S = 3.0
"""The same for a call that only reads: after that it is answered from this instance's copy of the store."""
LOOK_AGAIN_S = 0.25
"""Seconds after which whoever waits for a leader looks again: at a leader that did not answer, and at the store."""
ANSWER_MARGIN_S = 0.5
"""Seconds kept of the caller's own deadline, so that it is told why instead of running into that."""
COALESCE_S = 0.05
"""Changes of the status within this time are told as one."""

STATUSES: dict[type[MeshError], tuple[grpc.StatusCode, str]] = {
    InvalidConfig: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CONFIG"),
    NotFound: (grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    Conflict: (grpc.StatusCode.ABORTED, "CONFLICT"),
    Unreachable: (grpc.StatusCode.UNAVAILABLE, "UNREACHABLE"),
    NoLeader: (grpc.StatusCode.UNAVAILABLE, NoLeader.REASON),
    StoreUnreachable: (grpc.StatusCode.UNAVAILABLE, StoreUnreachable.REASON),
    OutcomeUnknown: (grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN"),
    DeadlineExceeded: (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
}
"""Code and reason of each error; others are INTERNAL."""

log = logging.getLogger("mesh.controlplane.api")

_Context = grpc.aio.ServicerContext[Any, Any]
_T = TypeVar("_T", bound=Message)
_R = TypeVar("_R")


class Deployments(deployment_service_pb2_grpc.DeploymentServiceServicer):
    """Serves DeploymentService."""

    def __init__(
        self,
        loop: Loop,
        leadership: Leadership,
        goal: GoalState,
        forwarder: Forwarder,
        availability: Availability,
        clock: Clock,
    ) -> None:
        self._loop = loop
        self._leadership = leadership
        self._goal = goal
        self._forwarder = forwarder
        self._availability = availability
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

        def stored(mirror: Mirror, why: str) -> deployment_service_pb2.GetConfigResponse:
            config = config_of(mirror.applications, mirror.options, request.application)
            return deployment_service_pb2.GetConfigResponse(config=config, stale=why)

        return await self._read("GetConfig", request, context, work, stored)

    async def GetStatus(
        self, request: deployment_service_pb2.GetStatusRequest, context: _Context
    ) -> deployment_service_pb2.GetStatusResponse:
        """Return how all is doing, or one application."""

        async def work(term: Term) -> deployment_service_pb2.GetStatusResponse:
            message = _status_message(_only(self._status(term), request.application))
            return deployment_service_pb2.GetStatusResponse(status=message)

        def stored(mirror: Mirror, why: str) -> deployment_service_pb2.GetStatusResponse:
            found = status.stored_status(Desired(mirror.applications), mirror.replicas, why)
            return deployment_service_pb2.GetStatusResponse(status=_status_message(_only(found, request.application)))

        return await self._read("GetStatus", request, context, work, stored)

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
        except PeerGone:
            return
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

        # Who is connected stands in no store: only the leader knows.
        return await self._read("ListWorkers", request, context, work, None)

    async def _answer(
        self, method: str, request: Message, context: _Context, work: Callable[[Term], Awaitable[_T]]
    ) -> _T:
        """Answer here if this instance leads, else let the leader answer."""

        async def forward(leader: str) -> _T:
            answer: _T = await self._forwarder.unary(leader, method, request, context)
            return answer

        try:
            try:
                async with asyncio.timeout(_own_s(context)):
                    return await self._at_leader(context, work, forward)
            except TimeoutError:
                text = "the leader or its store did not answer in time; what was asked for may have been done"
                raise OutcomeUnknown(text, hint="see meshctl status, then repeat the command") from None
        except MeshError as error:
            await _abort(context, error)

    async def _read(
        self,
        method: str,
        request: Message,
        context: _Context,
        work: Callable[[Term], Awaitable[_T]],
        stored: Callable[[Mirror, str], _T] | None,
    ) -> _T:
        """Answer as `_answer` does; if the leader cannot be asked soon, from what this instance last read, if it can.

        Without `stored` the error is raised.
        """

        async def forward(leader: str) -> _T:
            answer: _T = await self._forwarder.unary(leader, method, request, context, reads=True)
            return answer

        try:
            try:
                async with asyncio.timeout(READ_WAIT_S):
                    return await self._at_leader(context, work, forward, Unreachable)
            except (Unreachable, TimeoutError) as error:
                mirror = self._loop.mirror
                cause = error if isinstance(error, Unreachable) else self._silence()
                if stored is None or mirror is None or was_forwarded(context):
                    raise cause from None
                log.info("%s is answered from the copy of the store: %s", method, cause.message)
                return stored(mirror, cause.message)
        except MeshError as error:
            await _abort(context, error)

    def _silence(self) -> Unreachable:
        """Return why there was no answer in time."""
        try:
            self._availability.check()
        except StoreUnreachable as error:
            return error
        if not (leader := self._leadership.leader_address):
            return NoLeader()
        text = f"the leading control plane {leader} does not answer"
        return Unreachable(text, hint="repeat the command in a few seconds")

    async def _at_leader(
        self,
        context: _Context,
        work: Callable[[Term], Awaitable[_R]],
        forward: Callable[[str], Awaitable[_R]],
        again: type[Unreachable] = NoLeader,
    ) -> _R:
        """Do `work` if this instance leads, else `forward` to the leader, waiting while a new one is chosen.

        `again`: after which of the leader's errors its successor is asked; by default after those that say that
        nothing was done. Raises NoLeader if nobody leads in time, or for a call that was passed on to no leader;
        StoreUnreachable as soon as nobody can be asked and the store is away, for then nobody will lead.
        """
        # "Nobody leads" must be said before "no answer in time", which leaves open what was done.
        own_s = _own_s(context)
        ends = self._clock.monotonic() + min(LEADER_WAIT_S, own_s - min(ANSWER_MARGIN_S, own_s / 2))
        while (left_s := ends - self._clock.monotonic()) > 0:
            state = self._leadership.state
            if (term := await self._loop.acting(min(left_s, LOOK_AGAIN_S))) is not None:
                return await work(term)
            if was_forwarded(context) and not state.is_leader:
                break
            if not state.is_leader and state.leader_address:
                try:
                    return await self._while_leading(state.leader_address, forward)
                except StoreUnreachable:
                    raise
                except again:
                    pass  # its successor is known soon; should it come back itself, nothing tells
            self._availability.check()
            if state.is_leader:
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, LOOK_AGAIN_S)):
                    await self._leadership.changed(state)
        self._availability.check()
        raise NoLeader()

    async def _while_leading(self, leader: str, forward: Callable[[str], Awaitable[_R]]) -> _R:
        """Let the leader answer. Raises Unreachable when it leads no more; it may be frozen with the call."""
        tasks = Tasks()
        try:
            async with asyncio.timeout(None) as limit:
                tasks.spawn(self._end_with(leader, limit), name="leader-of-a-call")
                try:
                    return await forward(leader)
                finally:
                    await tasks.cancel()
        except TimeoutError:
            text = f"the control plane {leader} stopped leading while it was asked"
            raise Unreachable(text, hint="repeat the command") from None

    async def _end_with(self, leader: str, limit: asyncio.Timeout) -> None:
        state = self._leadership.state
        while state.leader_address == leader:
            state = await self._leadership.changed(state)
        limit.reschedule(asyncio.get_running_loop().time())

    async def _watch(self, term: Term, application: str, context: _Context) -> None:
        sent: status.Status | None = None
        while not term.over:
            ticket = term.reported.ticket()
            now_status = _filtered(self._status(term), application)
            if sent is None or status.steady(now_status) != status.steady(sent):
                sent = now_status
                await write(context, deployment_service_pb2.WatchStatusResponse(status=_status_message(sent)))
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


def _own_s(context: _Context) -> float:
    """Return the seconds for a call here: somewhat less than its caller waits."""
    return max(LOOK_AGAIN_S, (context.time_remaining() or CALL_S) - ANSWER_MARGIN_S)


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
