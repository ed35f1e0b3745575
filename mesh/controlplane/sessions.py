"""WorkerService: the sessions of the workers.

Owns the stream of each worker: who is let in, what is read, when it is given up. Never decides what a worker is to
run; it feeds the registry and sends what `term` puts in the outbox. Called by grpc; made by `server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeAlias

import grpc

from mesh import wire
from mesh.clock import Clock
from mesh.controlplane.builds import Build, plan_of
from mesh.controlplane.leader import Leadership
from mesh.controlplane.limits import bounded_status
from mesh.controlplane.log_reads import LogReads
from mesh.controlplane.loop import Loop
from mesh.controlplane.registry import Greeting
from mesh.controlplane.streams import PeerGone, read, write
from mesh.controlplane.term import Outbox, Term
from mesh.errors import Conflict
from mesh.lifecycle import Tasks
from mesh.liveness import TAKE_OFFICE_S, Silence
from mesh.model import BuiltDeployment, Failure, ReplicaStatus, RuntimeEnv
from mesh.serving.options import name_problem
from mesh.v1 import deployment_pb2, worker_service_pb2_grpc
from mesh.v1.worker_service_pb2 import (
    BuildResult,
    Heartbeat,
    Redirect,
    Report,
    SendLogsRequest,
    SendLogsResponse,
    SessionRequest,
    SessionResponse,
    Welcome,
)

HELLO_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 10.0
"""Seconds a worker may take to accept one message before its stream is given up."""
_Context: TypeAlias = "grpc.aio.ServicerContext[SessionRequest, SessionResponse]"

log = logging.getLogger("mesh.controlplane.sessions")


class Sessions(worker_service_pb2_grpc.WorkerServiceServicer):
    """Serves WorkerService."""

    def __init__(
        self, loop: Loop, leadership: Leadership, reads: LogReads, heartbeat_interval_s: float, clock: Clock
    ) -> None:
        self._loop = loop
        self._leadership = leadership
        self._reads = reads
        self._interval_s = heartbeat_interval_s
        self._clock = clock

    # The reader/writer form of a handler: an async generator would not be told at once when its client is gone.
    async def Session(  # type: ignore[override]
        self, request_iterator: AsyncIterator[SessionRequest], context: _Context
    ) -> None:
        """Serve one session until either side ends it."""
        try:
            first = await read(context, HELLO_TIMEOUT_S)
        except TimeoutError:
            first = None
        if first is None or first.WhichOneof("kind") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a session starts with Hello")
        try:
            greeting = wire.from_proto(first.hello, Greeting)
            greeting = replace(greeting, replicas=tuple(map(bounded_status, greeting.replicas)))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Hello cannot be read: {error}")
        if wrong := name_problem(greeting.worker_id):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"worker_id {wrong}")
        term = await self._loop.acting(TAKE_OFFICE_S)
        if term is None:
            await self._redirect(context)
            return
        try:
            admitted = term.registry.hello(greeting, now=self._clock.monotonic())
        except Conflict as error:
            await context.abort(grpc.StatusCode.ABORTED, f"{error.message}; {error.hint}")
        outbox = term.open_session(admitted.session, admitted.replaced, greeting.worker_id)
        log.info("worker connected", extra={"worker": greeting.worker_id, "replicas": len(greeting.replicas)})
        tasks = Tasks(on_failure=lambda error: outbox.close(f"the session failed: {error}"))
        try:
            receiving = self._receive(term, admitted.session, outbox, context, tasks)
            tasks.spawn(receiving, name=f"session-{greeting.worker_id}")
            tasks.spawn(self._watch_silence(term, admitted.session, outbox), name=f"silence-{greeting.worker_id}")
            outbox.put(SessionResponse(welcome=Welcome(heartbeat_interval_s=self._interval_s)))
            await self._send(outbox, context)
        finally:
            term.close_session(admitted.session, greeting.worker_id, now=self._clock.monotonic())
            log.info("worker disconnected", extra={"worker": greeting.worker_id, "reason": outbox.refusal})
            await tasks.cancel()
        if term.over:
            await self._redirect(context)
        elif outbox.refusal:
            await context.abort(grpc.StatusCode.ABORTED, outbox.refusal)

    async def SendLogs(
        self, request_iterator: AsyncIterator[SendLogsRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> SendLogsResponse:
        """Take lines of logs that a session asked for."""
        return await self._reads.receive(context)

    async def _send(self, outbox: Outbox, context: _Context) -> None:
        """Send what the outbox has, and signs of life in between."""
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    message = await outbox.next()
            except TimeoutError:
                message = SessionResponse(heartbeat=Heartbeat())
            if message is None:
                return
            try:
                await write(context, message, WRITE_TIMEOUT_S)
            except TimeoutError:
                outbox.close(f"a message was not accepted within {WRITE_TIMEOUT_S:g} s")
            except PeerGone:
                outbox.close()

    async def _receive(self, term: Term, session: int, outbox: Outbox, context: _Context, tasks: Tasks) -> None:
        heard = _Heard()
        while (request := await read(context, None)) is not None:
            if request.WhichOneof("kind") == "build_result":
                self._built(term, request.build_result, tasks)
            if refusal := self._take(term, session, outbox.worker_id, request, heard):
                outbox.close(refusal)
                return
        outbox.close()

    async def _watch_silence(self, term: Term, session: int, outbox: Outbox) -> None:
        """End the session when nothing was heard for too long."""
        silence = Silence(self._interval_s, self._clock.monotonic())
        while (worker := term.registry.get(outbox.worker_id)) is not None and worker.session == session:
            silence.heard(worker.last_seen)
            if not (wait_s := silence.wait_s(self._clock.monotonic())):
                outbox.close(f"nothing was heard for {silence.limit_s:g} s")
                return
            await asyncio.sleep(wait_s)

    def _take(self, term: Term, session: int, worker_id: str, request: SessionRequest, heard: _Heard) -> str:
        """Take one message. Returns why it cannot be taken, or ""."""
        now = self._clock.monotonic()
        match request.WhichOneof("kind"):
            case "report":
                try:
                    replicas = heard.read(request.report)
                except ValueError as error:
                    return f"the report cannot be read: {error}"
                if term.registry.report(worker_id, session, replicas, now=now):
                    term.changed.ring()
            case "heartbeat":
                term.registry.heartbeat(worker_id, session, now=now)
            case "draining":
                term.registry.draining(worker_id, session, now=now)
                term.changed.ring()
            case "leaving":
                term.registry.leaving(worker_id, session, now=now)
                term.changed.ring()
            case "hello":
                return "Hello is said once"
            case _:
                # A newer worker may say more than this version knows: a sign of life in any case.
                term.registry.heartbeat(worker_id, session, now=now)
        return ""

    def _built(self, term: Term, result: BuildResult, tasks: Tasks) -> None:
        if (build := term.builds.answered(result.build_id)) is None:
            return
        failure = wire.from_proto(result.failure, Failure) if result.HasField("failure") else None
        deployments = tuple(wire.from_proto(built, BuiltDeployment) for built in result.deployments)
        env = wire.from_proto(result.runtime_env, RuntimeEnv) if result.HasField("runtime_env") else build.resolved_env
        ended = replace(build, failure=failure, deployments=deployments, resolved_env=env)
        tasks.spawn(self._look_at(term, ended), name=f"build-{build.build_id}")

    async def _look_at(self, term: Term, build: Build) -> None:
        """Take a build's result, after a first look at it in a thread: schemas may take long to load.

        What this look finds of them is remembered, for the one that counts: by `reconcile`, on the state of then.
        """
        schemas = any(built.interface.descriptor_set for built in build.deployments)
        if schemas and (application := term.mirror.applications.get(build.application)) is not None:
            others = [other for name, other in term.mirror.applications.items() if name != build.application]
            await asyncio.to_thread(plan_of, application, build, others)
        if term.builds.ended(build):
            term.changed.ring()

    async def _redirect(self, context: _Context) -> None:
        leader = "" if self._leadership.is_leader else self._leadership.leader_address
        with contextlib.suppress(PeerGone):
            await write(context, SessionResponse(redirect=Redirect(leader=leader)))


class _Heard:
    """The last report of one session. Reports are whole, and most of each is as it was before."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[deployment_pb2.ReplicaStatus, ReplicaStatus]] = {}

    def read(self, report: Report) -> tuple[ReplicaStatus, ...]:
        """Return what is said of each replica. Raises ValueError."""
        before, self._last = self._last, {}
        for message in report.replicas:
            known = before.get(message.replica_id)
            same = known is not None and known[0] == message
            self._last[message.replica_id] = known if known is not None and same else (message, _status(message))
        return tuple(status for _, status in self._last.values())


def _status(message: deployment_pb2.ReplicaStatus) -> ReplicaStatus:
    return bounded_status(wire.from_proto(message, ReplicaStatus))
