"""One term of office: all that a leader knows and has told, from the day it took office until it lost it.

Owns the mirror, the registry, the builds and the streams of workers, gateways and callers by handles; a new term starts
from the store alone. Never decides and never does I/O: `loop` drives it, `sessions` and `discovery` feed it, `api`
reads it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from operator import is_

from mesh import wire
from mesh.controlplane import drain, publish, status
from mesh.controlplane.bell import Bell
from mesh.controlplane.builds import Builds
from mesh.controlplane.chronicle import Chronicle
from mesh.controlplane.happenings import View
from mesh.controlplane.memo import Memo
from mesh.controlplane.mirror import Mirror
from mesh.controlplane.parts import APPLICATIONS_MAX
from mesh.controlplane.placement import Placement
from mesh.controlplane.publish import Assignments
from mesh.controlplane.published import Published
from mesh.controlplane.reconcile import Desired, Observed, counted, seen
from mesh.controlplane.records import decode_events
from mesh.controlplane.registry import Registry
from mesh.controlplane.sight import Sight
from mesh.controlplane.statuses import Statuses
from mesh.controlplane.withdrawal import CONFIRM_S, Withdrawals, called
from mesh.model import Application, Cors, Generation, Replica, ReplicaState, WorkerState
from mesh.settings import ControlPlaneSettings
from mesh.v1 import deployment_pb2, worker_service_pb2
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
class Subscriber:
    """The stream of one gateway, or of one caller by handles, and what it routes by, as it said."""

    gateway_id: str = ""
    caller_id: str = ""
    """In place of `gateway_id`: the id of a replica, or of another process."""
    applications: frozenset[str] = frozenset()
    """Of a caller by handles: what it asks for."""
    takes_changes: bool = False
    """It puts snapshots together from what changed."""
    serving: Generation = field(default_factory=Generation)


Sent = tuple[Generation, frozenset[str]]
"""What a subscriber was last sent: since when that is as it is, and what it had asked for."""


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
        self.chronicle = Chronicle(logs, View(mirror.applications, mirror.replicas, expected))
        self.outboxes: dict[int, Outbox] = {}
        """By number of the session."""
        self.subscribers: dict[int, Subscriber] = {}
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
        self._published = Published()
        self._state: tuple[object, ...] = (None, None, None)
        self._limits: tuple[frozenset[str], frozenset[str], frozenset[int]] = (frozenset(), frozenset(), frozenset())
        self._told = publish.Told()
        self._statuses = Statuses()
        self._sight = Sight()
        self._specs: Memo[deployment_pb2.ReplicaSpec] = Memo()

    @property
    def desired(self) -> Desired:
        """The goal state now."""
        return Desired(self.mirror.applications, self.mirror.workers)

    def observed(self, token: str = "") -> Observed:
        """Return what is seen now; `token` makes the ids of what is decided on it unique."""
        settings = self._settings
        return Observed(
            replicas=self.mirror.replicas,
            workers=self.registry.workers,
            builds=self.builds.newest,
            grace_s=settings.worker_grace_s,
            token=token,
            min_ready_s=settings.min_ready_s,
            sight=self._sight,
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

    @property
    def gateways(self) -> tuple[Subscriber, ...]:
        """The streams of gateways."""
        return tuple(each for each in self.subscribers.values() if each.gateway_id)

    def subscribe(self, subscriber: Subscriber) -> int:
        """Note the stream of a gateway, or of a caller by handles, and return its number."""
        self._streams += 1
        self.subscribers[self._streams] = subscriber
        if subscriber.gateway_id:
            self.reported.ring()
            self.changed.ring()
        return self._streams

    def acknowledge(self, number: int, serving: Generation, applications: Iterable[str] = ()) -> None:
        """A subscriber said what it routes by, and, if it calls by handles, what it asks for."""
        if (subscriber := self.subscribers.get(number)) is None:
            return
        if subscriber.caller_id and (asked := frozenset(islice(applications, APPLICATIONS_MAX))) != (
            subscriber.applications
        ):
            subscriber.applications = asked
            self.published.ring()
        if subscriber.serving != serving:
            subscriber.serving = serving
            if subscriber.gateway_id:
                self.reported.ring()
            self._look_at_withdrawals()

    def unsubscribe(self, number: int) -> None:
        """A subscriber's stream ended."""
        subscriber = self.subscribers.pop(number, None)
        if subscriber is not None and subscriber.gateway_id:
            self.reported.ring()
            self.changed.ring()
        else:
            self._look_at_withdrawals()

    def news(self, number: int, sent: Sent | None) -> tuple[Sent, StreamSnapshotsResponse] | None:
        """Return what a subscriber is to be sent, after what it was `sent` last; None if it knows all."""
        subscriber = self.subscribers.get(number)
        published = self._published
        if subscriber is None or published.at == Generation():
            return None
        if subscriber.gateway_id:
            now = (published.at, frozenset[str]())
            known = sent[0] if sent is not None and subscriber.takes_changes else Generation()
            message = published.since(known) if now != sent else None
            return (now, message) if message is not None else None
        asked = subscriber.applications
        now = (published.changed(asked), asked)
        return (now, published.part(asked)) if now != sent else None

    def publish(self, observed: Observed, now: float) -> None:
        """Tell gateways and workers what changed for them; a replica is stopped once no gateway sends it anything.

        `observed` is what is seen now, `now` is monotonic.
        """
        applications, replicas, options = self.mirror.applications, seen(observed), self.mirror.options
        state = (applications, replicas, options)
        if not (same := all(map(is_, state, self._state))):
            self._state = state
            self._publish_snapshot(applications, replicas)
        withdrawn = self._withdrawn(replicas, now)
        limits = (withdrawn, self._cornered(replicas, withdrawn), frozenset(self.outboxes))
        if not same or limits != self._limits:
            self._limits = limits
            self._order(applications, replicas)
        self.reported.ring()

    def _publish_snapshot(self, applications: Mapping[str, Application], replicas: Mapping[str, Replica]) -> None:
        http = self.mirror.options.http_options
        cors = wire.from_proto(http.cors, Cors)
        routed = publish.snapshot(applications, replicas, http.request_timeout_s, cors, self._told)
        if self._published.is_news(routed):
            asked = {name for each in self.subscribers.values() for name in each.applications}
            self._published.take(routed, self._next_generation(), asked)
            self.published.ring()

    def _order(self, applications: Mapping[str, Application], replicas: Mapping[str, Replica]) -> None:
        worker_ids = {box.worker_id for box in self.outboxes.values()}
        withdrawn, cornered, _ = self._limits
        orders = publish.assignments(applications, replicas, worker_ids, withdrawn, cornered, self._told)
        for outbox in self.outboxes.values():
            if (told := orders[outbox.worker_id]) != outbox.told:
                outbox.told = told
                outbox.put_orders(SessionResponse(assignments=self._orders(told)))
        self._told.keep(applications)
        self._specs.keep(replicas)
        self._sight.keep(applications)

    def _orders(self, told: Assignments) -> worker_service_pb2.Assignments:
        """Return orders as a message with a generation of its own."""
        rest = replace(told, generation=self._next_generation(), replicas=())
        message = wire.to_proto(rest, worker_service_pb2.Assignments)
        for spec in told.replicas:
            make = partial(wire.to_proto, spec, deployment_pb2.ReplicaSpec)
            message.replicas.append(self._specs.get(spec.replica_id, (spec,), make))
        return message

    def _withdrawn(self, replicas: Mapping[str, Replica], now: float) -> frozenset[str]:
        """Return the replicas that are to stop, run, and may still be called by a gateway or a replica that drains."""
        stopping = (i for i, r in replicas.items() if r.stopping and r.status.state is ReplicaState.READY)
        self.withdrawals.note(stopping, self._published.at, now)
        held = self.withdrawals.held([self._routes_by(each) for each in self._confirming(replicas)], now)
        return held | called(replicas.values())

    def _confirming(self, replicas: Mapping[str, Replica]) -> Iterable[Subscriber]:
        """Return who has to confirm a snapshot: all but replicas that are to stop themselves.

        What those may still send to a replica that stops is refused before it runs, and goes elsewhere.
        """
        for each in self.subscribers.values():
            if (replica := replicas.get(each.caller_id)) is None or not replica.stopping:
                yield each

    def _routes_by(self, subscriber: Subscriber) -> Generation:
        """Return the snapshot that a subscriber routes by. What did not change for it, it need not be told."""
        if subscriber.caller_id and subscriber.serving >= self._published.changed(subscriber.applications):
            return self._published.at
        return subscriber.serving

    def _look_at_withdrawals(self) -> None:
        if self.withdrawals:
            self.changed.ring()

    def _cornered(self, replicas: Mapping[str, Replica], withdrawn: frozenset[str]) -> frozenset[str]:
        workers = self.registry.workers
        draining = drain.draining(self.mirror.workers, workers)
        if not draining:
            return draining
        placement = Placement(workers.values(), replicas.values(), draining)
        return drain.cornered(draining, replicas.values(), withdrawn, placement)

    def note(self, observed: Observed, *, now: float, wall: float) -> None:
        """Note what happened since the last look. `now` is monotonic, `wall` Unix time of the same moment."""
        workers = status.workers_status(self.desired, observed, now=now, wall=wall)
        running = (build for build in observed.builds.values() if not build.ended)
        view = View(
            applications=self.desired.applications,
            replicas=seen(observed),
            workers={w.worker_id: w.state for w in workers},
            leaving=frozenset(w.worker_id for w in observed.workers.values() if w.leaving),
            building=frozenset((build.application, build.revision, build.worker_id) for build in running),
            gateways=frozenset(stream.gateway_id for stream in self.gateways),
        )
        if self.chronicle.look(view, wall):
            self.noted.ring()

    def status(self, leader: str, *, now: float, wall: float) -> status.Status:
        """Return how all is doing. `now` is monotonic, `wall` Unix time of the same moment."""
        known = self.observed()
        observed = counted(known, now)
        lost = frozenset((r.application, r.deployment) for i, r in known.replicas.items() if i not in observed.replicas)
        return status.Status(
            applications=self._statuses.applications(self.desired, observed, lost),
            workers=status.workers_status(self.desired, observed, now=now, wall=wall),
            leader=leader,
            gateways=len({stream.gateway_id for stream in self.gateways}),
            gateways_behind=sum(stream.serving != self._published.at for stream in self.gateways),
        )

    def replica_counts(self, *, now: float) -> dict[tuple[str, str, str], int]:
        """Return how many replicas each deployment is to have ("target") and has ("ready"). `now` is monotonic."""
        return self._statuses.counts(self.desired, counted(self.observed(), now))

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
