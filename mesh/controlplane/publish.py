"""What gateways and workers are told: the snapshot to route by and the orders of each worker.

Owns which replica is an endpoint, which settings are in force, and what a worker is to run. Values without a
generation: `loop` numbers what changed. Pure. Field names are those of the messages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mesh.controlplane.memo import Memo
from mesh.controlplane.pins import pinned_config
from mesh.controlplane.rollout import is_built, is_ready, not_needed, plans, spec_of
from mesh.controlplane.sight import Groups
from mesh.model import (
    Application,
    Cors,
    DeploymentSpec,
    Generation,
    Interface,
    JsonOptions,
    Plan,
    Replica,
    ReplicaSpec,
)
from mesh.serving.cors import resolved

FAILED = "application {!r} has no healthy replica: its deployment failed; ask its operator (the log has the request id)"
"""All that clients are told of a failure: what is in it, and where, is for those who deploy."""
NO_CORS = Cors()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A replica that is ready for calls."""

    replica_id: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class RoutedDeployment:
    """A deployment with its endpoints and the limits in force."""

    name: str = ""
    max_ongoing_requests: int = 0
    max_queued_requests: int = 0
    request_timeout_s: float = 0.0
    endpoints: tuple[Endpoint, ...] = ()
    interface: Interface = field(default_factory=Interface)
    """What all of the endpoints answer to."""
    json: JsonOptions = field(default_factory=JsonOptions)
    internal: bool = False
    """It is called by handles only."""


@dataclass(frozen=True, slots=True)
class RoutedApplication:
    """An application as gateways route to it."""

    name: str = ""
    route_prefix: str = ""
    ingress: str = ""
    failure: str = ""
    deployments: tuple[RoutedDeployment, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a gateway routes by."""

    generation: Generation = field(default_factory=Generation)
    applications: tuple[RoutedApplication, ...] = ()
    request_timeout_s: float = 0.0
    cors: Cors | None = None
    """Every field set."""
    asked: tuple[str, ...] = ()
    """For a caller by handles: what it had asked for."""
    since: Generation | None = None
    """Set if it holds only what has changed since then."""
    gone: tuple[str, ...] = ()
    """Applications that are no more, since then."""


@dataclass(frozen=True, slots=True)
class Assignments:
    """All that one worker is to run."""

    generation: Generation = field(default_factory=Generation)
    replicas: tuple[ReplicaSpec, ...] = ()
    withdrawn: tuple[str, ...] = ()
    """Ids of replicas that run on until no gateway sends them anything."""
    no_room_elsewhere: bool = False
    """It drains, and nothing of what it runs can be replaced elsewhere now."""


class Told:
    """What was made last for gateways and workers. One that is new makes the same, at more cost."""

    def __init__(self) -> None:
        self._routed: Memo[RoutedApplication] = Memo()
        self._specs: Memo[tuple[tuple[str, ReplicaSpec], ...]] = Memo()
        self._groups = Groups()

    def by_application(self, replicas: Mapping[str, Replica]) -> Mapping[str, tuple[Replica, ...]]:
        """Return the replicas of each application that has any."""
        return self._groups.of(replicas)

    def routed(self, application: Application, replicas: Sequence[Replica]) -> RoutedApplication:
        """Return an application as gateways route to it, but for who has its route."""
        inputs = (application, replicas)
        return self._routed.get(application.config.name, inputs, lambda: _routed(application, replicas))

    def specs(self, application: Application, replicas: Sequence[Replica]) -> tuple[tuple[str, ReplicaSpec], ...]:
        """Return what workers are told of the replicas of an application: worker and order of each."""
        inputs = (application, replicas)
        return self._specs.get(application.config.name, inputs, lambda: tuple(_specs(application, replicas)))

    def keep(self, applications: Container[str]) -> None:
        """Forget what is gone."""
        self._routed.keep(applications)
        self._specs.keep(applications)


def snapshot(
    applications: Mapping[str, Application],
    replicas: Mapping[str, Replica],
    request_timeout_s: float,
    cors: Cors = NO_CORS,
    told: Told | None = None,
) -> Snapshot:
    """Return what gateways are to route by. A timeout of 0 means not set.

    `replicas` carry their current status, and come in the order of their ids.
    """
    told = told or Told()
    of = told.by_application(replicas)
    routed = {
        name: told.routed(application, of.get(name, ()))
        for name, application in sorted(applications.items())
        if not application.deleting
    }
    holders: dict[str, str] = {}
    for name in sorted(routed, key=lambda name: _claim(applications[name])):
        holders.setdefault(routed[name].route_prefix, name)
    unseen = {name for name in routed if applications[name].serving is None and not is_built(applications[name])}
    once = tuple(
        a if holders[a.route_prefix] == name and not (name in unseen and _is_inside(a, routed.values())) else _apart(a)
        for name, a in routed.items()
    )
    return Snapshot(applications=once, request_timeout_s=request_timeout_s, cors=resolved(cors))


def assignments(
    applications: Mapping[str, Application],
    replicas: Mapping[str, Replica],
    worker_ids: Iterable[str],
    withdrawn: Collection[str] = (),
    cornered: Collection[str] = (),
    told: Told | None = None,
) -> dict[str, Assignments]:
    """Return the orders of each worker: every replica placed on it that is not to stop.

    Those in `withdrawn` are to stop, but not yet. `cornered` are the workers whose replicas have nowhere to go.
    """
    told = told or Told()
    kept: dict[str, list[str]] = defaultdict(list)
    for replica_id in sorted(withdrawn):
        if (held := replicas.get(replica_id)) is not None:
            kept[held.worker_id].append(replica_id)
    specs: dict[str, list[ReplicaSpec]] = {worker_id: [] for worker_id in worker_ids}
    for name, of_application in told.by_application(replicas).items():
        if (application := applications.get(name)) is not None:
            for worker_id, spec in told.specs(application, of_application):
                if (of_worker_id := specs.get(worker_id)) is not None:
                    of_worker_id.append(spec)
    return {
        worker_id: Assignments(
            replicas=tuple(of_worker), withdrawn=tuple(kept[worker_id]), no_room_elsewhere=worker_id in cornered
        )
        for worker_id, of_worker in specs.items()
    }


def _routed(application: Application, replicas: Iterable[Replica]) -> RoutedApplication:
    ready = [replica for replica in replicas if is_ready(replica)]
    apart = not_needed(application, ready)
    endpoints: dict[str, list[Replica]] = {name: [] for name in _deployment_names(application)}
    for replica in ready:
        if replica.replica_id not in apart and replica.deployment in endpoints:
            endpoints[replica.deployment].append(replica)
    specs = {name: _spec_in_force(application, name, ready) for name, ready in endpoints.items()}
    failed = application.failure is not None and application.serving is None
    plan = _routing_plan(application, endpoints)
    return RoutedApplication(
        name=application.config.name,
        route_prefix=_route(application, plan),
        ingress=next((spec.name for spec in plan.deployments if spec.ingress), "") if plan else "",
        failure=FAILED.format(application.config.name) if failed else "",
        deployments=tuple(
            RoutedDeployment(
                name=name,
                max_ongoing_requests=spec.settings.max_ongoing_requests,
                max_queued_requests=spec.settings.max_queued_requests,
                request_timeout_s=spec.settings.request_timeout_s,
                endpoints=tuple(Endpoint(replica.replica_id, replica.status.address) for replica in endpoints[name]),
                interface=_interface_in_force(application, spec, endpoints[name]),
                json=spec.settings.json,
                internal=_is_internal(application, name),
            )
            for name, spec in specs.items()
        ),
    )


def _is_internal(application: Application, name: str) -> bool:
    """Whether no gateway has anything to send to a deployment, by any plan that may have replicas."""
    specs = (spec for each in plans(application) for spec in each.deployments if spec.name == name)
    return not any(spec.ingress or spec.interface.services for spec in specs)


def _is_inside(application: RoutedApplication, others: Iterable[RoutedApplication]) -> bool:
    """Whether its route is inside that of one with gRPC services, some of whose paths it might cover.

    Such a route is given only to what was built, for only then is it known whether paths collide.
    """
    return any(
        other.route_prefix
        and application.route_prefix.startswith(other.route_prefix.rstrip("/") + "/")
        and any(deployment.interface.services for deployment in other.deployments)
        for other in others
        if other.name != application.name
    )


def _apart(application: RoutedApplication) -> RoutedApplication:
    """Return an application that is not reachable over HTTP."""
    return replace(application, route_prefix="")


def _claim(application: Application) -> tuple[bool, bool, bool, bool, str]:
    """Order by who has a route that two claim, as they may while one takes it over from the other."""
    never = application.serving is None
    failed = never and application.failure is not None
    return failed, bool(application.awaits), never, not application.leaving, application.config.name


def _route(application: Application, plan: Plan | None) -> str:
    if application.awaits:  # it keeps the one that it has
        before = application.serving
        if before is None and (application.leaving or not is_built(application)):
            before = application.plan
        return before.config.route_prefix if before is not None else ""
    config = plan.config if plan is not None and (plan is application.serving or is_built(application)) else None
    return (config or application.config).route_prefix


def _deployment_names(application: Application) -> tuple[str, ...]:
    return tuple(sorted({spec.name for plan in _plans(application) for spec in plan}))


def _plans(application: Application) -> list[tuple[DeploymentSpec, ...]]:
    """The deployments of the plans that may have replicas: the newest one first."""
    candidates = [application.plan, application.serving]
    if application.failure and application.serving is not None:
        candidates = [application.serving]
    return [plan.deployments for plan in candidates if plan is not None]


def _spec_in_force(application: Application, name: str, ready: Iterable[Replica]) -> DeploymentSpec:
    """The newest plan's settings, unless all that runs is an older version of the deployment."""
    candidates = [spec for plan in _plans(application) for spec in plan if spec.name == name]
    newest, oldest = candidates[0], candidates[-1]
    if newest.version == oldest.version or any(replica.version == newest.version for replica in ready):
        return newest
    return oldest


def _interface_in_force(application: Application, spec: DeploymentSpec, ready: Iterable[Replica]) -> Interface:
    """The oldest version's of which a replica takes calls: what a newer one adds, that one does not know."""
    versions = {replica.version for replica in ready}
    oldest_first = (application.serving, *reversed(application.superseded), application.plan)
    specs = (each for plan in oldest_first if plan is not None for each in plan.deployments if each.name == spec.name)
    return next((each.interface for each in specs if each.version in versions), spec.interface)


def _routing_plan(application: Application, endpoints: Mapping[str, list[Replica]]) -> Plan | None:
    """The plan whose route and ingress hold: the newest one once its ingress can stand in, until then what serves.

    A new ingress that has another name gets all requests at once, so there have to be as many of it as it should have,
    unless there are even fewer of the old one.
    """
    plan, serving = application.plan, application.serving
    if serving is None:
        return plan
    if plan is None or application.failure or application.awaits or not is_built(application):
        return serving
    old = sum(len(endpoints.get(spec.name, ())) for spec in serving.deployments if spec.ingress)
    for spec in plan.deployments:
        ready = endpoints.get(spec.name, ())
        new = sum(replica.version == spec.version for replica in ready)
        shared = any(spec.name == each.name for each in serving.deployments)
        enough = 1 if shared else max(1, min(spec.settings.num_replicas, old))
        if spec.ingress and new >= enough:
            return plan
    return serving


def _specs(application: Application, replicas: Iterable[Replica]) -> Iterator[tuple[str, ReplicaSpec]]:
    for replica in replicas:
        if not replica.stopping and (spec := _replica_spec(application, replica)) is not None:
            yield replica.worker_id, spec


def _replica_spec(application: Application, replica: Replica) -> ReplicaSpec | None:
    spec = spec_of(application, replica)
    if spec is None:
        return None
    of_spec = [plan for plan in plans(application) if spec in plan.deployments]
    return ReplicaSpec(
        replica_id=replica.replica_id,
        application=replica.application,
        deployment=replica.deployment,
        version=replica.version,
        revision=replica.revision,
        config=pinned_config(of_spec[0]),
        settings=spec.settings,
        settings_revision=of_spec[0].revision,
    )
