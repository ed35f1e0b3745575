"""One term of office: all that a leader knows and has told, from the day it took office until it lost it.

Owns the mirror, the registry, the builds and the streams of workers and gateways; a new term starts from the
store alone. Never decides and never does I/O: `loop` drives it, `sessions` and `discovery` feed it, `api` reads it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace

from mesh import wire
from mesh.controlplane import drain, publish, status
from mesh.controlplane.bell import Bell
from mesh.controlplane.builds import Builds
from mesh.controlplane.chronicle import Chronicle
from mesh.controlplane.happenings import View
from mesh.controlplane.mirror import Mirror
from mesh.controlplane.placement import Placement
from mesh.controlplane.reconcile import Desired, Observed, counted, seen
from mesh.controlplane.records import decode_events
from mesh.controlplane.registry import Registry
from mesh.controlplane.withdrawal import CONFIRM_S, Withdrawals
from mesh.model import Cors, Generation, Replica, ReplicaState, WorkerState
from mesh.settings import ControlPlaneSettings
from mesh.v1 import discovery_service_pb2, worker_service_pb2
from mesh.v1.discovery_service_pb2 import StreamSnapshotsResponse
from mesh.v1.worker_service_pb2 import SessionResponse


class Outbox:
    """What waits to be sent to one worker: the newest orders only, and builds."""

    def __init__(self, worker_id: str) -> None:
        self.worker_id = worker_id
        self.told: publish.Assignments | None = None
        """The last orders put in here, without their generation."""
        self._first: deque[SessionResponse] = deque()
        self._orders: SessionResponse | None = None
        self._woken = asyncio.Event()
        self._closed = False
        self.refusal = ""
        """Why the stream is to end with an error; empty: it ends well."""

    def put(self, message: SessionResponse) -> None:
        """Queue a message that must not be lost: the welcome and builds, whose number `builds` bounds."""
        self._first.append(message)
        self._woken.set()

    def put_orders(self, orders: SessionResponse) -> None:
        """Queue orders; they replace older ones that were not sent yet."""
        self._orders = orders
        self._woken.set()

    def close(self, refusal: str = "") -> None:
        """End the stream: nothing more is sent. Closing it again changes nothing."""
        if not self._closed:
            self._closed, self.refusal = True, refusal
            self._woken.set()

    async def next(self) -> SessionResponse | None:
        """Wait for the next message to send; None when the stream is to end."""
        while True:
            if self._closed:
                return None
            if self._first:
                return self._first.popleft()
            if self._orders is not None:
                orders, self._orders = self._orders, None
                return orders
            self._woken.clear()
            await self._woken.wait()


@dataclass(slots=True)
class GatewayStream:
    """One gateway's stream and what it serves from, as it said."""

    gateway_id: str
    serving: Generation = field(default_factory=Generation)


class Term:
    """State of one term. `epoch` is the fencing token under which everything in it is written and said."""

    def __init__(self, epoch: int, mirror: Mirror, settings: ControlPlaneSettings, now: float) -> None:
        self.epoch = epoch
        self.mirror = mirror
        self.registry = Registry()
        placed = {replica.worker_id for replica in mirror.replicas.values()}
        extra_s = max(0.0, settings.takeover_grace_s - settings.worker_grace_s)
        self.registry.expect(placed | mirror.workers.keys(), now=now, extra_s=extra_s)
        self.builds = Builds()
        # Gateways of the leader before come within moments; what is to stop by then waits for them.
        self.withdrawals = Withdrawals(now + CONFIRM_S if placed else now)
        expected = dict.fromkeys(placed, WorkerState.DISCONNECTED)
        logs = {name: decode_events(value) for name, value in mirror.events.items()}
        self.chronicle = Chronicle(logs, View(dict(mirror.applications), dict(mirror.replicas), expected))
        self.outboxes: dict[int, Outbox] = {}
        """By number of the session."""
        self.gateways: dict[int, GatewayStream] = {}
        self.snapshot: StreamSnapshotsResponse | None = None
        self.changed = Bell()
        """Rings when there may be something to reconcile."""
        self.published = Bell()
        """Rings when the snapshot changed, and when the term ends."""
        self.reported = Bell()
        """Rings when the status may have changed, and when the term ends."""
        self.noted = Bell()
        """Rings when there are new events, and when the term ends."""
        self.over = False
        self._settings = settings
        self._number = 0
        self._streams = 0
        self._routed: publish.Snapshot | None = None
        self._routed_at = Generation()

    @property
    def desired(self) -> Desired:
        """The goal state now."""
        return Desired(dict(self.mirror.applications), dict(self.mirror.workers))

    def observed(self, token: str = "") -> Observed:
        """Return what is seen now; `token` makes the ids of what is decided on it unique."""
        settings = self._settings
        return Observed(
            replicas=dict(self.mirror.replicas),
            workers=self.registry.workers,
            builds=self.builds.newest,
            grace_s=settings.worker_grace_s,
            token=token,
            min_ready_s=settings.min_ready_s,
        )

    def open_session(self, session: int, replaced: int, worker_id: str) -> Outbox:
        """Return the outbox of a session that was let in, and end the one that it replaced."""
        if replaced and (old := self.outboxes.pop(replaced, None)):
            old.close("a newer session of this worker was opened")
        outbox = self.outboxes[session] = Outbox(worker_id)
        self.changed.ring()
        return outbox

    def close_session(self, session: int, worker_id: str, *, now: float) -> None:
        """The stream of a session ended."""
        self.outboxes.pop(session, None)
        self.registry.disconnected(worker_id, session, now=now)
        self.changed.ring()

    def open_gateway(self, gateway_id: str) -> int:
        """Note a gateway's stream and return its number."""
        self._streams += 1
        self.gateways[self._streams] = GatewayStream(gateway_id)
        self.reported.ring()
        self.changed.ring()
        return self._streams

    def acknowledge(self, number: int, serving: Generation) -> None:
        """A gateway said what it routes by."""
        if (stream := self.gateways.get(number)) is not None and stream.serving != serving:
            stream.serving = serving
            self.reported.ring()
            self._look_at_withdrawals()

    def close_gateway(self, number: int) -> None:
        """A gateway's stream ended."""
        self.gateways.pop(number, None)
        self.reported.ring()
        self.changed.ring()

    def publish(self, now: float) -> None:
        """Tell gateways and workers what changed for them; a replica is stopped once no gateway sends it anything.

        `now` is monotonic.
        """
        applications, replicas = self.mirror.applications, seen(self.observed())
        http = self.mirror.options.http_options
        routed = publish.snapshot(applications, replicas, http.request_timeout_s, wire.from_proto(http.cors, Cors))
        if routed != self._routed:
            self._routed = routed
            self._routed_at = self._next_generation()
            numbered = replace(routed, generation=self._routed_at)
            message = wire.to_proto(numbered, discovery_service_pb2.Snapshot)
            self.snapshot = StreamSnapshotsResponse(snapshot=message)
            self.published.ring()
        withdrawn = self._withdrawn(replicas, now)
        orders = publish.assignments(
            applications,
            replicas,
            {box.worker_id for box in self.outboxes.values()},
            withdrawn,
            self._cornered(replicas, withdrawn),
        )
        for outbox in self.outboxes.values():
            if (told := orders[outbox.worker_id]) != outbox.told:
                outbox.told = told
                numbered_orders = replace(told, generation=self._next_generation())
                message_orders = wire.to_proto(numbered_orders, worker_service_pb2.Assignments)
                outbox.put_orders(SessionResponse(assignments=message_orders))
        self.reported.ring()

    def _withdrawn(self, replicas: dict[str, Replica], now: float) -> frozenset[str]:
        """Return the replicas that are to stop, run, and may still be called by a gateway."""
        stopping = (i for i, r in replicas.items() if r.stopping and r.status.state is ReplicaState.READY)
        self.withdrawals.note(stopping, self._routed_at, now)
        return self.withdrawals.held([stream.serving for stream in self.gateways.values()], now)

    def _look_at_withdrawals(self) -> None:
        if self.withdrawals:
            self.changed.ring()

    def _cornered(self, replicas: dict[str, Replica], withdrawn: frozenset[str]) -> frozenset[str]:
        workers = self.registry.workers
        draining = drain.draining(self.mirror.workers, workers)
        if not draining:
            return draining
        placement = Placement(workers.values(), replicas.values(), draining)
        return drain.cornered(draining, replicas.values(), withdrawn, placement)

    def note(self, *, now: float, wall: float) -> None:
        """Note what happened since the last look. `now` is monotonic, `wall` Unix time of the same moment."""
        observed = self.observed()
        workers = status.workers_status(self.desired, observed, now=now, wall=wall)
        running = (build for build in observed.builds.values() if not build.ended)
        view = View(
            applications=self.desired.applications,
            replicas=seen(observed),
            workers={w.worker_id: w.state for w in workers},
            leaving=frozenset(w.worker_id for w in observed.workers.values() if w.leaving),
            building=frozenset((build.application, build.revision, build.worker_id) for build in running),
            gateways=frozenset(stream.gateway_id for stream in self.gateways.values()),
        )
        if self.chronicle.look(view, wall):
            self.noted.ring()

    def status(self, leader: str, *, now: float, wall: float) -> status.Status:
        """Return how all is doing. `now` is monotonic, `wall` Unix time of the same moment."""
        known = self.observed()
        observed = counted(known, now)
        lost = frozenset((r.application, r.deployment) for i, r in known.replicas.items() if i not in observed.replicas)
        return status.Status(
            applications=status.applications_status(self.desired, observed, lost),
            workers=status.workers_status(self.desired, observed, now=now, wall=wall),
            leader=leader,
            gateways=len({stream.gateway_id for stream in self.gateways.values()}),
            gateways_behind=sum(stream.serving != self._routed_at for stream in self.gateways.values()),
        )

    def replica_counts(self, *, now: float) -> dict[tuple[str, str, str], int]:
        """Return how many replicas each deployment is to have ("target") and has ("ready"). `now` is monotonic."""
        counts = {}
        for application in status.applications_status(self.desired, counted(self.observed(), now)):
            for deployment in application.deployments:
                counts[application.name, deployment.name, "target"] = deployment.target_replicas
                counts[application.name, deployment.name, "ready"] = deployment.ready_replicas
        return counts

    def end(self) -> None:
        """Leadership is gone: end all streams and wake all who wait."""
        self.over = True
        for outbox in list(self.outboxes.values()):
            outbox.close()
        self.changed.ring()
        self.published.ring()
        self.reported.ring()
        self.noted.ring()

    def _next_generation(self) -> Generation:
        self._number += 1
        return Generation(self.epoch, self._number)
