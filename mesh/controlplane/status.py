"""How applications, deployments and workers are doing, for people.

Owns the derivation of states, reasons and messages; nothing here is stored or decides anything. Field names are
those of the messages. Pure. Called by `api` through `loop`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mesh.controlplane import drain, rollout
from mesh.controlplane.placement import Placement
from mesh.controlplane.reconcile import Desired, Observed, seen
from mesh.controlplane.registry import Presence, Worker
from mesh.controlplane.sight import by_application
from mesh.model import (
    Application,
    ApplicationState,
    DeploymentSettings,
    DeploymentSpec,
    DeploymentState,
    Event,
    Failure,
    Replica,
    ReplicaState,
    ReplicaStatus,
    Resources,
    WorkerState,
)
from mesh.reasons import Reason


@dataclass(frozen=True, slots=True)
class ReplicaPlacement:
    """A replica and where it is."""

    worker_id: str = ""
    revision: int = 0
    status: ReplicaStatus = field(default_factory=ReplicaStatus)
    last_events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """How a deployment is doing. While a new version starts, `ready_replicas` counts the new ones."""

    name: str = ""
    state: DeploymentState = DeploymentState.UNSPECIFIED
    message: str = ""
    target_replicas: int = 0
    ready_replicas: int = 0
    replicas: tuple[ReplicaPlacement, ...] = ()
    reason: Reason = Reason.UNSPECIFIED
    last_events: tuple[Event, ...] = ()
    settings: DeploymentSettings | None = None
    configured: tuple[str, ...] = ()
    """Names of the options that the config sets."""
    ingress: bool = False
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ApplicationStatus:
    """How an application is doing."""

    name: str = ""
    route_prefix: str = ""
    state: ApplicationState = ApplicationState.UNSPECIFIED
    message: str = ""
    revision: int = 0
    serving_revision: int = 0
    applied_at: float = 0.0
    deployments: tuple[DeploymentStatus, ...] = ()
    failure: Failure | None = None
    leaving: bool = False
    reason: Reason = Reason.UNSPECIFIED
    last_events: tuple[Event, ...] = ()
    paused: bool = False
    held: bool = False


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """How a worker is doing. `last_seen` is Unix time in seconds."""

    worker_id: str = ""
    incarnation: str = ""
    state: WorkerState = WorkerState.UNSPECIFIED
    host: str = ""
    resources: Resources = field(default_factory=Resources)
    replicas: int = 0
    last_seen: float = 0.0
    reason: Reason = Reason.UNSPECIFIED
    message: str = ""
    last_events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """How all is doing."""

    applications: tuple[ApplicationStatus, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()
    leader: str = ""
    gateways: int = 0
    gateways_behind: int = 0
    stale: str = ""
    """Why the leader could not be asked; then this is what was last read in the store."""


class _Told(NamedTuple):
    """Why something is in its state: a word, and what is said of it."""

    reason: Reason
    message: str = ""


NOTHING = _Told(Reason.UNSPECIFIED)


class Room(NamedTuple):
    """Where replicas may go: why there is no room for one now, and which workers drain or are lost."""

    shortage: _Told = NOTHING
    draining: frozenset[str] = frozenset()
    lost: frozenset[tuple[str, str]] = frozenset()
    """Deployments, as application and name, that miss replicas because their workers are lost."""


def stored_status(desired: Desired, replicas: Mapping[str, Replica], why: str) -> Status:
    """Return what an instance can tell that does not lead and reaches nobody who does: what it last read."""
    placed = by_application(dict(sorted(replicas.items())))
    applications = tuple(
        application_status(application, placed.get(name, []), Room())
        for name, application in sorted(desired.applications.items())
    )
    return Status(applications, stale=why)


def workers_status(desired: Desired, observed: Observed, *, now: float, wall: float) -> tuple[WorkerStatus, ...]:
    """Return the status of every worker that is not lost. `now` is monotonic, `wall` Unix time of the same moment."""
    count = Counter(replica.worker_id for replica in observed.replicas.values())
    draining = drain.draining(desired.workers, observed.workers)
    room = room_of(desired, observed, seen(observed).values()) if draining else Room()
    told = (
        (worker, *_worker_state(worker, presence, count[worker.worker_id], room))
        for worker, presence in _present(observed.workers, now, observed.grace_s)
        if presence is not Presence.LOST
    )
    return tuple(
        WorkerStatus(
            worker_id=worker.worker_id,
            incarnation=worker.incarnation,
            state=state,
            host=worker.host,
            resources=worker.resources,
            replicas=count[worker.worker_id],
            last_seen=wall - (now - worker.last_seen),
            reason=reason,
            message=message,
        )
        for worker, state, (reason, message) in told
    )


def room_of(desired: Desired, observed: Observed, replicas: Iterable[Replica]) -> Room:
    """Return what room there is. `replicas` are the placements with their current status."""
    draining = drain.draining(desired.workers, observed.workers)
    placement = Placement(observed.workers.values(), replicas, draining)
    return Room(_Told(placement.obstacle, placement.shortage()), draining)


def _worker_state(worker: Worker, presence: Presence, replicas: int, room: Room) -> tuple[WorkerState, _Told]:
    if presence is not Presence.CONNECTED:
        return WorkerState.DISCONNECTED, _Told(Reason.DISCONNECTED)
    if worker.worker_id not in room.draining:
        return WorkerState.READY, _Told(Reason.READY)
    if not replicas:
        return WorkerState.DRAINED, _Told(Reason.DRAINED)
    left = "1 replica is left" if replicas == 1 else f"{replicas} replicas are left"
    if room.shortage.message:
        return WorkerState.DRAINING, _Told(Reason.WAITING_FOR_ROOM, f"{left}; {room.shortage.message}")
    return WorkerState.DRAINING, _Told(Reason.DRAINING, left)


def is_news(told: Status, now: Status) -> bool:
    """Whether anything is other than it was told, but for what changes all the time."""
    if len(told.applications) != len(now.applications) or _rest(told) != _rest(now):
        return True
    pairs = zip(told.applications, now.applications, strict=True)
    return any(one is not other and _application(one) != _application(other) for one, other in pairs)


def _rest(value: Status) -> Status:
    return replace(value, applications=(), workers=tuple(replace(worker, last_seen=0.0) for worker in value.workers))


def _application(value: ApplicationStatus) -> ApplicationStatus:
    return replace(value, deployments=tuple(replace(d, replicas=_steady(d.replicas)) for d in value.deployments))


def _steady(placements: tuple[ReplicaPlacement, ...]) -> tuple[ReplicaPlacement, ...]:
    return tuple(replace(p, status=replace(p.status, ongoing_requests=0)) for p in placements)


def _present(workers: Mapping[str, Worker], now: float, grace_s: float) -> Iterable[tuple[Worker, Presence]]:
    return ((worker, worker.presence(now, grace_s)) for _, worker in sorted(workers.items()))


def application_status(application: Application, replicas: Sequence[Replica], room: Room) -> ApplicationStatus:
    """Return the status of one application. `replicas` are its own."""
    deployments = tuple(
        _deployment(application, spec, [r for r in replicas if r.deployment == spec.name], room)
        for spec in _specs(application)
    )
    state, (reason, message) = _state(application, deployments, room.shortage)
    return ApplicationStatus(
        name=application.config.name,
        route_prefix=application.config.route_prefix,
        state=state,
        message=message,
        revision=application.revision,
        serving_revision=application.serving.revision if application.serving else 0,
        applied_at=application.applied_at,
        deployments=deployments,
        failure=application.failure,
        leaving=application.leaving,
        reason=reason,
        paused=application.paused,
        held=rollout.is_held(application),
    )


def _specs(application: Application) -> list[DeploymentSpec]:
    """The deployments to show: those wanted and those held, else those that were there last."""
    wanted = rollout.goals(application)
    if application.plan is not None and rollout.is_held(application):
        wanted = {spec.name: spec for spec in application.plan.deployments} | wanted
    if not wanted:
        plan = application.serving or application.plan
        wanted = {spec.name: spec for spec in plan.deployments} if plan else {}
    return [spec for _, spec in sorted(wanted.items())]


def _state(
    application: Application, deployments: tuple[DeploymentStatus, ...], shortage: _Told
) -> tuple[ApplicationState, _Told]:
    if application.deleting:
        return ApplicationState.DELETING, _Told(Reason.DELETING, "waiting for its replicas to finish what runs")
    if application.failure:
        return ApplicationState.DEPLOY_FAILED, _failed(application, application.failure)
    serves = application.serving is not None and application.serving.revision == application.revision
    if application.paused and not serves:
        text = f"paused on the way to revision {application.revision}"
        return ApplicationState.DEPLOYING, _Told(Reason.PAUSED, text)
    if not rollout.is_built(application):
        unbuilt = shortage if shortage.reason is Reason.NO_WORKER else _Told(Reason.BUILDING, "being built")
        return ApplicationState.DEPLOYING, unbuilt
    first = next((_Told(d.reason, f"{d.name}: {d.message}") for d in deployments if d.message), _waiting(application))
    if not serves:
        return ApplicationState.DEPLOYING, first if first.message else _Told(Reason.STARTING)
    if any(deployment.state is DeploymentState.UNHEALTHY for deployment in deployments):
        return ApplicationState.UNHEALTHY, first
    ready = _Told(Reason.PAUSED, "paused") if application.paused else _Told(Reason.READY)
    return ApplicationState.RUNNING, first if first.message else ready


def _failed(application: Application, failure: Failure) -> _Told:
    """Return what became of the newest revision, and why."""
    revision, serving = application.revision, application.serving
    held = rollout.is_held(application)
    if serving is None:
        if held:
            return _Told(Reason.HELD, f"revision {revision} failed and is held: {failure.message}")
        return _Told(failure.reason or Reason.START_FAILED, failure.message)
    end = "is held beside" if held else "was rolled back to"
    reason = Reason.HELD if held else Reason.ROLLED_BACK
    return _Told(reason, f"revision {revision} failed and {end} revision {serving.revision}: {failure.message}")


def _waiting(application: Application) -> _Told:
    """Return what the application waits for before it goes, or before its route changes."""
    names = [item.application for item in application.awaits if item.application != application.config.name]
    if not names:
        return NOTHING
    what = "is deleted" if application.leaving else "its route changes"
    text = f"{what} once {' and '.join(names[:3])}{' …' if len(names) > 3 else ''} can serve"
    return _Told(Reason.WAITING_FOR_APPLICATIONS, text)


def _deployment(
    application: Application, spec: DeploymentSpec, replicas: list[Replica], room: Room
) -> DeploymentStatus:
    goal = 0 if application.deleting else spec.settings.num_replicas
    current = [r for r in replicas if r.version == spec.version and not r.stopping]
    ready = sum(rollout.is_ready(replica) for replica in current)
    failed = application.failure if application.serving is None else None
    state, told = DeploymentState.HEALTHY, _obstacle(application, current, room)
    if failed is not None:
        state, told = DeploymentState.DEPLOY_FAILED, _Told(failed.reason or Reason.START_FAILED)
    elif application.deleting and replicas:
        state, told = DeploymentState.UPDATING, _Told(Reason.DRAINING)
    elif ready < goal:
        settled = application.serving is not None and spec in application.serving.deployments
        state = DeploymentState.UNHEALTHY if settled else DeploymentState.UPDATING
        told = _missing(application, spec, replicas, room)
    return DeploymentStatus(
        name=spec.name,
        state=state,
        message=told.message,
        target_replicas=goal,
        ready_replicas=ready,
        replicas=tuple(ReplicaPlacement(r.worker_id, r.revision, r.status) for r in replicas),
        reason=told.reason,
    )


def _obstacle(application: Application, current: list[Replica], room: Room) -> _Told:
    """Return why ready replicas are not as they should be: they refuse settings, fail health checks, or cannot move."""
    plan = application.plan
    if plan is not None and not application.failure and plan != application.serving:
        for replica in current:
            if not rollout.is_settled(replica, plan.revision) and replica.status.message:
                return _Told(replica.status.reason, replica.status.message)
    for replica in current:
        if replica.status.reason is Reason.HEALTH_CHECK_FAILED:
            return _Told(replica.status.reason, f"replica {replica.replica_id} {replica.status.message}")
    left = [replica for replica in current if replica.worker_id in room.draining]
    if left and room.shortage.message:
        told = f"{room.shortage.message}; {len(left)} of {len(current)} replicas stay on a worker that drains"
        return _Told(room.shortage.reason, told)
    return _Told(Reason.READY)


def _missing(application: Application, spec: DeploymentSpec, replicas: list[Replica], room: Room) -> _Told:
    """Return why there are fewer replicas of the wanted version ready than there should be."""
    current = [r for r in replicas if r.version == spec.version and not r.stopping]
    goal = spec.settings.num_replicas
    shortage = room.shortage
    if len(current) < goal and shortage.message:
        return _Told(shortage.reason, f"{shortage.message}; {goal - len(current)} of {goal} replicas wait")
    for replica in current:
        status = replica.status
        if status.state is ReplicaState.BACKOFF:
            reason = status.reason or Reason.START_FAILED
            return _Told(reason, f"replica {replica.replica_id} starts again after a pause: {status.message}")
    for replica in current:
        status = replica.status
        if status.reason in _TELLING and status.message and not rollout.is_ready(replica):
            return _Told(status.reason, f"replica {replica.replica_id}: {status.message}")
    waiting = goal - sum(rollout.is_ready(replica) for replica in current)
    reason = Reason.STARTING
    if (application.config.name, spec.name) in room.lost:
        reason = Reason.WORKER_LOST
    elif any(r.version != spec.version and rollout.is_ready(r) for r in replicas):
        reason = Reason.ROLLING_OUT
    elif any(rollout.is_ready(r) for r in current) and not any(r.status.crashes for r in current):
        reason = Reason.SCALING
    return _Told(reason, f"{waiting} of {goal} replicas are starting")


_TELLING = frozenset(
    (
        Reason.PREPARING_ENVIRONMENT,
        Reason.HEALTH_CHECK_FAILED,
        Reason.CRASHED,
        Reason.START_FAILED,
        Reason.STARTUP_TIMEOUT,
        Reason.CRASH_LOOP,
        Reason.ENVIRONMENT_FAILED,
    )
)
"""Reasons of a replica on its way that say more than that it is starting."""
