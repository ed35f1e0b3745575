"""Who a control plane works for, many to a process: gateways and workers whose other end is real and who do no work.

Gateways keep `mesh.pipe.discovery` streams, workers sessions of `mesh.worker.agent`, both as real processes do; behind
them are no pipes and no replicas. Each kind is one process, which takes orders as lines of JSON on standard input,
answers on standard output and ends with its input. Times are those of the monotonic clock, which all processes share.
Run by `benchmarks.control_plane`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from mesh import wire
from mesh.clock import SYSTEM
from mesh.credentials import Credentials
from mesh.lifecycle import Tasks, loop_factory, tune_memory
from mesh.model import (
    BuiltDeployment,
    DeploymentConfig,
    Generation,
    ReplicaSpec,
    ReplicaState,
    ReplicaStatus,
    Resources,
)
from mesh.pipe.discovery import Discovery
from mesh.reasons import Reason
from mesh.security import NO_SECURITY
from mesh.v1 import discovery_service_pb2, worker_service_pb2
from mesh.worker.agent import Agent, Identity
from mesh.worker.builds import Builds
from mesh.worker.logs.sender import LogSender
from mesh.worker.stream import Duties
from mesh.worker.supervisor import Supervisor

DEPLOYMENT = "Model"
Answer = Callable[[dict[str, Any]], None]


class Gateway:
    """One subscriber. `looked` is called when it routes by a snapshot, right before it says so."""

    def __init__(self, gateway_id: str, control: tuple[str, ...], looked: Callable[[Gateway], None]) -> None:
        self.gateway_id = gateway_id
        self.epoch = 0
        self.number = 0
        self.snapshot = discovery_service_pb2.Snapshot()
        self.snapshots = 0
        self._looked = looked
        self._discovery = Discovery(control, self._says, Credentials(NO_SECURITY), SYSTEM, self._apply)
        self._tasks = Tasks()

    def open(self) -> None:
        """Follow the leader from now on."""
        self._tasks.spawn(self._discovery.run(), name=self.gateway_id)

    async def close(self) -> None:
        """Break off, as a process that is killed does."""
        await self._tasks.cancel()

    def deployment(self, application: str) -> discovery_service_pb2.RoutedDeployment | None:
        """Return what is known of an application's only deployment."""
        routed = self.snapshot.applications
        at = bisect_left(routed, application, key=lambda each: each.name)
        if at == len(routed) or routed[at].name != application or not routed[at].deployments:
            return None
        return routed[at].deployments[0]

    def endpoints(self) -> int:
        """Return how many replicas it can send to."""
        return sum(len(d.endpoints) for a in self.snapshot.applications for d in a.deployments)

    def _apply(self, snapshot: discovery_service_pb2.Snapshot) -> bool:
        generation = snapshot.generation.epoch, snapshot.generation.number
        if generation < (self.epoch, self.number):
            return False
        self.epoch, self.number = generation
        self.snapshot = snapshot
        self.snapshots += 1
        return True

    def _says(self) -> discovery_service_pb2.StreamSnapshotsRequest:
        if self.snapshots:
            self._looked(self)
        return discovery_service_pb2.StreamSnapshotsRequest(gateway_id=self.gateway_id)


@dataclass
class Watch:
    """What all gateways are to come to know, and when each did."""

    name: str
    gateways: int
    application: str = ""
    ongoing: int = 0
    """max_ongoing_requests that it is to have."""
    endpoints: int = 0
    """Replicas that are to be known: of the application, of all."""
    fresh: bool = False
    """Count only those that were not known when the watch began."""
    after_epoch: int = 0
    """What a leader after this one said."""
    known: frozenset[str] = frozenset()
    fewest: int = 1 << 30
    """Replicas that a gateway knew meanwhile, at least."""
    at: dict[str, float] = field(default_factory=dict)

    def look(self, gateway: Gateway) -> bool:
        """Look at what one gateway routes by. Returns whether this was the last one."""
        if not self.application:
            count = gateway.endpoints()
            self.fewest = min(self.fewest, count)
            met = gateway.epoch > self.after_epoch and count == self.endpoints
        elif (routed := gateway.deployment(self.application)) is None:
            met = False
        elif self.ongoing:
            met = routed.max_ongoing_requests == self.ongoing
        else:
            ids = {endpoint.replica_id for endpoint in routed.endpoints}
            met = len(ids - self.known if self.fresh else ids) == self.endpoints
        if met:
            self.at.setdefault(gateway.gateway_id, time.monotonic())
        return met and len(self.at) == self.gateways

    def result(self) -> dict[str, Any]:
        """Return when each gateway knew, in order."""
        return {"watch": self.name, "at": sorted(self.at.values()), "fewest": self.fewest}


class Gateways:
    """All gateways of this process."""

    def __init__(self, control: tuple[str, ...], answer: Answer) -> None:
        self._control = control
        self._answer = answer
        self._gateways: list[Gateway] = []
        self._watches: dict[str, Watch] = {}
        self._joining: dict[str, float] = {}
        self._made = 0

    async def order(self, order: dict[str, Any]) -> None:
        """Do what the benchmark asks for."""
        match order["do"]:
            case "join":
                self._join(order["count"])
            case "leave":
                for gateway in self._gateways[-order["count"] :]:
                    await gateway.close()
                del self._gateways[-order["count"] :]
                self._answer({"left": order["count"]})
            case "watch":
                watch = Watch(gateways=len(self._gateways), **order["what"])
                if watch.fresh and (routed := self._gateways[0].deployment(watch.application)) is not None:
                    watch = replace(watch, known=frozenset(e.replica_id for e in routed.endpoints))
                self._watches[watch.name] = watch
                self._answer({"watching": watch.name, "epoch": self._gateways[0].epoch})
                for gateway in self._gateways:
                    self._look(gateway)

    def _join(self, count: int) -> None:
        for _ in range(count):
            self._made += 1
            gateway = Gateway(f"gateway-{self._made:03d}", self._control, self._looked)
            self._gateways.append(gateway)
            self._joining[gateway.gateway_id] = time.monotonic()
        for gateway in self._gateways[-count:]:
            gateway.open()

    def _looked(self, gateway: Gateway) -> None:
        if (began := self._joining.pop(gateway.gateway_id, None)) is not None:
            took_s, size = time.monotonic() - began, gateway.snapshot.ByteSize()
            self._answer({"joined": gateway.gateway_id, "seconds": took_s, "bytes": size})
        self._look(gateway)

    def _look(self, gateway: Gateway) -> None:
        for name, watch in list(self._watches.items()):
            if watch.look(gateway):
                del self._watches[name]
                self._answer(watch.result())


class Replicas:
    """In place of a worker's supervisor: what is to run is ready, at once, at an address where nobody listens."""

    def __init__(self, worker_id: str, told: Callable[[str, int], None]) -> None:
        self.is_empty = False
        self.changed: Callable[[], None] = lambda: None
        self._worker_id = worker_id
        self._told = told
        self._generation = Generation()
        self._statuses: dict[str, ReplicaStatus] = {}
        self._started = 0

    def assign(self, generation: Generation, specs: Iterable[ReplicaSpec], withdrawn: Collection[str] = ()) -> bool:
        """Run exactly these from now on."""
        if generation <= self._generation:
            return False
        self._generation = generation
        kept = {i: status for i, status in self._statuses.items() if i in withdrawn}
        for spec in specs:
            status = self._statuses.get(spec.replica_id) or self._start(spec.replica_id)
            if status.settings_revision != spec.settings_revision:
                status = replace(status, settings_revision=spec.settings_revision)
            kept[spec.replica_id] = status
        self._statuses = kept
        self.changed()
        self._told(self._worker_id, generation.epoch)
        return True

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """Return how each replica is doing."""
        return tuple(self._statuses.values())

    def _start(self, replica_id: str) -> ReplicaStatus:
        self._started += 1
        port = 10_000 + 2 * (self._started % 20_000)
        return ReplicaStatus(
            replica_id=replica_id,
            state=ReplicaState.READY,
            reason=Reason.READY,
            address=f"10.0.0.1:{port}",
            admin_address=f"10.0.0.1:{port + 1}",
            pid=self._started,
            since=SYSTEM.wall(),
        )


class Found:
    """In place of a worker's builds: every import path has one deployment."""

    async def build(self, request: worker_service_pb2.Build) -> worker_service_pb2.BuildResult:
        """Return it."""
        built = BuiltDeployment(ingress=True, config=DeploymentConfig(name=DEPLOYMENT))
        deployments = [wire.to_proto(built, worker_service_pb2.BuiltDeployment)]
        return worker_service_pb2.BuildResult(build_id=request.build_id, deployments=deployments)


class Workers:
    """All workers of this process."""

    def __init__(self, control: tuple[str, ...], answer: Answer) -> None:
        self._control = control
        self._answer = answer
        self._epochs: dict[str, int] = {}
        self._tasks = Tasks()

    async def order(self, order: dict[str, Any]) -> None:
        """Do what the benchmark asks for."""
        for number in range(order["count"]):
            worker_id = f"worker-{number:02d}"
            replicas = Replicas(worker_id, self._told)
            resources = Resources(cpus=64, memory_bytes=1 << 36, max_replicas=order["max_replicas"])
            identity = Identity(worker_id, f"{worker_id}-1", time.time(), "127.0.0.1", resources, "bench")
            duties = Duties(cast(Supervisor, replicas), cast(Builds, Found()), cast(LogSender, None))
            agent = Agent(identity, self._control, Credentials(NO_SECURITY), duties, SYSTEM)
            replicas.changed = agent.changed
            self._tasks.spawn(agent.run(), name=worker_id)

    def _told(self, worker_id: str, epoch: int) -> None:
        """Say when a worker got the first orders of a leader."""
        if self._epochs.get(worker_id) != epoch:
            self._epochs[worker_id] = epoch
            self._answer({"told": worker_id, "epoch": epoch, "at": time.monotonic()})


def say(answer: dict[str, Any]) -> None:
    """Tell the benchmark."""
    print(json.dumps(answer), flush=True)


async def serve(kind: str, control: tuple[str, ...]) -> None:
    """Take orders until there are no more."""
    peers: Gateways | Workers = Gateways(control, say) if kind == "gateways" else Workers(control, say)
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say({"ready": kind})
    while line := await reader.readline():
        await peers.order(json.loads(line))


def main() -> None:
    """Be one of the two kinds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("gateways", "workers"))
    parser.add_argument("--control", required=True, help="host:port[,host:port]")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    logging.disable()  # of control planes that are killed
    tune_memory()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(arguments.kind, tuple(arguments.control.split(","))))


if __name__ == "__main__":
    main()
