"""How a deployment's replicas get from what runs to what should run.

Owns the arithmetic of a rollout: how many new replicas beside the old, which stop when, and when a new version has
failed. Ready capacity never falls below the goal by a decision made here, also with one replica. Pure; called by
`reconcile` per deployment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mesh.model import (
    Application,
    ApplicationConfig,
    DeploymentSpec,
    Failure,
    Plan,
    Replica,
    ReplicaState,
    ReplicaStatus,
)
from mesh.reasons import Reason
from mesh.serving.options import late_start

SURGE = 0.2
"""Share of the goal that may run beside it while a new version starts, where a stored plan does not say."""
FAILED_STARTS_MAX = 3
"""Starts in a row that fail a version none of whose replicas is ready."""
CRASHES_MAX = 3
"""Ends of replicas that were ready, all together, that fail a version which does not serve alone yet."""
STARTUP_MARGIN_S = 5.0
"""Seconds beyond startup_timeout_s after which a version that is not ready has failed, if its worker did not say so."""
SUPERSEDED_MAX = 3
"""Plans kept for replicas that still serve. Whoever deploys faster than that loses the oldest of them."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now for one deployment: new replicas to place, and replicas to stop."""

    place: int = 0
    stop: tuple[str, ...] = ()


def step(
    goal: int,
    current: Sequence[Replica],
    old: Sequence[Replica],
    leaving: Sequence[Replica] = (),
    *,
    share: float = SURGE,
    fresh: Container[str] = frozenset(),
) -> Step:
    """Return the next step to `goal` replicas of the current version and none of the `old` ones.

    `leaving` are of the current version too, on workers that drain: they are replaced as old ones are, after those. No
    list holds replicas that are stopping already. `share` of the goal may run beside it, at least one. Those of the
    current that are `fresh` have not been ready for long enough to stand in for an old one.
    """
    assert goal >= 0
    ready = sum(is_ready(replica) and replica.replica_id not in fresh for replica in current)
    # An old replica may go only when a ready new one stands in for it. Those that are not ready go first: they
    # give no capacity.
    going = _in_turn(old, leaving)
    surplus_old = max(0, len(going) - max(0, goal - ready))
    surplus = max(0, len(current) - goal)
    stop = (*going[:surplus_old], *_first_to_stop(current)[:surplus])
    extra = surge(goal, share) if going else 0
    room = goal + extra - len(current) - (len(going) - surplus_old)
    return Step(place=max(0, min(goal - len(current), room)), stop=stop)


def surge(goal: int, share: float = SURGE) -> int:
    """Return how many replicas may run above the goal during a rollout. A share of 0 is that of an older record."""
    return max(1, int(round(goal * (share or SURGE), 6)))


def is_ready(replica: Replica) -> bool:
    """Whether calls may be sent to it."""
    return replica.status.state is ReplicaState.READY and not replica.stopping and bool(replica.status.address)


def is_settled(replica: Replica, revision: int) -> bool:
    """Whether it is ready and well with the settings of `revision`. A worker that does not say is taken to have them.

    One that fails health checks takes calls until it is replaced, but proves nothing.
    """
    status = replica.status
    well = status.failure is None and status.reason is not Reason.HEALTH_CHECK_FAILED
    return is_ready(replica) and status.settings_revision in (0, revision) and well


def failure(
    config: ApplicationConfig,
    spec: DeploymentSpec,
    replicas: Iterable[Replica],
    unready_since: Mapping[str, float],
    now: float,
) -> Failure | None:
    """Return why this new version has failed, or None while it may still come up.

    `config` is what it was built from, `replicas` are those of this version that were placed for it. Until it serves
    alone it must start and stay up: one that is ready gives the others time, up to their limit, and no more.
    """
    replicas = sorted(replicas, key=lambda replica: replica.replica_id)
    crashes = sum(replica.status.crashes for replica in replicas)
    if crashes >= CRASHES_MAX:
        return _crashed(spec, crashes, [replica.status for replica in replicas])
    some_ready = any(is_ready(replica) for replica in replicas)
    for replica in replicas:
        status = replica.status
        if status.failed_starts >= FAILED_STARTS_MAX and not some_ready:
            return _failed(_starts_failed(spec, status), status.failure or Failure())
        since = unready_since.get(replica.replica_id)
        if since is not None and now >= since + startup_limit_s(spec):
            late = late_start(config, spec.name, spec.settings.startup_timeout_s)
            why = status.message.removeprefix(late.message).removeprefix(": ")
            text = f"deployment {spec.name!r} was {late.message}{f': {why}' if why else ''}"
            return _failed(text, status.failure or late)
    return None


def refusal(application: Application, replicas: Sequence[Replica]) -> Failure | None:
    """Return why the settings of the newest plan have failed on replicas of its versions, or None.

    One replica that refuses them is enough. They are also refused if replicas that start with them fail and none is
    ready with them, though the version may have served with others.
    """
    plan = application.plan
    if plan is None or not is_built(application) or application.failure or plan == application.serving:
        return None
    for spec in plan.deployments:
        told = [
            replica
            for replica in sorted(replicas, key=lambda replica: replica.replica_id)
            if (replica.deployment, replica.version) == (spec.name, spec.version)
            and replica.status.settings_revision == plan.revision
            and not replica.stopping
        ]
        proven = any(is_settled(replica, plan.revision) for replica in told)
        for status in (replica.status for replica in told):
            said = status.failure or Failure()
            if status.state is ReplicaState.READY and status.failure is not None:
                text = f"deployment {spec.name!r} did not take its new settings: {said.message}"
                return _failed(text, replace(said, reason=Reason.SETTINGS_REFUSED))
            if status.failed_starts >= FAILED_STARTS_MAX and not proven:
                return _failed(_starts_failed(spec, status), said)
    return None


def _starts_failed(spec: DeploymentSpec, status: ReplicaStatus) -> str:
    why = status.message or "no reason given"
    return f"deployment {spec.name!r} failed to start {status.failed_starts} times: {why}"


def _crashed(spec: DeploymentSpec, crashes: int, statuses: Sequence[ReplicaStatus]) -> Failure:
    said = next((status.last_failure for status in statuses if status.crashes and status.last_failure), Failure())
    why = f": {said.message}" if said.message else ""
    text = f"deployment {spec.name!r} ended {crashes} times after it was ready{why}"
    return _failed(text, replace(said, reason=said.reason or Reason.CRASH_LOOP))


def _failed(message: str, said: Failure) -> Failure:
    hint = said.hint or "meshctl logs NAME tells more"
    return Failure(message, said.field or "import_path", hint, said.details, said.reason or Reason.START_FAILED)


def startup_limit_s(spec: DeploymentSpec) -> float:
    """Return how long a replica of a new version may try before the version has failed."""
    return spec.settings.startup_timeout_s + STARTUP_MARGIN_S


def is_built(application: Application) -> bool:
    """Whether the newest revision's plan is there (an older revision's plan stays until then)."""
    return application.plan is not None and application.plan.revision == application.revision


def goals(application: Application) -> dict[str, DeploymentSpec]:
    """Return what each deployment of an application is to come to, by name.

    Deployments that the new plan does not have stay until it is wholly ready: something may still call them.
    """
    if application.deleting:
        return {}
    serving = application.serving
    result = {spec.name: spec for spec in serving.deployments} if serving else {}
    in_force = not application.failure or (is_held(application) and serving is None)
    if application.plan is not None and is_built(application) and in_force:
        result |= {spec.name: spec for spec in application.plan.deployments}
    return result


def is_held(application: Application) -> bool:
    """Whether the newest revision failed and its replicas are left as they are."""
    return application.failure is not None and application.hold_on_failure and is_built(application)


def held_apart(application: Application) -> frozenset[tuple[str, str]]:
    """Return the deployments and versions that failed and are held beside what serves."""
    if not is_held(application) or application.plan is None or application.serving is None:
        return frozenset()
    versions = {(spec.name, spec.version) for spec in application.plan.deployments}
    return frozenset(versions - {(spec.name, spec.version) for spec in application.serving.deployments})


def not_needed(application: Application, ready: Sequence[Replica]) -> frozenset[str]:
    """Return those of the `ready` replicas that get no calls: held ones, where what serves is all there again."""
    apart = held_apart(application)
    if not apart or application.serving is None:
        return frozenset()
    versions = [(replica.deployment, replica.version) for replica in ready]
    whole = {
        spec.name
        for spec in application.serving.deployments
        if versions.count((spec.name, spec.version)) >= max(1, spec.settings.num_replicas)
    }
    return frozenset(r.replica_id for r in ready if (r.deployment, r.version) in apart and r.deployment in whole)


def standing(application: Application) -> dict[str, DeploymentSpec]:
    """Return what each deployment is to be restored to while nothing moves: what serves, else what is to come."""
    serving = {spec.name: spec for spec in application.serving.deployments} if application.serving else {}
    return goals(application) | serving if goals(application) else {}


def goal_revision(application: Application, spec: DeploymentSpec) -> int:
    """Return the revision that new replicas of a deployment belong to."""
    serving = application.serving
    if serving is None or (is_built(application) and not application.failure and not application.paused):
        return application.revision
    return serving.revision if spec in serving.deployments else application.revision


def new_versions(application: Application) -> tuple[DeploymentSpec, ...]:
    """Return the deployments of the newest plan whose version does not serve yet; these can fail it."""
    if application.plan is None or not is_built(application) or application.failure:
        return ()
    # One that serves with no replicas at all has proved nothing yet.
    serving = application.serving.deployments if application.serving else ()
    proven = {(spec.name, spec.version) for spec in serving if spec.settings.num_replicas}
    return tuple(spec for spec in application.plan.deployments if (spec.name, spec.version) not in proven)


def spent(application: Application, replicas: Iterable[Replica]) -> list[Replica]:
    """Return the replicas of new versions that were placed for an earlier revision, and have failed since.

    The newest starts afresh: it is neither judged by them nor made to wait for them.
    """
    new = {(spec.name, spec.version) for spec in new_versions(application)}
    return [
        replica
        for replica in replicas
        if (replica.deployment, replica.version) in new
        and replica.revision < application.revision
        and not is_ready(replica)
        and (replica.status.failed_starts or replica.status.crashes)
    ]


def restored(goal: int, live: Sequence[Replica], leaving: Sequence[Replica] = ()) -> Step:
    """Return the step while the next revision is being built: it makes up for what was lost.

    It stops nothing, for what runs may be just what the next revision wants, but what is on workers that drain
    (`leaving`), once others stand in for it.
    """
    wanted = step(goal, live, (), leaving)
    return Step(place=wanted.place, stop=tuple(r.replica_id for r in leaving if r.replica_id in wanted.stop))


def superseded(application: Application, replicas: Iterable[Replica]) -> tuple[Plan | None, tuple[Plan, ...]]:
    """Return the plans to keep when a new plan comes: what serves, and what began to serve but was not wholly ready.

    Without them their replicas would have to stop before the new ones are ready.
    """
    in_use = {(replica.deployment, replica.version) for replica in replicas if is_ready(replica)}

    def is_used(plan: Plan) -> bool:
        return any((spec.name, spec.version) in in_use for spec in plan.deployments)

    before = [application.plan, *application.superseded]
    plans = [plan for plan in before if plan is not None and plan != application.serving and is_used(plan)]
    if application.serving is None and plans:
        return plans[0], tuple(plans[1 : 1 + SUPERSEDED_MAX])
    return application.serving, tuple(plans[:SUPERSEDED_MAX])


def is_wholly_ready(application: Application, replicas: Iterable[Replica]) -> bool:
    """Whether each deployment of the newest plan has its replicas: of its version, ready, with its settings."""
    if application.plan is None or not is_built(application):
        return False
    revision = application.plan.revision
    ready = [(replica.deployment, replica.version) for replica in replicas if is_settled(replica, revision)]
    return all(
        ready.count((spec.name, spec.version)) >= spec.settings.num_replicas for spec in application.plan.deployments
    )


def is_at_rest(application: Application, replicas: Sequence[Replica]) -> bool:
    """Whether nothing is left to do for an application, now or later, while its replicas are as they are.

    None of its workers drains. Its replicas may have settings to take yet: that is for them to do.
    """
    plan = application.plan
    if plan is None or not is_built(application) or application.serving != plan:
        return False
    if application.failure or application.deleting or application.leaving or application.awaits:
        return False
    placed = Counter((replica.deployment, replica.version) for replica in replicas)
    wanted = {(spec.name, spec.version): spec.settings.num_replicas for spec in plan.deployments}
    return all(map(is_ready, replicas)) and placed == Counter(wanted)


def lacks_only_room(application: Application, replicas: Iterable[Replica]) -> bool:
    """Whether all there is of the newest plan is ready, and what is missing has not been placed anywhere."""
    if application.plan is None or not is_built(application) or application.failure:
        return False
    versions = {(spec.name, spec.version) for spec in application.plan.deployments}
    revision = application.plan.revision
    return all(is_settled(r, revision) for r in replicas if (r.deployment, r.version) in versions and not r.stopping)


def is_replaced(application: Application, lost: Replica, live: Iterable[Replica]) -> bool:
    """Whether a replica whose worker is lost is not wanted, or there are as many others ready as there should be."""
    goal = goals(application).get(lost.deployment)
    if goal is None or spec_of(application, lost) is None:
        return True
    return sum(r.deployment == lost.deployment and is_ready(r) for r in live) >= goal.settings.num_replicas


def plans(application: Application) -> tuple[Plan, ...]:
    """Return the plans that may have replicas, the one whose settings are in force first."""
    first = [application.plan, application.serving]
    if application.failure:
        first.reverse()
    return tuple(plan for plan in (*first, *application.superseded) if plan is not None)


def spec_of(application: Application, replica: Replica) -> DeploymentSpec | None:
    """Return the built deployment that a replica is an instance of, with the settings in force for it."""
    for plan in plans(application):
        for spec in plan.deployments:
            if (spec.name, spec.version) == (replica.deployment, replica.version):
                return spec
    return None


def _in_turn(old: Sequence[Replica], leaving: Sequence[Replica]) -> list[str]:
    """Order those that are to be replaced by who goes first: not ready before ready, then old before leaving."""
    idle = [replica for replica in (*old, *leaving) if not is_ready(replica)]
    return _first_to_stop(idle) + [i for part in (old, leaving) for i in _first_to_stop(r for r in part if is_ready(r))]


def _first_to_stop(replicas: Iterable[Replica]) -> list[str]:
    """Order by who goes first: not ready before ready, then the newest."""
    order = sorted(replicas, key=lambda r: (is_ready(r), -r.revision, -r.status.since, r.replica_id))
    return [replica.replica_id for replica in order]
