"""The workers as their sessions show them: who is connected, since when not, and what each reported.

Owns the observed state of one leader's term; it starts from nothing but the ids that stored placements name.
Never decides what follows from it (`reconcile` does), never does I/O. Called by `sessions` and `loop`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from operator import attrgetter

from mesh.errors import Conflict
from mesh.model import Replica, ReplicaState, ReplicaStatus, Resources
from mesh.reasons import Reason


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a worker says first. Field names are those of the message Hello."""

    worker_id: str = ""
    incarnation: str = ""
    started_at: float = 0.0
    host: str = ""
    resources: Resources = field(default_factory=Resources)
    replicas: tuple[ReplicaStatus, ...] = ()
    draining: bool = False


class Presence(Enum):
    """Whether a worker counts."""

    CONNECTED = "connected"
    AWAY = "away"
    """Its session broke; its replicas count as running until the grace period ends."""
    LOST = "lost"
    """Away for longer than the grace period, or it said that it is leaving."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker as this leader knows it. Times are monotonic seconds of the leader."""

    worker_id: str
    last_seen: float
    incarnation: str = ""
    started_at: float = 0.0
    host: str = ""
    resources: Resources = field(default_factory=Resources)
    session: int = 0
    """Number of the session that stands; 0 while there is none."""
    heard: bool = False
    """Whether it said Hello to this leader. If not, the stored status of its replicas is the last known."""
    extra_s: float = 0.0
    """Seconds that it has beyond the grace period: it may not know yet that another leader is to be found."""
    leaving: bool = False
    draining: bool = False
    """It was told to end, and waits for its replicas to be replaced elsewhere."""
    reports: Mapping[str, ReplicaStatus] = field(default_factory=dict)
    """What it runs, by replica id, as of its last report."""
    unready_since: Mapping[str, float] = field(default_factory=dict)
    """When each replica that is starting or failing was first seen so, without having been ready since."""
    tried_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds for which each replica whose environment is being made ready has been starting or failing before."""
    ready_since: Mapping[str, float] = field(default_factory=dict)
    """When each replica that is ready was first seen so, without having ended since."""

    def presence(self, now: float, grace_s: float) -> Presence:
        """Return whether its replicas count as running."""
        if self.leaving:
            return Presence.LOST
        if self.session:
            return Presence.CONNECTED
        return Presence.AWAY if now < self.lost_at(grace_s) else Presence.LOST

    def lost_at(self, grace_s: float) -> float:
        """Return when it counts as lost if it stays away."""
        return self.last_seen + grace_s + self.extra_s


@dataclass(frozen=True, slots=True)
class Admitted:
    """A session that was let in, and the older one of the same worker that it ends (0: none)."""

    session: int
    replaced: int


class Registry:
    """Changes on each event of a session; reads are plain values."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._sessions = 0

    @property
    def workers(self) -> dict[str, Worker]:
        """All known workers by id."""
        return dict(self._workers)

    def get(self, worker_id: str) -> Worker | None:
        """Return the worker, if it is known."""
        return self._workers.get(worker_id)

    def expect(self, worker_ids: Iterable[str], *, now: float, extra_s: float = 0.0) -> None:
        """Count workers that stored placements name as away from `now` on, unless they are known.

        They have `extra_s` seconds beyond the grace period to come.
        """
        for worker_id in worker_ids:
            self._workers.setdefault(worker_id, Worker(worker_id, last_seen=now, extra_s=extra_s))

    def hello(self, greeting: Greeting, *, now: float) -> Admitted:
        """Let a session in. It ends an older one of the same worker.

        Raises Conflict if a process of the same worker id that started later is known.
        """
        known = self._workers.get(greeting.worker_id)
        other = known is not None and known.heard and greeting.incarnation != known.incarnation
        if known is not None and other and greeting.started_at < known.started_at:
            text = f"worker {greeting.worker_id!r} is registered by a process that started later"
            raise Conflict(text, hint="give each worker an id of its own")
        self._sessions += 1
        same = known is not None and known.incarnation == greeting.incarnation
        self._workers[greeting.worker_id] = Worker(
            worker_id=greeting.worker_id,
            last_seen=now,
            incarnation=greeting.incarnation,
            started_at=greeting.started_at,
            host=greeting.host,
            resources=greeting.resources,
            session=self._sessions,
            heard=True,
            reports={status.replica_id: status for status in greeting.replicas},
            unready_since=_unready_since(known if same else None, greeting.replicas, now),
            tried_s=_tried_s(known if same else None, greeting.replicas, now),
            ready_since=_ready_since(known if same else None, greeting.replicas, now),
            draining=greeting.draining,
        )
        return Admitted(self._sessions, known.session if known else 0)

    def report(self, worker_id: str, session: int, replicas: tuple[ReplicaStatus, ...], *, now: float) -> bool:
        """Take a worker's whole report. Returns whether anything but its load changed."""
        worker = self._current(worker_id, session)
        if worker is None:
            return False
        before = worker.reports
        reports = {status.replica_id: _known(before.get(status.replica_id), status) for status in replicas}
        if reports.keys() == before.keys() and all(status is before[i] for i, status in reports.items()):
            self._workers[worker_id] = replace(worker, last_seen=now)
            return False
        changed = reports.keys() != before.keys() or any(
            _without_load(status) != _without_load(before[i])
            for i, status in reports.items()
            if status is not before[i]
        )
        self._workers[worker_id] = replace(
            worker,
            last_seen=now,
            reports=reports,
            unready_since=_unready_since(worker, replicas, now),
            tried_s=_tried_s(worker, replicas, now),
            ready_since=_ready_since(worker, replicas, now),
        )
        return changed

    def restart_limits(self, replica_ids: Container[str], *, now: float) -> None:
        """Let the time limits of replicas that are starting or failing begin anew: their rollout stands still."""
        for worker_id, worker in self._workers.items():
            since = {i: now if i in replica_ids else at for i, at in worker.unready_since.items()}
            if since != worker.unready_since:
                self._workers[worker_id] = replace(worker, unready_since=since)

    def heartbeat(self, worker_id: str, session: int, *, now: float) -> None:
        """Take a sign of life."""
        if worker := self._current(worker_id, session):
            self._workers[worker_id] = replace(worker, last_seen=now)

    def draining(self, worker_id: str, session: int, *, now: float) -> None:
        """The worker was told to end: its replicas are to be replaced elsewhere."""
        if worker := self._current(worker_id, session):
            self._workers[worker_id] = replace(worker, last_seen=now, draining=True)

    def leaving(self, worker_id: str, session: int, *, now: float) -> None:
        """The worker goes and takes its replicas along."""
        if worker := self._current(worker_id, session):
            self._workers[worker_id] = replace(worker, last_seen=now, leaving=True)

    def disconnected(self, worker_id: str, session: int, *, now: float) -> None:
        """The session ended. Nothing happens if a newer one stands."""
        if worker := self._current(worker_id, session):
            self._workers[worker_id] = replace(worker, last_seen=now, session=0)

    def drop_lost(self, *, now: float, grace_s: float, placed: Iterable[str]) -> None:
        """Drop workers that are lost and have ended their session, except those `placed`: they are stored somewhere."""
        kept = set(placed)
        self._workers = {
            worker_id: worker
            for worker_id, worker in self._workers.items()
            if worker.session or worker_id in kept or worker.presence(now, grace_s) is not Presence.LOST
        }

    def _current(self, worker_id: str, session: int) -> Worker | None:
        worker = self._workers.get(worker_id)
        return worker if worker is not None and worker.session == session else None


def durable(status: ReplicaStatus) -> ReplicaStatus:
    """Return the part of a status that is worth a write: without load, time, and checks that may pass again.

    Which settings it took is not either: the next leader waits until the worker says it.
    """
    if status.state is ReplicaState.READY and status.reason is Reason.HEALTH_CHECK_FAILED:
        status = replace(status, reason=Reason.READY, message="")
    return replace(_without_load(status), settings_revision=0)


_NOT_DURABLE = frozenset({"ongoing_requests", "since", "settings_revision"})
_DURABLE = attrgetter(*(each.name for each in fields(ReplicaStatus) if each.name not in _NOT_DURABLE))


def _known(before: ReplicaStatus | None, status: ReplicaStatus) -> ReplicaStatus:
    """Return what was said before, if this is the same: what follows from it need not be derived again."""
    return before if before is not None and (before is status or before == status) else status


def differs(stored: ReplicaStatus, known: ReplicaStatus) -> bool:
    """Whether what is known now is worth a write over what is stored: their durable parts differ."""
    if stored is known:
        return False
    if stored.state is known.state and _DURABLE(stored) == _DURABLE(known):
        return False
    return durable(stored) != durable(known)


def _without_load(status: ReplicaStatus) -> ReplicaStatus:
    return replace(status, ongoing_requests=0, since=0.0)


def current_status(replica: Replica, worker: Worker | None) -> ReplicaStatus:
    """Return what is known of a stored replica: what its worker says now, else what was stored of it.

    A worker that was heard and does not name the replica has not started it yet, or not again.
    """
    if worker is None or not worker.heard:
        return replica.status
    known = worker.reports.get(replica.replica_id)
    if known is None:
        return pending(replica.replica_id)
    return known


def pending(replica_id: str) -> ReplicaStatus:
    """Return the status of a replica that was placed on a worker which has not reported it."""
    return ReplicaStatus(replica_id=replica_id, state=ReplicaState.PENDING, reason=Reason.WAITING_FOR_WORKER)


def _unready_since(worker: Worker | None, replicas: Iterable[ReplicaStatus], now: float) -> Mapping[str, float]:
    trying = (ReplicaState.STARTING, ReplicaState.BACKOFF)
    before, tried_s = (worker.unready_since, worker.tried_s) if worker is not None else ({}, {})
    return {
        s.replica_id: before.get(s.replica_id, now - tried_s.get(s.replica_id, 0.0))
        for s in replicas
        if s.state in trying
    }


def _tried_s(worker: Worker | None, replicas: Iterable[ReplicaStatus], now: float) -> Mapping[str, float]:
    """How long it takes to make an environment ready says nothing of the code: that time does not count."""
    if worker is None:
        return {}
    return {
        s.replica_id: now - worker.unready_since.get(s.replica_id, now - worker.tried_s.get(s.replica_id, 0.0))
        for s in replicas
        if s.state is ReplicaState.PREPARING
    }


def _ready_since(worker: Worker | None, replicas: Iterable[ReplicaStatus], now: float) -> Mapping[str, float]:
    before = worker.ready_since if worker is not None else {}
    crashes = {i: status.crashes for i, status in worker.reports.items()} if worker is not None else {}
    ready = (status for status in replicas if status.state is ReplicaState.READY)
    return {
        s.replica_id: before.get(s.replica_id, now) if crashes.get(s.replica_id) == s.crashes else now for s in ready
    }
