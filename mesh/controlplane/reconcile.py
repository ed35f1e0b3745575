"""What to do next so that what runs becomes what should run.

Owns the one decision of the control plane: whole state in, actions out. Level-triggered: it never sees an event,
so a lost or repeated one cannot matter; the same state gives the same actions, and a settled state gives none.
Never does I/O, never reads a clock. Called by `loop` after each change and when `next_due` says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from mesh.controlplane import drain, handover, rollout
from mesh.controlplane.actions import (
    Action,
    BuildApplication,
    CancelBuild,
    ForgetReplica,
    ForgetWorker,
    HandOver,
    MarkFailed,
    MarkPlanned,
    MarkServing,
    PlaceReplica,
    RecordStatus,
    RemoveApplication,
    Stay,
    StopReplica,
)
from mesh.controlplane.builds import BUILDS_PER_WORKER_MAX, PREPARING_BUILDS_PER_WORKER_MAX, Build, is_wanted, plan_of
from mesh.controlplane.limits import bounded_failure
from mesh.controlplane.placement import Placement, ends_unasked
from mesh.controlplane.registry import Presence, Worker, pending
from mesh.controlplane.sight import Sight, by_application
from mesh.model import Application, Awaited, DeploymentSpec, Failure, Plan, Replica, ReplicaState, WorkerGoal
from mesh.packages.place import is_in_place
from mesh.reasons import Reason


@dataclass(frozen=True, slots=True)
class Desired:
    """Goal state as it is stored."""

    applications: Mapping[str, Application] = field(default_factory=dict)
    workers: Mapping[str, WorkerGoal] = field(default_factory=dict)
    """What was asked of workers, by id."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Placements as stored, and what this leader has seen since it took office."""

    replicas: Mapping[str, Replica] = field(default_factory=dict)
    workers: Mapping[str, Worker] = field(default_factory=dict)
    builds: Mapping[str, Build] = field(default_factory=dict)
    """The newest build of each application."""
    grace_s: float = 10.0
    """Seconds a worker may be away before its replicas are placed elsewhere."""
    token: str = "0"
    """Random text, new for each pass: makes the ids of new replicas and builds unique over time."""
    min_ready_s: float = 0.0
    """Seconds for which a replica of a new version must be ready before it stands in for one that serves."""
    sight: Sight = field(default_factory=Sight, compare=False)
    """What was seen before; it changes no answer."""


def reconcile(desired: Desired, observed: Observed, now: float) -> tuple[Action, ...]:
    """Return the actions that bring what runs closer to what should run. `now` is in monotonic seconds."""
    return tuple(_Pass(desired, observed, now).actions())


def seen(observed: Observed) -> dict[str, Replica]:
    """Return the placements, each with what is known of it now."""
    return observed.sight.seen(observed.replicas, observed.workers)


def counted(observed: Observed, now: float) -> Observed:
    """Return what is seen without the replicas of lost workers: they are kept for when those come back, no more."""
    lost = {w.worker_id for w in observed.workers.values() if w.presence(now, observed.grace_s) is Presence.LOST}
    if not lost:
        return observed
    return replace(observed, replicas={i: r for i, r in observed.replicas.items() if r.worker_id not in lost})


def next_due(desired: Desired, observed: Observed, now: float) -> float | None:
    """Return when the mere passing of time will ask for a new pass; None if only an event can."""
    due = [
        worker.lost_at(observed.grace_s)
        for worker in observed.workers.values()
        if worker.presence(now, observed.grace_s) is Presence.AWAY
    ]
    due += [build.deadline for build in observed.builds.values() if not build.ended]
    replicas = observed.sight.by_application(observed.replicas, observed.workers)
    for name, application in desired.applications.items():
        of_application = replicas.get(name, ())
        if application.paused or observed.sight.at_rest(application, of_application):
            continue
        limits = {(s.name, s.version): rollout.startup_limit_s(s) for s in rollout.new_versions(application)}
        for replica in of_application if limits else ():
            limit_s = limits.get((replica.deployment, replica.version))
            worker = observed.workers.get(replica.worker_id)
            if limit_s is None or worker is None:
                continue
            if (since := worker.unready_since.get(replica.replica_id)) is not None:
                due.append(since + limit_s)
            if observed.min_ready_s and (since := worker.ready_since.get(replica.replica_id)) is not None:
                due.append(since + observed.min_ready_s)
    return min((at for at in due if at > now), default=None)


class _Pass:
    """One look at the whole state."""

    def __init__(self, desired: Desired, observed: Observed, now: float) -> None:
        self._desired = desired
        self._observed = observed
        self._now = now
        self._made = 0
        self._planned: dict[str, Application] = {}
        self._draining = drain.draining(desired.workers, observed.workers)
        self._presence = {w.worker_id: w.presence(now, observed.grace_s) for w in observed.workers.values()}
        self._replicas = seen(observed)
        leaving = {worker.worker_id for worker in observed.workers.values() if worker.leaving}
        going = ((i, r) for i, r in self._replicas.items() if r.stopping or r.worker_id in leaving)
        self._forgotten = {i: why for i, r in going if (why := self._gone(r))}
        self._of_application: Mapping[str, Sequence[Replica]] = observed.sight.by_application(
            observed.replicas, observed.workers
        )
        lost_ids = {worker_id for worker_id, presence in self._presence.items() if presence is Presence.LOST}
        lost = [r for i, r in self._replicas.items() if r.worker_id in lost_ids and i not in self._forgotten]
        if self._forgotten or lost:
            kept = {i: r for i, r in self._replicas.items() if not (i in self._forgotten or r.worker_id in lost_ids)}
            self._of_application = by_application(kept)
        self._forgotten |= {r.replica_id: "its worker is lost" for r in lost if self._is_replaced(r)}
        running = [build for build in observed.builds.values() if self._runs(build)]
        self._overtaken = [b for b in running if not is_wanted(b, desired.applications.get(b.application))]
        self._building = Counter((b.worker_id, b.prepares) for b in running if b not in self._overtaken)

    def actions(self) -> Iterator[Action]:
        """Yield in a fixed order: first what was learnt, then what is to be done."""
        for build in self._overtaken:
            yield CancelBuild(build.build_id, build.application, build.session)
        for replica_id, why in self._forgotten.items():
            yield ForgetReplica(replica_id, why)
        observed = self._observed
        for replica_id, replica in observed.sight.unsaved(observed.replicas, observed.workers).items():
            if replica_id not in self._forgotten:
                yield RecordStatus(replica_id, replace(replica.status, ongoing_requests=0))
        for worker_id in drain.outdated(
            self._desired.workers, self._observed.workers, self._observed.grace_s, self._now
        ):
            yield ForgetWorker(worker_id)
        for name in sorted(set(self._of_application) - set(self._desired.applications)):
            yield from _stop(self._of(name), "its application is gone")
        for name, application in sorted(self._desired.applications.items()):
            yield from self._application(application, self._of(name))

    @cached_property
    def _placement(self) -> Placement:
        """Room as this pass leaves it; counted only if something has to be placed."""
        remaining = (r for i, r in self._replicas.items() if i not in self._forgotten)
        return Placement(self._observed.workers.values(), remaining, self._draining)

    @cached_property
    def _full(self) -> bool:
        return self._placement.was_full and not any(replica.stopping for replica in self._replicas.values())

    def _of(self, application: str) -> Sequence[Replica]:
        return self._of_application.get(application, ())

    def _gone(self, replica: Replica) -> str:
        """Return why a replica's record is to be forgotten, or ""."""
        worker = self._observed.workers.get(replica.worker_id)
        if worker is None:
            return ""
        presence = self._presence[worker.worker_id]
        if worker.leaving:
            return "its worker is leaving"
        if presence is Presence.LOST:
            return "it was to stop and its worker is lost" if replica.stopping else ""
        if presence is not Presence.CONNECTED:
            return ""
        stopped = replica.status.state is ReplicaState.STOPPED or replica.replica_id not in worker.reports
        return "it stopped" if replica.stopping and stopped else ""

    def _is_replaced(self, lost: Replica) -> bool:
        """Whether a replica of a lost worker is needed no more. Until then it may be all there is."""
        application = self._desired.applications.get(lost.application)
        return application is None or rollout.is_replaced(application, lost, self._of(lost.application))

    def _application(self, application: Application, replicas: Sequence[Replica]) -> Iterator[Action]:
        name = application.config.name
        if not self._draining and self._observed.sight.at_rest(application, replicas):
            return
        if application.deleting:
            if replicas:
                yield from _stop(replicas, "its application is being deleted")
            else:
                yield RemoveApplication(name)
            return
        still = application.paused
        why = None if still else self._failure(application, replicas)
        if application.awaits:
            if obstacle := handover.obstacle(application, self._desired.applications):
                if application.leaving:
                    yield Stay(name, obstacle)
                elif not still:
                    why = why or handover.failure(application, obstacle)
            elif (application.leaving or not still) and all(map(self._is_there, application.awaits)):
                yield HandOver(name)
        if why is not None:
            yield self._failed(application, replicas, why)
            return
        if not (still or application.failure or rollout.is_built(application)):
            yield from self._build(application, replicas)
        stays = still or application.awaits or application.failure
        ready = not stays and self._is_wholly_ready(application, replicas)
        if ready and application.serving != application.plan:
            yield MarkServing(name, application.revision)
        yield from self._roll(application, replicas, ready=ready)

    def _is_wholly_ready(self, application: Application, replicas: Sequence[Replica]) -> bool:
        fresh = self._fresh(application, replicas)
        return rollout.is_wholly_ready(application, (r for r in replicas if r.replica_id not in fresh))

    def _fresh(self, application: Application, replicas: Sequence[Replica]) -> frozenset[str]:
        """Return the replicas of new versions that are ready too short a time to rely on. First ones have no choice."""
        if not self._observed.min_ready_s or application.serving is None:
            return frozenset()
        new = {(spec.name, spec.version) for spec in rollout.new_versions(application)}
        before = self._now - self._observed.min_ready_s
        return frozenset(
            r.replica_id
            for r in replicas
            if (r.deployment, r.version) in new
            and (worker := self._observed.workers.get(r.worker_id)) is not None
            and worker.ready_since.get(r.replica_id, before) > before
        )

    def _is_there(self, awaited: Awaited) -> bool:
        """Whether an application has come true, or would but for room that only others can give."""
        application = self._desired.applications[awaited.application]
        if application.serving is not None and application.serving.revision >= awaited.revision:
            return True
        replicas = self._of(awaited.application)
        if self._is_wholly_ready(application, replicas):
            return True
        return self._full and rollout.lacks_only_room(application, replicas)

    def _build(self, application: Application, replicas: Sequence[Replica]) -> Iterator[Action]:
        name, revision = application.config.name, application.revision
        build = self._observed.builds.get(name)
        if build is not None and build.revision == revision:
            if build.ended:
                others = (a for other, a in {**self._desired.applications, **self._planned}.items() if other != name)
                plan = plan_of(application, build, others)
                if isinstance(plan, Plan):
                    self._planned[name] = replace(application, plan=plan)
                    yield MarkPlanned(name, plan, *rollout.superseded(application, replicas))
                else:
                    yield self._failed(application, replicas, plan)
                return
            if self._runs(build):
                if self._now >= build.deadline:
                    why = f"worker {build.worker_id!r} did not answer the build within {build.limit_s:g} s"
                    failure = Failure(why, hint="look at its log, then deploy again", reason=Reason.BUILD_FAILED)
                    yield self._failed(application, replicas, failure)
                return
        prepares = not is_in_place(application.config.runtime_env)
        room = PREPARING_BUILDS_PER_WORKER_MAX if prepares else BUILDS_PER_WORKER_MAX
        free = [
            (worker_id in self._draining, self._building[worker_id, prepares], worker_id)
            for worker_id, presence in self._presence.items()
            if presence is Presence.CONNECTED and self._building[worker_id, prepares] < room
        ]
        if free:
            worker_id = min(free)[-1]
            self._building[worker_id, prepares] += 1
            yield BuildApplication(f"{name}-{revision}-{self._unique()}", name, revision, worker_id)

    def _failed(self, application: Application, replicas: Sequence[Replica], why: Failure) -> MarkFailed:
        """Return the end of a revision. A plan that had begun to serve when it was replaced serves on."""
        begun = None if rollout.is_built(application) else rollout.superseded(application, replicas)[0]
        return MarkFailed(application.config.name, application.revision, bounded_failure(why), begun)

    def _runs(self, build: Build) -> bool:
        """Whether an answer may still come: it ends with the session it was sent on."""
        worker = self._observed.workers.get(build.worker_id)
        return not build.ended and worker is not None and worker.session == build.session

    def _failure(self, application: Application, replicas: Sequence[Replica]) -> Failure | None:
        spent = rollout.spent(application, replicas)
        replicas = [replica for replica in replicas if not (replica.stopping or replica in spent)]
        for spec in rollout.new_versions(application):
            of_version = [r for r in replicas if (r.deployment, r.version) == (spec.name, spec.version)]
            since: dict[str, float] = {}
            for replica in of_version:
                worker = self._observed.workers.get(replica.worker_id)
                if worker is not None and worker.session and replica.replica_id in worker.unready_since:
                    since[replica.replica_id] = worker.unready_since[replica.replica_id]
            if why := rollout.failure(application.config, spec, of_version, since, self._now):
                return why
        return rollout.refusal(application, replicas)

    def _roll(self, application: Application, replicas: Sequence[Replica], *, ready: bool) -> Iterator[Action]:
        # One that drains unasked does not count: another takes its place, and its worker is not to start it again. One
        # that is held is to be as it is.
        apart = rollout.held_apart(application)
        yield from _stop([r for r in replicas if ends_unasked(r)], "its process was told to end")
        live = [r for r in replicas if not (r.stopping or ends_unasked(r)) and (r.deployment, r.version) not in apart]
        known = [r for r in live if rollout.spec_of(application, r) is not None]
        yield from _stop([r for r in live if r not in known], "its version was replaced before it was ready")
        if application.paused or not (rollout.is_built(application) or application.failure):
            yield from self._restore(application, known)
            return
        spent = rollout.spent(application, known)
        yield from _stop(spent, "it failed before this revision")
        fresh = self._fresh(application, known)
        # What the plan does not have stops in the same pass as it comes to serve: after that nobody knows its settings.
        goals = rollout.goals(replace(application, serving=None) if ready else application)
        for name, spec in sorted(goals.items()):
            of_deployment = [r for r in known if r.deployment == name and r not in spent]
            current = [r for r in of_deployment if r.version == spec.version]
            old = [r for r in of_deployment if r.version != spec.version]
            step = rollout.step(
                spec.settings.num_replicas,
                [r for r in current if r.worker_id not in self._draining],
                old,
                [r for r in current if r.worker_id in self._draining],
                share=spec.settings.rolling_update_percentage,
                fresh=fresh,
            )
            replica_of = {r.replica_id: r for r in of_deployment}
            for replica_id in step.stop:
                yield StopReplica(replica_id, self._why_stopped(replica_of[replica_id], spec))
            yield from self._place(application, spec, step.place)
        yield from _stop([r for r in known if r.deployment not in goals], "its deployment is not wanted")

    def _restore(self, application: Application, live: Sequence[Replica]) -> Iterator[Action]:
        """Make up for what was lost, and nothing else: the next revision is being built, or all is to stand still."""
        serving = {spec.name for spec in application.serving.deployments} if application.serving else set()
        for name, spec in sorted(rollout.standing(application).items()):
            staying = [r for r in live if r.deployment == name and r.worker_id not in self._draining]
            leaving = [r for r in live if r.deployment == name and r.worker_id in self._draining]
            if name in serving or staying or leaving:
                step = rollout.restored(spec.settings.num_replicas, staying, leaving)
                yield from _stop([r for r in leaving if r.replica_id in step.stop], "its worker is drained")
                yield from self._place(application, spec, step.place)

    def _why_stopped(self, replica: Replica, spec: DeploymentSpec) -> str:
        if replica.version != spec.version:
            return "its version is replaced"
        return "its worker is drained" if replica.worker_id in self._draining else "too many"

    def _place(self, application: Application, spec: DeploymentSpec, count: int) -> Iterator[Action]:
        name = application.config.name
        for _ in range(count):
            worker_id = self._placement.choose(name, spec.name)
            if worker_id is None:
                return
            replica_id = f"{name}-{spec.name}-{self._unique()}"
            yield PlaceReplica(
                Replica(
                    replica_id=replica_id,
                    application=name,
                    deployment=spec.name,
                    version=spec.version,
                    revision=rollout.goal_revision(application, spec),
                    worker_id=worker_id,
                    status=pending(replica_id),
                    depth=spec.depth,
                )
            )

    def _unique(self) -> str:
        self._made += 1
        return f"{self._observed.token}{self._made:x}"


def _stop(replicas: Sequence[Replica], reason: str) -> Iterator[Action]:
    for replica in replicas:
        if not replica.stopping:
            yield StopReplica(replica.replica_id, reason)
