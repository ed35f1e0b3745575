"""RevisionService: the revisions of applications, and changes of single ones, for people and tools.

Owns the mapping between messages and values. Changes are made by `revise`, calls are passed to the leader by
`at_leader`. Called by grpc.
"""

from __future__ import annotations

from typing import Any

import grpc

from mesh import wire
from mesh.controlplane.api import applied_message
from mesh.controlplane.at_leader import AtLeader
from mesh.controlplane.revise import Revising
from mesh.controlplane.term import Term
from mesh.v1 import revision_service_pb2 as pb
from mesh.v1 import revision_service_pb2_grpc
from mesh.v1.revision_service_pb2_grpc import RevisionServiceStub

_Context = grpc.aio.ServicerContext[Any, Any]


class Revisions(revision_service_pb2_grpc.RevisionServiceServicer):
    """Serves RevisionService."""

    def __init__(self, at_leader: AtLeader, revising: Revising) -> None:
        self._at_leader = at_leader
        self._revising = revising

    async def ListRevisions(self, request: pb.ListRevisionsRequest, context: _Context) -> pb.ListRevisionsResponse:
        """Return the revisions of an application, the newest first."""

        async def work(term: Term) -> pb.ListRevisionsResponse:
            revisions = await self._revising.revisions(term, request.application)
            return pb.ListRevisionsResponse(revisions=[wire.to_proto(each, pb.Revision) for each in revisions])

        return await self._at_leader.read(RevisionServiceStub, "ListRevisions", request, context, work, None)

    async def Rollback(self, request: pb.RollbackRequest, context: _Context) -> pb.RollbackResponse:
        """Make a revision with the config of an older one."""

        async def work(term: Term) -> pb.RollbackResponse:
            done = await self._revising.rollback(term, request.application, request.to_revision, request.options)
            return pb.RollbackResponse(application=applied_message(done))

        return await self._at_leader.answer(RevisionServiceStub, "Rollback", request, context, work)

    async def Scale(self, request: pb.ScaleRequest, context: _Context) -> pb.ScaleResponse:
        """Set how many replicas deployments have."""

        async def work(term: Term) -> pb.ScaleResponse:
            done = await self._revising.scale(term, request.application, request.num_replicas, request.options)
            return pb.ScaleResponse(application=applied_message(done))

        return await self._at_leader.answer(RevisionServiceStub, "Scale", request, context, work)

    async def Restart(self, request: pb.RestartRequest, context: _Context) -> pb.RestartResponse:
        """Replace the replicas of deployments by new ones of the same config."""

        async def work(term: Term) -> pb.RestartResponse:
            done = await self._revising.restart(term, request.application, request.deployments, request.options)
            return pb.RestartResponse(application=applied_message(done))

        return await self._at_leader.answer(RevisionServiceStub, "Restart", request, context, work)

    async def SetPaused(self, request: pb.SetPausedRequest, context: _Context) -> pb.SetPausedResponse:
        """Make rollouts stand still, or let them go on."""

        async def work(term: Term) -> pb.SetPausedResponse:
            return pb.SetPausedResponse(
                revision=await self._revising.set_paused(term, request.application, request.paused)
            )

        return await self._at_leader.answer(RevisionServiceStub, "SetPaused", request, context, work)
