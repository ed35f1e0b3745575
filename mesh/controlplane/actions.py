"""What reconcile may ask for, and what each action does to the stored state.

Owns the closed set of actions and their effect on values. An action names everything its execution needs, so
that execution has no choices left. Never does I/O. Made by `reconcile`, carried out by `execute`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mesh.controlplane.handover import handed_over
from mesh.model import Application, Failure, Plan, Replica, ReplicaStatus


@dataclass(frozen=True, slots=True)
class BuildApplication:
    """Ask a worker to import a revision and say what is in it."""

    build_id: str
    application: str
    revision: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class CancelBuild:
    """Tell a worker that a build's result is not wanted any more. `session` is the one it was asked on."""

    build_id: str
    application: str
    session: int


@dataclass(frozen=True, slots=True)
class MarkPlanned:
    """Store what the build of a revision found, and the plans before it whose replicas are to run on meanwhile."""

    application: str
    plan: Plan
    serving: Plan | None = None
    superseded: tuple[Plan, ...] = ()


@dataclass(frozen=True, slots=True)
class MarkServing:
    """Store that a revision is wholly ready: it is now what the next one must not be worse than."""

    application: str
    revision: int


@dataclass(frozen=True, slots=True)
class MarkFailed:
    """Store that a revision failed, and why. What served before serves on: `serving`, if not what is stored as that."""

    application: str
    revision: int
    failure: Failure
    serving: Plan | None = None


@dataclass(frozen=True, slots=True)
class HandOver:
    """All that an application waited for is ready: it takes its route, or goes if it was leaving."""

    application: str


@dataclass(frozen=True, slots=True)
class Stay:
    """An application that was to leave is part of the goal again, for what was to come does not.

    `reason` is for the log.
    """

    application: str
    reason: str


@dataclass(frozen=True, slots=True)
class RemoveApplication:
    """Remove an application that is being deleted and has no replica left."""

    application: str


@dataclass(frozen=True, slots=True)
class PlaceReplica:
    """Store a new replica on a worker."""

    replica: Replica


@dataclass(frozen=True, slots=True)
class StopReplica:
    """Tell a replica to finish what runs and end. `reason` is for the log."""

    replica_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ForgetReplica:
    """Remove the record of a replica that ended or whose worker is gone. `reason` is for the log."""

    replica_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordStatus:
    """Store what a worker said of a replica, so that the next leader starts from it."""

    replica_id: str
    status: ReplicaStatus


@dataclass(frozen=True, slots=True)
class ForgetWorker:
    """Remove what was asked of a worker that has been gone for long."""

    worker_id: str


Action = (
    BuildApplication
    | CancelBuild
    | MarkPlanned
    | MarkServing
    | MarkFailed
    | HandOver
    | Stay
    | RemoveApplication
    | PlaceReplica
    | StopReplica
    | ForgetReplica
    | RecordStatus
    | ForgetWorker
)


@dataclass(frozen=True, slots=True)
class Changes:
    """New values of stored things; None means removed."""

    applications: dict[str, Application | None] = field(default_factory=dict)
    replicas: dict[str, Replica | None] = field(default_factory=dict)
    workers: dict[str, None] = field(default_factory=dict)


def changes(
    applications: Mapping[str, Application], replicas: Mapping[str, Replica], actions: Iterable[Action]
) -> Changes:
    """Return what the actions, in order, make of the stored values. An action whose object is gone does nothing."""
    result = Changes()
    for action in actions:
        match action:
            case BuildApplication() | CancelBuild():
                pass
            case ForgetWorker(worker_id):
                result.workers[worker_id] = None
            case PlaceReplica(replica):
                result.replicas[replica.replica_id] = replica
            case StopReplica(replica_id) | ForgetReplica(replica_id) | RecordStatus(replica_id):
                current = result.replicas.get(replica_id, replicas.get(replica_id))
                if current is not None:
                    result.replicas[replica_id] = _changed_replica(current, action)
            case _:
                name = action.application
                application = result.applications.get(name, applications.get(name))
                if application is not None:
                    result.applications[name] = _changed_application(application, action)
    return result


def _changed_replica(replica: Replica, action: StopReplica | ForgetReplica | RecordStatus) -> Replica | None:
    match action:
        case StopReplica():
            return replace(replica, stopping=True)
        case RecordStatus(_, status):
            return replace(replica, status=status)
        case ForgetReplica():
            return None


def _changed_application(
    application: Application, action: MarkPlanned | MarkServing | MarkFailed | HandOver | Stay | RemoveApplication
) -> Application | None:
    match action:
        case MarkPlanned(_, plan, serving, superseded):
            if plan.revision != application.revision:
                return application
            return replace(application, plan=plan, serving=serving, superseded=superseded)
        case MarkFailed(_, revision, failure, serving):
            if revision != application.revision:
                return application
            # One that is leaving goes on waiting; any other keeps the route that it has, for good.
            awaits = application.awaits if application.leaving else ()
            return replace(application, failure=failure, awaits=awaits, serving=serving or application.serving)
        case HandOver():
            return handed_over(application)
        case Stay():
            return replace(application, awaits=(), leaving=False)
        case MarkServing(_, revision):
            ready = application.plan is not None and application.plan.revision == revision
            return replace(application, serving=application.plan, superseded=()) if ready else application
        case RemoveApplication():
            return None
