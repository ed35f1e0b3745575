"""The control plane's pure parts in a world without processes, streams or time: stored state, workers, a clock hand.

Used by the unit tests of `reconcile` and its neighbours. Each `step` is one look of the leader, carried out at once;
workers do nothing by themselves: tests say when a replica becomes ready, fails or ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from mesh.controlplane import publish
from mesh.controlplane.actions import Action, BuildApplication, CancelBuild, ForgetReplica, StopReplica, changes
from mesh.controlplane.apply import Applied, applied, deleted, restarted
from mesh.controlplane.builds import Build, Builds
from mesh.controlplane.pins import known
from mesh.controlplane.reconcile import Desired, Observed, next_due, reconcile, seen
from mesh.controlplane.registry import Greeting, Registry
from mesh.controlplane.rollout import goals, is_ready
from mesh.controlplane.sight import Sight
from mesh.controlplane.statuses import Statuses, applications_status
from mesh.model import (
    Application,
    ApplicationConfig,
    BuiltDeployment,
    DeploymentConfig,
    Failure,
    Replica,
    ReplicaSpec,
    ReplicaState,
    ReplicaStatus,
    Resources,
    RuntimeEnv,
    WorkerGoal,
)

GRACE_S = 10.0
PASSES_MAX = 200
REFUSAL = Failure("ValueError: no (m.py:8)", "deployments[0].user_config", "mend it", "Traceback")


@dataclass
class SimWorker:
    """A worker and what it really runs."""

    worker_id: str
    max_replicas: int = 100
    started_at: float = 1.0
    session: int = 0
    running: dict[str, ReplicaStatus] = field(default_factory=dict)
    specs: dict[str, ReplicaSpec] = field(default_factory=dict)
    refuses: Callable[[ReplicaSpec], bool] = lambda spec: False
    """Whether a ready replica does not take new settings."""

    def obey(self, specs: Iterable[ReplicaSpec]) -> None:
        """Take whole orders: new replicas start, others end at once, ready ones answer to their settings."""
        self.specs = {spec.replica_id: spec for spec in specs}
        for replica_id in set(self.running) - set(self.specs):
            del self.running[replica_id]
        for replica_id in self.specs:
            self.running.setdefault(replica_id, ReplicaStatus(replica_id=replica_id, state=ReplicaState.STARTING))
        for replica_id, spec in self.specs.items():
            status = self.running[replica_id]
            ready = status.state is ReplicaState.READY
            failure = REFUSAL if ready and self.refuses(spec) else None if ready else status.failure
            self.running[replica_id] = replace(status, settings_revision=spec.settings_revision, failure=failure)


class World:
    """Stored state, one leader, some workers."""

    def __init__(self, *worker_ids: str, max_replicas: int = 100, min_ready_s: float = 0.0) -> None:
        self.now = 1000.0
        self.min_ready_s = min_ready_s
        self.applications: dict[str, Application] = {}
        self.replicas: dict[str, Replica] = {}
        self.goals: dict[str, WorkerGoal] = {}
        self.registry = Registry()
        self.builds = Builds()
        self.workers: dict[str, SimWorker] = {}
        self.code: Callable[[ApplicationConfig], tuple[BuiltDeployment, ...] | str] = lambda config: built("Echo")
        self.pins: Callable[[RuntimeEnv], RuntimeEnv | None] = lambda env: None
        """What a build makes of an environment that no build has pinned yet."""
        self.passes = 0
        self.sight, self.told, self.statuses = Sight(), publish.Told(), Statuses()
        self.stopped: list[StopReplica] = []
        for worker_id in worker_ids:
            self.workers[worker_id] = SimWorker(worker_id, max_replicas)
            self.connect(worker_id)

    # What people do.

    def apply(self, *configs: ApplicationConfig, keep_others: bool = False, hold: bool = False) -> None:
        stored = self.applications
        self._store(applied(configs, stored, keep_others=keep_others, applied_at=0.0, hold_on_failure=hold))

    def restart(self, name: str, *deployments: str) -> None:
        self._store(restarted(name, deployments, self.applications, applied_at=0.0))

    def pause(self, name: str, paused: bool = True) -> None:
        self.applications[name] = replace(self.applications[name], paused=paused)

    def _store(self, changed: Iterable[Applied]) -> None:
        for change in changed:
            if change.application is not None:
                self.applications[change.name] = change.application

    def delete(self, name: str) -> None:
        if (marked := deleted(self.applications[name]).application) is not None:
            self.applications[name] = marked

    def drain(self, worker_id: str) -> None:
        self.goals[worker_id] = WorkerGoal(worker_id, draining=True)

    # What workers do.

    def connect(self, worker_id: str) -> None:
        worker = self.workers[worker_id]
        greeting = Greeting(
            worker_id=worker_id,
            incarnation=f"{worker_id}-{worker.started_at}",
            started_at=worker.started_at,
            host="127.0.0.1",
            resources=Resources(max_replicas=worker.max_replicas),
            replicas=tuple(worker.running.values()),
        )
        worker.session = self.registry.hello(greeting, now=self.now).session
        self._orders()

    def disconnect(self, worker_id: str) -> None:
        worker = self.workers[worker_id]
        self.registry.disconnected(worker_id, worker.session, now=self.now)
        worker.session = 0

    def restart_worker(self, worker_id: str) -> None:
        """Kill the worker with all it runs, and start it again."""
        self.disconnect(worker_id)
        worker = self.workers[worker_id]
        worker.started_at += 1.0
        worker.running.clear()
        self.connect(worker_id)

    def set_state(self, replica_id: str, state: ReplicaState, **fields: object) -> None:
        """A replica's state changes and its worker, if it has a session, reports it."""
        for worker in self.workers.values():
            if replica_id in worker.running:
                status = replace(worker.running[replica_id], state=state, **fields)  # type: ignore[arg-type]
                if state is ReplicaState.READY:
                    address = f"{worker.worker_id}:{replica_id}"
                    status = replace(status, address=address, failed_starts=0, failure=None)
                worker.running[replica_id] = status
                self._report(worker)

    def crash(self, replica_id: str) -> None:
        """A replica that was ready ends; its worker starts it again after a pause."""
        crashes = self._status(replica_id).crashes + 1
        last = Failure("exited with code 1", details="Traceback")
        self.set_state(replica_id, ReplicaState.BACKOFF, crashes=crashes, address="", last_failure=last)

    def _status(self, replica_id: str) -> ReplicaStatus:
        return next(w.running[replica_id] for w in self.workers.values() if replica_id in w.running)

    def start_all(self, *, broken: Callable[[ReplicaSpec], bool] = lambda spec: False) -> None:
        """Every replica that is not ready becomes ready, or fails for good."""
        for worker in self.workers.values():
            for replica_id, spec in list(worker.specs.items()):
                if replica_id not in worker.running or worker.running[replica_id].state is ReplicaState.READY:
                    continue
                if broken(spec):
                    self.set_state(replica_id, ReplicaState.BACKOFF, failed_starts=3, message="it is broken")
                else:
                    self.set_state(replica_id, ReplicaState.READY)

    # What the leader does.

    @property
    def desired(self) -> Desired:
        return Desired(dict(self.applications), dict(self.goals))

    @property
    def observed(self) -> Observed:
        token = f"{self.passes:x}."
        workers, builds = self.registry.workers, self.builds.newest
        return Observed(dict(self.replicas), workers, builds, GRACE_S, token, self.min_ready_s, self.sight)

    def decide(self) -> tuple[Action, ...]:
        """Look once; what was seen before must change nothing."""
        actions = reconcile(self.desired, self.observed, self.now)
        anew = replace(self.observed, sight=Sight())
        assert actions == reconcile(self.desired, anew, self.now)
        assert next_due(self.desired, self.observed, self.now) == next_due(self.desired, anew, self.now)
        replicas = seen(anew)
        assert publish.snapshot(self.applications, seen(self.observed), 0.0, told=self.told) == publish.snapshot(
            self.applications, replicas, 0.0
        )
        assert self.statuses.applications(self.desired, self.observed) == applications_status(self.desired, anew)
        orders = publish.assignments(self.applications, seen(self.observed), self.workers, told=self.told)
        assert orders == publish.assignments(self.applications, replicas, self.workers)
        return actions

    def step(self) -> tuple[Action, ...]:
        """Look once, check what must always hold, and carry it out. Builds end at once."""
        self.passes += 1
        actions = self.decide()
        changed = changes(self.applications, self.replicas, actions)
        self._check_capacity(actions, self.applications | changed.applications)
        for name, application in changed.applications.items():
            if application is None:
                del self.applications[name]
            else:
                self.applications[name] = application
        for replica_id, replica in changed.replicas.items():
            if replica is None:
                del self.replicas[replica_id]
            else:
                self.replicas[replica_id] = replica
        for worker_id in changed.workers:
            del self.goals[worker_id]
        for action in actions:
            if isinstance(action, BuildApplication):
                self._build(action)
            elif isinstance(action, CancelBuild):
                self.builds.cancelled(action.build_id)
            elif isinstance(action, StopReplica):
                self.stopped.append(action)
        self.builds.keep(self.applications)
        placed = [*(r.worker_id for r in self.replicas.values()), *self.goals]
        self.registry.drop_lost(now=self.now, grace_s=GRACE_S, placed=placed)
        self._orders()
        return actions

    def settle(self, *, broken: Callable[[ReplicaSpec], bool] = lambda spec: False, start: bool = True) -> None:
        """Step until nothing is left to do, with replicas starting as they are told to."""
        for _ in range(PASSES_MAX):
            actions = self.step()
            if start:
                before = [dict(worker.running) for worker in self.workers.values()]
                self.start_all(broken=broken)
                if before != [worker.running for worker in self.workers.values()]:
                    continue
            due = next_due(self.desired, self.observed, self.now)
            if not actions and due is not None and due <= self.now + self.min_ready_s:
                self.now = due
            elif not actions:
                assert self.decide() == (), "a settled state asks for nothing"
                return
        raise AssertionError("it does not settle")

    def new_leader(self) -> None:
        """Another instance takes office: it knows what is stored; sessions are gone."""
        self.registry = Registry()
        self.registry.expect([*(r.worker_id for r in self.replicas.values()), *self.goals], now=self.now)
        self.builds = Builds()
        for worker in self.workers.values():
            worker.session = 0

    # What can be seen.

    def live(self, application: str, deployment: str = "Echo") -> list[Replica]:
        return [
            replica
            for replica in seen(self.observed).values()
            if (replica.application, replica.deployment) == (application, deployment) and not replica.stopping
        ]

    def ready(self, application: str, deployment: str = "Echo") -> list[Replica]:
        return [replica for replica in self.live(application, deployment) if is_ready(replica)]

    def endpoints(self, application: str, deployment: str = "Echo") -> list[str]:
        routed = publish.snapshot(self.applications, seen(self.observed), 0.0)
        return [
            endpoint.replica_id
            for a in routed.applications
            for d in a.deployments
            for endpoint in d.endpoints
            if (a.name, d.name) == (application, deployment)
        ]

    def _report(self, worker: SimWorker) -> None:
        if worker.session:
            running = tuple(worker.running.values())
            self.registry.report(worker.worker_id, worker.session, running, now=self.now)

    def _orders(self) -> None:
        connected = [worker_id for worker_id, worker in self.workers.items() if worker.session]
        orders = publish.assignments(self.applications, seen(self.observed), connected)
        for worker_id, assigned in orders.items():
            self.workers[worker_id].obey(assigned.replicas)
            self._report(self.workers[worker_id])

    def _build(self, action: BuildApplication) -> None:
        found = self.code(self.applications[action.application].config)
        session = self.workers[action.worker_id].session
        application = self.applications[action.application]
        build = Build(action.build_id, action.application, action.revision, action.worker_id, session, self.now, 60.0)
        build = replace(build, resolved_env=known(application) or self.pins(application.config.runtime_env))
        self.builds.started(build)
        if isinstance(found, str):
            self.builds.ended(replace(build, failure=Failure(found, "import_path")))
        else:
            self.builds.ended(replace(build, deployments=found))

    def _check_capacity(self, actions: tuple[Action, ...], after: Mapping[str, Application | None]) -> None:
        """No decision takes ready replicas away below the goal; `after` is what it makes of the applications."""
        stops = {action.replica_id for action in actions if isinstance(action, StopReplica)}
        forgotten = {action.replica_id for action in actions if isinstance(action, ForgetReplica)}
        forgotten -= {r.replica_id for r in self.replicas.values() if self._is_leaving(r.worker_id)}
        for name, application in after.items():
            for deployment, spec in goals(application).items() if application is not None else ():
                ready = [replica.replica_id for replica in self.ready(name, deployment)]
                kept = [replica_id for replica_id in ready if replica_id not in stops | forgotten]
                assert len(kept) >= min(len(ready), spec.settings.num_replicas), "capacity fell below the goal"

    def _is_leaving(self, worker_id: str) -> bool:
        worker = self.registry.get(worker_id)
        return worker is not None and worker.leaving


def built(*names: str, **options: object) -> tuple[BuiltDeployment, ...]:
    """What a build finds: the first is the ingress."""
    return tuple(
        BuiltDeployment(i == 0, DeploymentConfig(name=name, **options))  # type: ignore[arg-type]
        for i, name in enumerate(names)
    )


def config(
    name: str = "app", code: str = "m:app", num_replicas: int | None = None, **options: object
) -> ApplicationConfig:
    """A config of one application with one deployment "Echo"."""
    override = DeploymentConfig(name="Echo", num_replicas=num_replicas, **options)  # type: ignore[arg-type]
    deployments = () if override == DeploymentConfig(name="Echo") else (override,)
    return ApplicationConfig(name=name, route_prefix=f"/{name}", import_path=code, deployments=deployments)
