"""One session stream after its Welcome: reads orders, writes reports, heartbeats and build results, watches silence.

Owns what is on its way on this stream, nothing beyond it. Called by the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from mesh import model, wire
from mesh.clock import Clock
from mesh.lifecycle import Tasks
from mesh.liveness import Silence
from mesh.v1 import deployment_pb2, worker_service_pb2
from mesh.v1.worker_service_pb2 import Draining, Heartbeat, Leaving, Report, SessionRequest, SessionResponse
from mesh.worker.builds import Builds
from mesh.worker.logs.sender import LogSender
from mesh.worker.supervisor import Supervisor

Call: TypeAlias = "grpc.aio.StreamStreamCall[SessionRequest, SessionResponse]"

log = logging.getLogger("mesh.worker")

_HEARTBEAT_MIN_S = 0.05
_WRITE_TIMEOUT_S = 10.0
_LEAVE_TIMEOUT_S = 2.0


def replica_statuses(statuses: Iterable[model.ReplicaStatus]) -> list[deployment_pb2.ReplicaStatus]:
    """Return statuses as messages."""
    return [wire.to_proto(status, deployment_pb2.ReplicaStatus) for status in statuses]


class Heart:
    """How often this side speaks, and for how long the other side may be silent."""

    def __init__(self, interval_s: float, clock: Clock) -> None:
        self.interval_s = max(_HEARTBEAT_MIN_S, interval_s)
        self._clock = clock
        self._silence = Silence(self.interval_s, clock.monotonic())

    def heard(self) -> None:
        """The other side said something."""
        self._silence.heard(self._clock.monotonic())

    async def stopped(self) -> str:
        """Wait until the other side was silent for too long. Returns that in words."""
        while (wait_s := self._silence.wait_s(self._clock.monotonic())) > 0:  # noqa: ASYNC110 - time is what it waits for
            await asyncio.sleep(wait_s)
        return f"nothing was heard for {self._silence.limit_s:g} s"


@dataclass(frozen=True, slots=True)
class Duties:
    """What a session may ask of the worker."""

    supervisor: Supervisor
    builds: Builds
    log_sender: LogSender


class Stream:
    """A session that stands. `said` is what Hello told of the replicas, `stub` calls who has the other end."""

    def __init__(
        self,
        call: Call,
        heart: Heart,
        said: tuple[model.ReplicaStatus, ...],
        duties: Duties,
        stub: Any,
    ) -> None:
        self.leader = ""
        """Whom to ask next, if the other side said so."""
        self.draining = False
        """Say that this worker was told to end."""
        self.no_room_elsewhere = False
        """Whether the other side said that nothing of what runs here can be replaced elsewhere."""
        self.heard: Callable[[], None] = lambda: None
        """Called after orders came."""
        self._call = call
        self._heart = heart
        self._said = said
        self._supervisor = duties.supervisor
        self._builds = duties.builds
        self._log_sender = duties.log_sender
        self._stub = stub
        self._reads: dict[str, asyncio.Task[None]] = {}
        self._results: deque[worker_service_pb2.BuildResult] = deque()
        self._building: dict[str, asyncio.Task[None]] = {}
        self._leaving = self._said_draining = False
        self._wake = asyncio.Event()
        self._over = asyncio.Event()
        self._tasks = Tasks()
        # What changed since Hello is reported at once.
        self._wake.set()

    def report(self) -> None:
        """Report the replicas soon; what changes until then goes into the same report."""
        self._wake.set()

    async def run(self) -> str:
        """Hold the session until it breaks or ends. Returns why it did."""
        ends = [
            self._tasks.spawn(self._read(), name="session-reader"),
            self._tasks.spawn(self._write(), name="session-writer"),
            self._tasks.spawn(self._heart.stopped(), name="session-silence"),
        ]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return next((task.result() for task in done if not task.cancelled()), "cancelled")
        finally:
            self._over.set()
            self._call.cancel()
            # Builds as well: nobody waits for their results any more.
            await self._tasks.cancel()

    async def leave(self) -> None:
        """Say Leaving and wait, for a short time, until the other side has ended the stream."""
        self._leaving = True
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                await self._over.wait()

    async def _read(self) -> str:
        try:
            while isinstance(response := await self._call.read(), SessionResponse):
                self._heart.heard()
                self._obey(response)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        return f"redirected to {self.leader}" if self.leader else "the control plane ended it"

    def _obey(self, response: SessionResponse) -> None:
        kind = response.WhichOneof("kind")
        if kind == "assignments":
            generation = wire.from_proto(response.assignments.generation, model.Generation)
            specs = [wire.from_proto(spec, model.ReplicaSpec) for spec in response.assignments.replicas]
            self.no_room_elsewhere = response.assignments.no_room_elsewhere
            self.heard()
            if not self._supervisor.assign(generation, specs, frozenset(response.assignments.withdrawn)):
                log.info("assignments %d.%d are not newer: ignored", generation.epoch, generation.number)
        elif kind == "build":
            build_id = response.build.build_id
            self._building[build_id] = self._tasks.spawn(self._build(response.build), name=f"build-{build_id}")
        elif kind == "cancel_build":
            if (building := self._building.pop(response.cancel_build.build_id, None)) is not None:
                building.cancel()
        elif kind == "read_logs":
            self._read_logs(response.read_logs)
        elif kind == "stop_logs":
            if (read := self._reads.pop(response.stop_logs.read_id, None)) is not None:
                read.cancel()
        elif kind == "redirect":
            self.leader = response.redirect.leader

    def _read_logs(self, asked: worker_service_pb2.ReadLogs) -> None:
        read_id = asked.read_id
        task = self._reads[read_id] = self._tasks.spawn(
            self._log_sender.send(asked, self._stub), name=f"logs-{read_id}"
        )
        task.add_done_callback(lambda _: self._reads.pop(read_id, None))

    async def _build(self, request: worker_service_pb2.Build) -> None:
        self._results.append(await self._builds.build(request))
        self._building.pop(request.build_id, None)
        self._wake.set()

    async def _write(self) -> str:
        try:
            while True:
                requests = list(self._due())
                for request in requests or [SessionRequest(heartbeat=Heartbeat())]:
                    async with asyncio.timeout(_WRITE_TIMEOUT_S):
                        await self._call.write(request)
                if requests and requests[-1].HasField("leaving"):
                    await self._call.done_writing()
                    await self._over.wait()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._heart.interval_s):
                        await self._wake.wait()
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except (TimeoutError, asyncio.InvalidStateError):
            return "the control plane reads no more"

    def _due(self) -> Iterator[SessionRequest]:
        """Yield what is to be written now; empty if there is no news."""
        self._wake.clear()
        if self.draining and not self._said_draining:
            # Before the report: replicas that drain tell what for.
            self._said_draining = True
            yield SessionRequest(draining=Draining())
        statuses = self._supervisor.statuses()
        if statuses != self._said:
            self._said = statuses
            yield SessionRequest(report=Report(replicas=replica_statuses(statuses)))
        while self._results:
            yield SessionRequest(build_result=self._results.popleft())
        if self._leaving:
            yield SessionRequest(leaving=Leaving())
