"""What happened between two looks of the leader, as events.

Owns which change of the goal state, of a replica, worker or gateway is an event, and its words. Sees two views and
compares them, so that it does not matter who changed what. Pure. Called by `term`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mesh.controlplane import rollout
from mesh.model import Application, Event, Replica, ReplicaState, ReplicaStatus, WorkerState
from mesh.reasons import EventReason, Reason, Severity

_WARNING = Severity.WARNING


@dataclass(frozen=True, slots=True)
class View:
    """What the leader sees at one moment."""

    applications: Mapping[str, Application] = field(default_factory=dict)
    replicas: Mapping[str, Replica] = field(default_factory=dict)
    """Each with its current status."""
    workers: Mapping[str, WorkerState] = field(default_factory=dict)
    """Those that are not lost."""
    leaving: frozenset[str] = frozenset()
    """Workers that said that they go."""
    building: frozenset[tuple[str, int, str]] = frozenset()
    """Application, revision and worker of each build."""
    gateways: frozenset[str] = frozenset()


def happened(before: View, after: View, why: Mapping[str, str]) -> Iterator[Event]:
    """Yield what happened from one view to the next; `why` replicas were stopped or forgotten, by their ids."""
    applications = after.applications if after.applications is not before.applications else {}
    for name, application in sorted(applications.items()):
        yield from _of_application(name, before.applications.get(name), application)
    for name, revision, worker_id in sorted(after.building - before.building):
        text, reason = f"worker {worker_id} imports it", EventReason.BUILDING
        yield Event(reason=reason, message=text, application=name, revision=revision, worker_id=worker_id)
    replicas = before.replicas.keys() | after.replicas.keys() if after.replicas is not before.replicas else ()
    for replica_id in sorted(replicas):
        one, other = before.replicas.get(replica_id), after.replicas.get(replica_id)
        if one is not other and one != other:
            yield from _of_replica(one, other, why.get(replica_id, ""))
    for name in sorted(before.applications.keys() - after.applications.keys()):
        yield Event(reason=EventReason.DELETED, message="its last replica is gone", application=name)
    for worker_id in sorted(before.workers.keys() | after.workers.keys()):
        leaving = worker_id in after.leaving
        yield from _of_worker(worker_id, before.workers.get(worker_id), after.workers.get(worker_id), leaving)
    for gateway_id in sorted(after.gateways - before.gateways):
        yield Event(reason=EventReason.CONNECTED, message=f"gateway {gateway_id} came", gateway_id=gateway_id)
    for gateway_id in sorted(before.gateways - after.gateways):
        text = f"gateway {gateway_id} went, or cannot be reached"
        yield Event(reason=EventReason.DISCONNECTED, message=text, gateway_id=gateway_id)


def missed(application: Application, log: tuple[Event, ...]) -> Iterator[Event]:
    """Yield what a leader may have decided without having written it down, for the one that comes after it."""
    name, revision = application.config.name, application.revision
    noted = {(event.reason, event.revision) for event in log}
    if (EventReason.APPLIED, revision) not in noted:
        yield _applied(application)
    serving = application.serving
    if serving is not None and (EventReason.SERVING, serving.revision) not in noted:
        yield _serving(name, serving.revision)
    failed = {(EventReason.ROLLED_BACK, revision), (EventReason.REVISION_FAILED, revision)}
    if application.failure and not noted & failed:
        yield _failed(application, application.failure.message)


def _of_application(name: str, before: Application | None, after: Application) -> Iterator[Event]:
    if before is after:
        return
    if before is None or after.revision != before.revision:
        yield _applied(after)
    old = before or Application()
    revision = after.revision
    if after.deleting and not old.deleting:
        yield Event(reason=EventReason.DELETING, message="its replicas drain", application=name, revision=revision)
    if after.leaving != old.leaving and not after.deleting:
        reason = EventReason.LEAVING if after.leaving else EventReason.KEPT
        text = "goes once what the same deploy brought can serve" if after.leaving else "is part of the goal again"
        yield Event(reason=reason, message=text, application=name, revision=revision)
    if after.paused != old.paused:
        reason = EventReason.PAUSED if after.paused else EventReason.RESUMED
        text = "rollouts stand still" if after.paused else "rollouts go on"
        yield Event(reason=reason, message=text, application=name, revision=revision)
    yield from _of_revision(name, old, after)


def _of_revision(name: str, before: Application, after: Application) -> Iterator[Event]:
    revision = after.revision
    for deployment, at in sorted(after.restarts.items()):
        if before.restarts.get(deployment) != at:
            text = f"{deployment} gets new replicas"
            yield Event(
                reason=EventReason.RESTARTED, message=text, application=name, deployment=deployment, revision=revision
            )
    if rollout.is_built(after) and not (rollout.is_built(before) and before.revision == revision):
        plan = after.plan
        names = ", ".join(spec.name for spec in plan.deployments) if plan is not None else ""
        yield Event(reason=EventReason.BUILT, message=f"it has {names}", application=name, revision=revision)
    if not after.deleting:
        yield from _scaled(name, before, after)
    if after.failure is not None and (before.failure is None or before.revision != revision):
        yield _failed(after, after.failure.message)
    if after.serving is not None and (before.serving is None or before.serving.revision != after.serving.revision):
        yield _serving(name, after.serving.revision)


def _scaled(name: str, before: Application, after: Application) -> Iterator[Event]:
    old, new = rollout.goals(before), rollout.goals(after)
    for deployment in sorted(old.keys() & new.keys()):
        was, goal = old[deployment].settings.num_replicas, new[deployment].settings.num_replicas
        if was != goal:
            text = f"{deployment} goes from {was} to {goal} replicas"
            yield Event(
                reason=EventReason.SCALED,
                message=text,
                application=name,
                deployment=deployment,
                revision=after.revision,
            )


def _applied(application: Application) -> Event:
    name, revision = application.config.name, application.revision
    text = f"revision {revision} was accepted"
    at = application.applied_at
    return Event(reason=EventReason.APPLIED, message=text, application=name, revision=revision, last_at=at)


def _serving(name: str, revision: int) -> Event:
    text = f"revision {revision} is wholly ready"
    return Event(reason=EventReason.SERVING, message=text, application=name, revision=revision)


def _failed(application: Application, message: str) -> Event:
    serving, text = application.serving, f"revision {application.revision} failed: {message}"
    reason = EventReason.REVISION_FAILED
    if serving is not None and not application.hold_on_failure:
        # What serves on stands first: what user code said may be long, and is cut.
        reason, text = EventReason.ROLLED_BACK, f"revision {serving.revision} serves on; {text}"
    return Event(
        reason=reason,
        severity=_WARNING,
        message=text,
        application=application.config.name,
        revision=application.revision,
    )


def _of_replica(before: Replica | None, after: Replica | None, why: str) -> Iterator[Event]:
    if after is None:
        if before is not None and before.status.state is not ReplicaState.STOPPED:
            if before.stopping:
                yield _replica(before, EventReason.STOPPED, why or "it stopped")
            else:
                yield _replica(before, EventReason.FORGOTTEN, why or "its worker is lost", _WARNING)
        return
    if before is None:
        yield _replica(after, EventReason.PLACED, f"placed on worker {after.worker_id}")
        before = Replica(replica_id=after.replica_id)
    if after.stopping and not before.stopping:
        yield _replica(after, EventReason.STOPPING, why or "it is not wanted any more")
    for reason, message in _of_status(before.status, after.status):
        normal = reason in (EventReason.READY, EventReason.RECOVERED, EventReason.PREPARING, EventReason.STOPPED)
        yield _replica(after, reason, message, Severity.NORMAL if normal else _WARNING)


def _of_status(before: ReplicaStatus, after: ReplicaStatus) -> Iterator[tuple[EventReason, str]]:
    """Yield what happened to a replica's process."""
    failure = after.last_failure
    if after.crashes > before.crashes:
        unwell = failure is not None and failure.reason is Reason.HEALTH_CHECK_FAILED
        reason = EventReason.UNHEALTHY if unwell else EventReason.CRASHED
        yield reason, failure.message if failure is not None else after.message
    if after.failed_starts > before.failed_starts:
        late = after.failure is not None and after.failure.reason is Reason.STARTUP_TIMEOUT
        reason = EventReason.STARTUP_TIMEOUT if late else EventReason.START_FAILED
        yield reason, after.failure.message if after.failure is not None else after.message
    changed = after.state is not before.state
    again = after.pid != before.pid and after.crashes > before.crashes
    if after.state is ReplicaState.READY and (changed or again):
        yield EventReason.READY, f"ready at {after.address}"
    if after.state is ReplicaState.PREPARING and changed:
        # A start after a failure still says why; that was an event of its own.
        news = failure is None or after.message != failure.message
        yield EventReason.PREPARING, (after.message if news else "") or "its worker prepares its environment"
    if after.state is ReplicaState.STOPPED and changed:
        late = after.reason is Reason.DRAIN_TIMEOUT
        yield EventReason.DRAIN_TIMEOUT if late else EventReason.STOPPED, after.message or "it stopped"
    yield from _of_reason(before, after)


def _of_reason(before: ReplicaStatus, after: ReplicaStatus) -> Iterator[tuple[EventReason, str]]:
    """Yield what a process that runs says of itself."""
    runs = after.state in (ReplicaState.READY, ReplicaState.STARTING) and after.crashes == before.crashes
    if not runs or (after.reason, after.message) == (before.reason, before.message):
        return
    if after.reason is Reason.HEALTH_CHECK_FAILED:
        yield EventReason.HEALTH_CHECK_FAILED, after.message
    elif after.reason is Reason.SETTINGS_REFUSED:
        yield EventReason.SETTINGS_REFUSED, after.message
    elif before.reason is Reason.HEALTH_CHECK_FAILED and before.state is after.state and before.pid == after.pid:
        yield EventReason.RECOVERED, "its health checks pass again"


def _replica(replica: Replica, reason: EventReason, message: str, severity: Severity = Severity.NORMAL) -> Event:
    return Event(
        severity=severity,
        reason=reason,
        message=message,
        application=replica.application,
        deployment=replica.deployment,
        replica_id=replica.replica_id,
        worker_id=replica.worker_id,
        revision=replica.revision,
    )


def _of_worker(worker_id: str, before: WorkerState | None, after: WorkerState | None, leaving: bool) -> Iterator[Event]:
    if before is after:
        return
    match after:
        case None if leaving:
            yield _worker(worker_id, EventReason.LEFT, f"worker {worker_id} went, and its replicas with it")
        case None:
            text = f"worker {worker_id} stayed away; its replicas are replaced"
            yield _worker(worker_id, EventReason.LOST, text, _WARNING)
        case WorkerState.DISCONNECTED if before is not None:
            yield _worker(worker_id, EventReason.DISCONNECTED, f"worker {worker_id} cannot be reached", _WARNING)
        case WorkerState.READY:
            yield _worker(worker_id, EventReason.CONNECTED, f"worker {worker_id} takes replicas")
        case WorkerState.DRAINING:
            yield _worker(worker_id, EventReason.DRAINING, f"worker {worker_id} is being emptied")
        case WorkerState.DRAINED:
            yield _worker(worker_id, EventReason.DRAINED, f"worker {worker_id} is empty")


def _worker(worker_id: str, reason: EventReason, message: str, severity: Severity = Severity.NORMAL) -> Event:
    return Event(severity=severity, reason=reason, message=message, worker_id=worker_id)
