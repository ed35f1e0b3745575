"""LogService: what replicas print, from all workers, for people and tools.

Owns the checks of a request and what is said of names that are not known. Lines come by `log_reads`; calls are passed
to the leader by `at_leader`. Called by grpc.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import grpc

from mesh.controlplane.at_leader import AtLeader
from mesh.controlplane.bell import wait_until
from mesh.controlplane.goal import unknown
from mesh.controlplane.log_reads import LOOK_S, TAIL_LINES_MAX, LogReads, Read
from mesh.controlplane.rpc_errors import abort
from mesh.controlplane.streams import write
from mesh.controlplane.term import Term
from mesh.errors import InvalidConfig, NotFound, Problem
from mesh.serving.options import nearest, shown
from mesh.v1 import log_service_pb2_grpc
from mesh.v1.log_service_pb2 import ReadLogsRequest, ReadLogsResponse
from mesh.v1.log_service_pb2_grpc import LogServiceStub

LINES_MAX = 500
"""Of one response; of long ones fewer."""
_POSITIONS_MAX = 10_000
_NAME_CHARS_MAX = 256
_Context = grpc.aio.ServicerContext[Any, Any]


class Logs(log_service_pb2_grpc.LogServiceServicer):
    """Serves LogService."""

    def __init__(self, at_leader: AtLeader, reads: LogReads) -> None:
        self._at_leader = at_leader
        self._reads = reads

    async def ReadLogs(self, request: ReadLogsRequest, context: _Context) -> None:  # type: ignore[override]
        """Send the lines that are asked for until they end or the caller cancels."""
        if problems := tuple(_problems(request)):
            await abort(context, InvalidConfig(problems))

        async def work(term: Term) -> None:
            with self._reads.open(term, request) as read:
                await _serve(term, read, request, context)

        await self._at_leader.stream(LogServiceStub, "ReadLogs", request, context, work)


async def _serve(term: Term, read: Read, request: ReadLogsRequest, context: _Context) -> None:
    await read.answers()
    _check_names(term, read, request)
    for worker_id in _away(term, request.application):
        read.notice(f"worker {worker_id} is not connected: its lines are missing")
    await write(context, ReadLogsResponse(notices=read.take_notices()))
    while not term.over:
        ticket = read.changed.ticket()
        read.give_up_silent()
        if request.follow:
            read.follow()
        response = ReadLogsResponse(entries=read.take(LINES_MAX), notices=read.take_notices())
        if response.entries or response.notices:
            await write(context, response)
        elif not request.follow and read.merge.over:
            return
        else:
            await wait_until(ticket, LOOK_S)


def _problems(request: ReadLogsRequest) -> Iterable[Problem]:
    if not request.application:
        yield Problem("application", "must not be empty", "name an application")
    for name in ("application", "deployment", "replica", "request_id"):
        if len(getattr(request, name)) > _NAME_CHARS_MAX:
            yield Problem(name, f"is longer than {_NAME_CHARS_MAX} characters")
    if request.tail_lines > TAIL_LINES_MAX:
        yield Problem("tail_lines", f"must be at most {TAIL_LINES_MAX}", "use since for more")
    if not math.isfinite(request.since) or request.since < 0:
        yield Problem("since", "must be a Unix time in seconds")
    if request.follow and request.previous:
        yield Problem("previous", "cannot be followed: the process has ended")
    if len(request.after) > _POSITIONS_MAX:
        yield Problem("after", f"has more than {_POSITIONS_MAX} positions")


def _check_names(term: Term, read: Read, request: ReadLogsRequest) -> None:
    """Raise NotFound, with the nearest name, for what neither the goal state nor any worker knows."""
    names, mirror, asked = read.names(), term.mirror, request.application
    applications = {name for found in names for name in found.applications} | set(mirror.applications)
    if asked not in applications:
        raise unknown(asked, applications)
    placed = [replica for replica in mirror.replicas.values() if replica.application == asked]
    deployments = {name for found in names for name in found.deployments} | {r.deployment for r in placed}
    application = mirror.applications.get(asked)
    for plan in (application.plan, application.serving) if application is not None else ():
        deployments |= {deployment.name for deployment in plan.deployments} if plan is not None else set()
    if request.deployment and request.deployment not in deployments:
        text = f"application {shown(asked)} has no deployment {shown(request.deployment)}"
        raise NotFound(f"{text}; {_hint(request.deployment, deployments)}")
    replicas = {name for found in names for name in found.replica_ids} | {r.replica_id for r in placed}
    if request.replica and not any(replica_id.startswith(request.replica) for replica_id in replicas):
        text = f"application {shown(asked)} has no replica {shown(request.replica)}, and no logs of one"
        raise NotFound(f"{text}; {_hint(request.replica, replicas)}", hint=f"see meshctl status {asked}")


def _hint(name: str, known: Iterable[str]) -> str:
    known = set(known)
    return nearest(name, known) if known else "there is none"


def _away(term: Term, application: str) -> list[str]:
    """Return the workers that have replicas of the application and no session."""
    connected = {outbox.worker_id for outbox in term.outboxes.values()}
    placed = {r.worker_id for r in term.mirror.replicas.values() if r.application == application}
    return sorted(placed - connected)
