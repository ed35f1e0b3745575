"""DeploymentService: the control plane's API for people and tools.

Owns the mapping between messages and values. Changes are made by `goal`, status is derived by `status`, calls are
passed to the leader by `at_leader`. Called by grpc.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc

from mesh import wire
from mesh.clock import Clock
from mesh.controlplane import status
from mesh.controlplane.apply import Applied
from mesh.controlplane.at_leader import AtLeader
from mesh.controlplane.bell import wait_until
from mesh.controlplane.details import detailed
from mesh.controlplane.events import Book
from mesh.controlplane.goal import GoalState, config_of, unknown
from mesh.controlplane.leader import Leadership
from mesh.controlplane.mirror import Mirror
from mesh.controlplane.reconcile import Desired
from mesh.controlplane.records import decode_events
from mesh.controlplane.statuses import StatusMessages
from mesh.controlplane.streams import write
from mesh.controlplane.term import Term
from mesh.controlplane.worker_goals import WorkerGoals
from mesh.v1 import deployment_service_pb2, deployment_service_pb2_grpc
from mesh.v1.deployment_service_pb2_grpc import DeploymentServiceStub

COALESCE_S = 0.05
"""Changes of the status within this time after the last are told as one."""

_Context = grpc.aio.ServicerContext[Any, Any]


class Deployments(deployment_service_pb2_grpc.DeploymentServiceServicer):
    """Serves DeploymentService."""

    def __init__(
        self, at_leader: AtLeader, leadership: Leadership, goal: GoalState, workers: WorkerGoals, clock: Clock
    ) -> None:
        self._at_leader = at_leader
        self._leadership = leadership
        self._goal = goal
        self._workers = workers
        self._clock = clock
        self._messages = StatusMessages()

    async def Apply(
        self, request: deployment_service_pb2.ApplyRequest, context: _Context
    ) -> deployment_service_pb2.ApplyResponse:
        """Make the goal state equal to the config."""

        async def work(term: Term) -> deployment_service_pb2.ApplyResponse:
            applied = await self._goal.apply(term, request)
            return deployment_service_pb2.ApplyResponse(applications=map(applied_message, applied))

        return await self._at_leader.answer(DeploymentServiceStub, "Apply", request, context, work)

    async def GetConfig(
        self, request: deployment_service_pb2.GetConfigRequest, context: _Context
    ) -> deployment_service_pb2.GetConfigResponse:
        """Return the goal state as it was applied."""

        async def work(term: Term) -> deployment_service_pb2.GetConfigResponse:
            return deployment_service_pb2.GetConfigResponse(config=await self._goal.config(request.application))

        def stored(mirror: Mirror, why: str) -> deployment_service_pb2.GetConfigResponse:
            config = config_of(mirror.applications, mirror.options, request.application)
            return deployment_service_pb2.GetConfigResponse(config=config, stale=why)

        return await self._at_leader.read(DeploymentServiceStub, "GetConfig", request, context, work, stored)

    async def GetStatus(
        self, request: deployment_service_pb2.GetStatusRequest, context: _Context
    ) -> deployment_service_pb2.GetStatusResponse:
        """Return how all is doing, or one application."""

        async def work(term: Term) -> deployment_service_pb2.GetStatusResponse:
            told = _only(self._status(term, request.details), request.application)
            message = self._messages.of(told, term.mirror.applications)
            return deployment_service_pb2.GetStatusResponse(status=message)

        def stored(mirror: Mirror, why: str) -> deployment_service_pb2.GetStatusResponse:
            found = status.stored_status(Desired(mirror.applications), mirror.replicas, why)
            if request.details:
                book = Book({name: decode_events(log) for name, log in mirror.events.items()})
                found = detailed(found, mirror.applications, book)
            return deployment_service_pb2.GetStatusResponse(status=_status_message(_only(found, request.application)))

        return await self._at_leader.read(DeploymentServiceStub, "GetStatus", request, context, work, stored)

    async def WatchStatus(  # type: ignore[override]
        self, request: deployment_service_pb2.WatchStatusRequest, context: _Context
    ) -> None:
        """Send the status at once and after each change, until the caller cancels or the leader changes."""

        async def work(term: Term) -> None:
            _only(self._status(term), request.application)
            await self._watch(term, request, context)

        await self._at_leader.stream(DeploymentServiceStub, "WatchStatus", request, context, work)

    async def Delete(
        self, request: deployment_service_pb2.DeleteRequest, context: _Context
    ) -> deployment_service_pb2.DeleteResponse:
        """Delete one application."""

        async def work(term: Term) -> deployment_service_pb2.DeleteResponse:
            await self._goal.delete(term, request.application)
            return deployment_service_pb2.DeleteResponse()

        return await self._at_leader.answer(DeploymentServiceStub, "Delete", request, context, work)

    async def Shutdown(
        self, request: deployment_service_pb2.ShutdownRequest, context: _Context
    ) -> deployment_service_pb2.ShutdownResponse:
        """Delete all applications and the options."""

        async def work(term: Term) -> deployment_service_pb2.ShutdownResponse:
            await self._goal.shutdown(term)
            return deployment_service_pb2.ShutdownResponse()

        return await self._at_leader.answer(DeploymentServiceStub, "Shutdown", request, context, work)

    async def ListWorkers(
        self, request: deployment_service_pb2.ListWorkersRequest, context: _Context
    ) -> deployment_service_pb2.ListWorkersResponse:
        """Return all workers that are not lost."""

        async def work(term: Term) -> deployment_service_pb2.ListWorkersResponse:
            told = replace(self._status(term, True), applications=())
            return deployment_service_pb2.ListWorkersResponse(workers=_status_message(told).workers)

        # Who is connected stands in no store: only the leader knows.
        return await self._at_leader.read(DeploymentServiceStub, "ListWorkers", request, context, work, None)

    async def DrainWorker(
        self, request: deployment_service_pb2.DrainWorkerRequest, context: _Context
    ) -> deployment_service_pb2.DrainWorkerResponse:
        """Empty a worker, or take that back."""

        async def work(term: Term) -> deployment_service_pb2.DrainWorkerResponse:
            await self._workers.drain(term, request.worker_id, undo=request.undo)
            return deployment_service_pb2.DrainWorkerResponse()

        return await self._at_leader.answer(DeploymentServiceStub, "DrainWorker", request, context, work)

    async def _watch(self, term: Term, request: deployment_service_pb2.WatchStatusRequest, context: _Context) -> None:
        sent: status.Status | None = None
        while not term.over:
            looked = self._clock.monotonic()
            ticket = term.reported.ticket()
            now_status = _filtered(self._status(term, request.details), request.application)
            if sent is None or status.is_news(sent, now_status):
                sent = now_status
                message = self._messages.of(sent, term.mirror.applications)
                await write(context, deployment_service_pb2.WatchStatusResponse(status=message))
            await wait_until(ticket, None)
            await asyncio.sleep(max(0.0, looked + COALESCE_S - self._clock.monotonic()))

    def _status(self, term: Term, details: bool = False) -> status.Status:
        leader = self._leadership.leader_address
        value = term.status(leader, now=self._clock.monotonic(), wall=self._clock.wall())
        return detailed(value, term.mirror.applications, term.chronicle.book) if details else value


def applied_message(item: Applied) -> deployment_service_pb2.AppliedApplication:
    """Return what was done to one application as a message."""
    change = int(item.change)
    return deployment_service_pb2.AppliedApplication(name=item.name, revision=item.revision, change=change)  # type: ignore[arg-type]


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
