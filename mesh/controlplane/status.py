"""How applications, deployments and workers are doing, for people.

Owns the derivation of states and messages; nothing here is stored or decides anything. Field names are those of
the messages. Pure. Called by `api` through `loop`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mesh.controlplane import rollout
from mesh.controlplane.placement import NO_WORKER, Placement
from mesh.controlplane.reconcile import Desired, Observed, seen
from mesh.controlplane.registry import Presence, Worker
from mesh.model import (
    Application,
    ApplicationState,
    DeploymentSpec,
    DeploymentState,
    Failure,
    Replica,
    ReplicaState,
    ReplicaStatus,
    Resources,
    WorkerState,
)


@dataclass(frozen=True, slots=True)
class ReplicaPlacement:
    """A replica and where it is."""

    worker_id: str = ""
    revision: int = 0
    status: ReplicaStatus = field(default_factory=ReplicaStatus)


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """How a deployment is doing. While a new version starts, `ready_replicas` counts the new ones."""

    name: str = ""
    state: DeploymentState = DeploymentState.UNSPECIFIED
    message: str = ""
    target_replicas: int = 0
    ready_replicas: int = 0
    replicas: tuple[ReplicaPlacement, ...] = ()


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


def applications_status(desired: Desired, observed: Observed) -> tuple[ApplicationStatus, ...]:
    """Return the status of every application, by name."""
    replicas = tuple(seen(observed).values())
    shortage = Placement(observed.workers.values(), replicas).shortage()
    return tuple(
        _application(application, [r for r in replicas if r.application == name], shortage)
        for name, application in sorted(desired.applications.items())
    )


def stored_status(desired: Desired, replicas: Mapping[str, Replica], why: str) -> Status:
    """Return what an instance can tell that does not lead and reaches nobody who does: what it last read."""
    placed = [replica for _, replica in sorted(replicas.items())]
    applications = tuple(
        _application(application, [r for r in placed if r.application == name], "")
        for name, application in sorted(desired.applications.items())
    )
    return Status(applications, stale=why)


def workers_status(observed: Observed, *, now: float, wall: float) -> tuple[WorkerStatus, ...]:
    """Return the status of every worker that is not lost. `now` is monotonic, `wall` Unix time of the same moment."""
    count = Counter(replica.worker_id for replica in observed.replicas.values())
    states = {Presence.CONNECTED: WorkerState.READY, Presence.AWAY: WorkerState.DISCONNECTED}
    return tuple(
        WorkerStatus(
            worker_id=worker.worker_id,
            incarnation=worker.incarnation,
            state=states[presence],
            host=worker.host,
            resources=worker.resources,
            replicas=count[worker.worker_id],
            last_seen=wall - (now - worker.last_seen),
        )
        for worker, presence in _present(observed.workers, now, observed.grace_s)
        if presence in states
    )


def steady(value: Status) -> Status:
    """Return a status without what changes all the time, so that two can be compared."""
    return replace(
        value,
        applications=tuple(
            replace(a, deployments=tuple(replace(d, replicas=_steady(d.replicas)) for d in a.deployments))
            for a in value.applications
        ),
        workers=tuple(replace(worker, last_seen=0.0) for worker in value.workers),
    )


def _steady(placements: tuple[ReplicaPlacement, ...]) -> tuple[ReplicaPlacement, ...]:
    return tuple(replace(p, status=replace(p.status, ongoing_requests=0)) for p in placements)


def _present(workers: Mapping[str, Worker], now: float, grace_s: float) -> Iterable[tuple[Worker, Presence]]:
    return ((worker, worker.presence(now, grace_s)) for _, worker in sorted(workers.items()))


def _application(application: Application, replicas: list[Replica], shortage: str) -> ApplicationStatus:
    deployments = tuple(
        _deployment(application, spec, [r for r in replicas if r.deployment == spec.name], shortage)
        for spec in _specs(application)
    )
    state, message = _state(application, deployments, shortage)
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
    )


def _specs(application: Application) -> list[DeploymentSpec]:
    """The deployments to show: those wanted, else those that were there last."""
    wanted = rollout.goals(application)
    if not wanted:
        plan = application.serving or application.plan
        wanted = {spec.name: spec for spec in plan.deployments} if plan else {}
    return [spec for _, spec in sorted(wanted.items())]


def _state(
    application: Application, deployments: tuple[DeploymentStatus, ...], shortage: str
) -> tuple[ApplicationState, str]:
    if application.deleting:
        return ApplicationState.DELETING, "waiting for its replicas to finish what runs"
    if application.failure:
        serving = application.serving
        kept = f"; revision {serving.revision} serves on" if serving else ""
        return ApplicationState.DEPLOY_FAILED, application.failure.message + kept
    if not rollout.is_built(application):
        return ApplicationState.DEPLOYING, shortage if shortage == NO_WORKER else "being built"
    first = next((f"{d.name}: {d.message}" for d in deployments if d.message), "") or _waiting(application)
    if application.serving is None or application.serving.revision != application.revision:
        return ApplicationState.DEPLOYING, first
    if any(deployment.state is DeploymentState.UNHEALTHY for deployment in deployments):
        return ApplicationState.UNHEALTHY, first
    return ApplicationState.RUNNING, first


def _waiting(application: Application) -> str:
    """Return what the application waits for before it goes, or before its route changes."""
    if not application.awaits:
        return ""
    names = [item.application for item in application.awaits if item.application != application.config.name]
    what = "is deleted" if application.leaving else "its route changes"
    return f"{what} once {' and '.join(names[:3])}{' …' if len(names) > 3 else ''} can serve" if names else ""


def _deployment(
    application: Application, spec: DeploymentSpec, replicas: list[Replica], shortage: str
) -> DeploymentStatus:
    goal = 0 if application.deleting else spec.settings.num_replicas
    current = [r for r in replicas if r.version == spec.version and not r.stopping]
    ready = sum(rollout.is_ready(replica) for replica in current)
    failed = bool(application.failure) and application.serving is None
    message = _message(current, goal, shortage) if ready < goal else _obstacle(application, current)
    state = DeploymentState.HEALTHY
    if failed:
        state = DeploymentState.DEPLOY_FAILED
    elif ready < goal or (application.deleting and replicas):
        settled = application.serving is not None and spec in application.serving.deployments
        state = DeploymentState.UNHEALTHY if settled and not application.deleting else DeploymentState.UPDATING
    return DeploymentStatus(
        name=spec.name,
        state=state,
        message="" if failed else message,
        target_replicas=goal,
        ready_replicas=ready,
        replicas=tuple(ReplicaPlacement(r.worker_id, r.revision, r.status) for r in replicas),
    )


def _obstacle(application: Application, current: list[Replica]) -> str:
    """Return what a replica that has not taken the settings of the revision to come says of that."""
    if application.failure or application.plan is None or application.plan == application.serving:
        return ""
    revision = application.plan.revision
    return next((r.status.message for r in current if not rollout.is_settled(r, revision) and r.status.message), "")


def _message(current: list[Replica], goal: int, shortage: str) -> str:
    if len(current) < goal and shortage:
        return f"{shortage}; {goal - len(current)} of {goal} replicas wait"
    for replica in current:
        if replica.status.state is ReplicaState.BACKOFF:
            return f"replica {replica.replica_id} starts again after a pause: {replica.status.message}"
    waiting = goal - sum(rollout.is_ready(replica) for replica in current)
    return f"{waiting} of {goal} replicas are starting"
