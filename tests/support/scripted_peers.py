"""A worker and a gateway that do what a test tells them: clients of a real control plane over real streams.

No process is started: a replica of this worker is an entry in a table. Nothing here waits for time to pass; tests
wait for conditions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

import grpc

from mesh import wire
from mesh.lifecycle import Tasks
from mesh.model import (
    BuiltDeployment,
    DeploymentConfig,
    Generation,
    ReplicaSpec,
    ReplicaState,
    ReplicaStatus,
    Resources,
)
from mesh.v1 import deployment_pb2, discovery_service_pb2, worker_service_pb2
from mesh.v1.discovery_service_pb2 import StreamSnapshotsRequest
from mesh.v1.discovery_service_pb2_grpc import DiscoveryServiceStub
from mesh.v1.worker_service_pb2 import SessionRequest
from mesh.v1.worker_service_pb2_grpc import WorkerServiceStub

WAIT_S = 20.0
T = TypeVar("T")


class Watched:
    """State that tests wait on."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def told(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, condition: Callable[[], T]) -> T:
        """Wait until `condition` gives something true, looking after each change, and return it."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not (found := condition()):
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"the condition did not come true; {self!r}") from None
        return found


class ScriptedWorker(Watched):
    """A worker whose replicas become ready at once, unless their import path is in `broken` or `slow`."""

    def __init__(self, worker_id: str, *addresses: str, max_replicas: int = 100, started_at: float = 1.0) -> None:
        super().__init__()
        self.worker_id = worker_id
        self.addresses = list(addresses)
        self.incarnation = f"{worker_id}-{started_at}"
        self.started_at = started_at
        self.max_replicas = max_replicas
        self.broken: dict[str, str] = {}
        """Message with which replicas of an import path fail to start."""
        self.slow: set[str] = set()
        """Import paths whose replicas stay in STARTING."""
        self.code: dict[str, Sequence[BuiltDeployment] | str] = {}
        """What a build of an import path finds, or the error; else one deployment "Echo"."""
        self.replicas: dict[str, ReplicaStatus] = {}
        self.specs: dict[str, ReplicaSpec] = {}
        self.builds: list[worker_service_pb2.Build] = []
        self.cancelled: list[str] = []
        self.generations: list[Generation] = []
        self.starts: list[str] = []
        """Every replica that was ever started, in order."""
        self.redirects: list[str] = []
        self.withdrawn: set[str] = set()
        """Replicas that are to go on until gateways have let go of them."""
        self.no_room_elsewhere = False
        self.draining = False
        """Say so in Hello."""
        self.interval_s = 0.0
        self.answers_builds = True
        self.connected = False
        self.refusal: grpc.aio.AioRpcError | None = None
        self._channel: grpc.aio.Channel | None = None
        self._call: Any = None
        self._one_write = asyncio.Lock()
        self._tasks = Tasks()

    def __repr__(self) -> str:
        states = {replica_id: status.state.name for replica_id, status in self.replicas.items()}
        return f"{self.worker_id}: connected={self.connected} replicas={states} refusal={self.refusal!r}"

    async def __aenter__(self) -> Self:
        self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    def connect(self) -> None:
        """Connect, and connect again whenever the stream ends, until `disconnect`."""
        self._tasks.spawn(self._stay(), name=f"worker-{self.worker_id}")

    async def disconnect(self) -> None:
        """Break the stream off, as if the process were killed; the replicas stay in the table."""
        await self._tasks.cancel()
        self.connected = False
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def leave(self) -> None:
        """Say that it goes, then go."""
        await self._write(self._call, SessionRequest(leaving=worker_service_pb2.Leaving()))
        await self._call.done_writing()

    async def drain(self) -> None:
        """Say that it was told to end."""
        self.draining = True
        await self._write(self._call, SessionRequest(draining=worker_service_pb2.Draining()))

    async def report(self) -> None:
        """Report all replicas."""
        statuses = [wire.to_proto(status, deployment_pb2.ReplicaStatus) for status in self.replicas.values()]
        await self._write(self._call, SessionRequest(report=worker_service_pb2.Report(replicas=statuses)))
        self.told()

    async def change(self, replica_id: str, **fields: Any) -> None:
        """Change a replica's status and report."""
        self.replicas[replica_id] = replace(self.replicas[replica_id], **fields)
        await self.report()

    async def mend(self, import_path: str) -> None:
        """Let replicas of a slow import path become ready."""
        self.slow.discard(import_path)
        for replica_id, spec in self.specs.items():
            if spec.config.import_path == import_path:
                self.replicas[replica_id] = self._started(spec)
        await self.report()

    async def refused(self) -> grpc.aio.AioRpcError:
        """Wait until the control plane ends a stream with an error and return it."""
        await self.until(lambda: self.refusal)
        assert self.refusal is not None
        return self.refusal

    def ready(self, application: str, deployment: str = "Echo") -> list[str]:
        return [
            replica_id
            for replica_id, spec in self.specs.items()
            if (spec.application, spec.deployment) == (application, deployment)
            and self.replicas[replica_id].state is ReplicaState.READY
        ]

    async def _stay(self) -> None:
        while self.addresses:
            address = self.addresses[0]
            self._channel = grpc.aio.insecure_channel(address)
            try:
                await self._session(self._channel)
            except asyncio.InvalidStateError:
                pass  # the stream ended while this side was writing
            except grpc.aio.AioRpcError as error:
                self.refusal = error
                if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED):
                    return
            finally:
                self.connected = False
                self.told()
                await self._channel.close()
            self.addresses.append(self.addresses.pop(0))
            await asyncio.sleep(0.02)

    async def _session(self, channel: grpc.aio.Channel) -> None:
        self._call = call = WorkerServiceStub(channel).Session()
        hello = worker_service_pb2.Hello(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            started_at=self.started_at,
            host="127.0.0.1",
            resources=wire.to_proto(Resources(2, 0, self.max_replicas), deployment_pb2.Resources),
            replicas=[wire.to_proto(status, deployment_pb2.ReplicaStatus) for status in self.replicas.values()],
            draining=self.draining,
        )
        await self._write(call, SessionRequest(hello=hello))
        beating = None
        try:
            async for response in call:
                match response.WhichOneof("kind"):
                    case "welcome":
                        self.interval_s = response.welcome.heartbeat_interval_s
                        self.connected = True
                        beating = self._tasks.spawn(self._beat(call), name="heartbeat")
                    case "redirect":
                        self.redirects.append(response.redirect.leader)
                    case "assignments":
                        await self._obey(response.assignments)
                    case "cancel_build":
                        self.cancelled.append(response.cancel_build.build_id)
                    case "build":
                        self.builds.append(response.build)
                        if self.answers_builds:
                            await self.answer(response.build)
                self.told()
        finally:
            if beating is not None:
                beating.cancel()

    async def _beat(self, call: Any) -> None:
        while True:
            await asyncio.sleep(self.interval_s)
            try:
                await self._write(call, SessionRequest(heartbeat=worker_service_pb2.Heartbeat()))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return

    async def _write(self, call: Any, request: SessionRequest) -> None:
        async with self._one_write:  # grpc takes one write at a time
            await call.write(request)

    async def answer(self, build: worker_service_pb2.Build) -> None:
        found = self.code.get(build.config.import_path, [BuiltDeployment(True, DeploymentConfig(name="Echo"))])
        result = worker_service_pb2.BuildResult(build_id=build.build_id)
        if isinstance(found, str):
            result.failure.message = found
        else:
            result.deployments.extend(wire.to_proto(b, worker_service_pb2.BuiltDeployment) for b in found)
        await self._write(self._call, SessionRequest(build_result=result))

    async def _obey(self, assignments: worker_service_pb2.Assignments) -> None:
        generation = wire.from_proto(assignments.generation, Generation)
        assert not self.generations or generation > self.generations[-1], "generations must rise"
        self.generations.append(generation)
        specs = [wire.from_proto(spec, ReplicaSpec) for spec in assignments.replicas]
        self.specs = {spec.replica_id: spec for spec in specs}
        self.withdrawn = set(assignments.withdrawn)
        self.no_room_elsewhere = assignments.no_room_elsewhere
        for replica_id in set(self.replicas) - set(self.specs) - self.withdrawn:
            del self.replicas[replica_id]
        for spec in specs:
            if spec.replica_id not in self.replicas:
                self.starts.append(spec.replica_id)
                self.replicas[spec.replica_id] = self._started(spec)
        await self.report()

    def _started(self, spec: ReplicaSpec) -> ReplicaStatus:
        status = ReplicaStatus(replica_id=spec.replica_id, state=ReplicaState.STARTING)
        if message := self.broken.get(spec.config.import_path):
            return replace(status, state=ReplicaState.BACKOFF, failed_starts=3, message=message)
        if spec.config.import_path in self.slow:
            return status
        return replace(status, state=ReplicaState.READY, address=f"127.0.0.1:{10_000 + len(self.starts)}", pid=1)


class ScriptedGateway(Watched):
    """A gateway that takes every snapshot and acknowledges it."""

    def __init__(self, gateway_id: str, *addresses: str) -> None:
        super().__init__()
        self.gateway_id = gateway_id
        self.addresses = list(addresses)
        self.snapshots: list[discovery_service_pb2.Snapshot] = []
        self.redirects: list[str] = []
        self.routes = asyncio.Event()
        """Set while it routes by what it gets, and says so."""
        self.routes.set()
        self._channel: grpc.aio.Channel | None = None
        self._tasks = Tasks()

    def __repr__(self) -> str:
        return f"{self.gateway_id}: {self.snapshots[-1:]}"

    async def __aenter__(self) -> Self:
        self._tasks.spawn(self._stay(), name=f"gateway-{self.gateway_id}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    async def disconnect(self) -> None:
        await self._tasks.cancel()
        if self._channel is not None:
            await self._channel.close()

    @property
    def generation(self) -> Generation:
        return wire.from_proto(self.snapshots[-1].generation, Generation) if self.snapshots else Generation()

    def application(self, name: str) -> discovery_service_pb2.RoutedApplication | None:
        found = (a for a in (self.snapshots[-1].applications if self.snapshots else ()) if a.name == name)
        return next(found, None)

    def deployment(self, application: str, name: str = "Echo") -> discovery_service_pb2.RoutedDeployment | None:
        routed = self.application(application)
        return next((d for d in routed.deployments if d.name == name), None) if routed else None

    def endpoints(self, application: str, name: str = "Echo") -> list[str]:
        found = self.deployment(application, name)
        return [endpoint.replica_id for endpoint in found.endpoints] if found else []

    async def _stay(self) -> None:
        while True:
            self._channel = grpc.aio.insecure_channel(self.addresses[0])
            try:
                await self._stream(self._channel)
            except grpc.aio.AioRpcError:
                pass
            finally:
                await self._channel.close()
            self.addresses.append(self.addresses.pop(0))
            await asyncio.sleep(0.02)

    async def _stream(self, channel: grpc.aio.Channel) -> None:
        call = DiscoveryServiceStub(channel).StreamSnapshots()
        await call.write(self._message())
        async for response in call:
            if response.HasField("redirect"):
                self.redirects.append(response.redirect.leader)
            elif response.HasField("snapshot") and self._is_newer(response.snapshot):
                self.snapshots.append(response.snapshot)
                self.told()
                await self.routes.wait()
                await call.write(self._message())
            self.told()

    def _is_newer(self, snapshot: discovery_service_pb2.Snapshot) -> bool:
        return wire.from_proto(snapshot.generation, Generation) >= self.generation

    def _message(self) -> StreamSnapshotsRequest:
        serving = wire.to_proto(self.generation, deployment_pb2.Generation)
        return StreamSnapshotsRequest(gateway_id=self.gateway_id, serving=serving)
