"""What applying a config, or deleting, makes of the stored goal state.

Owns the rules of revisions and of what counts as a change. Never does I/O; validation is in `validate`. Called by
`goal`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mesh.controlplane.handover import awaited, is_under_way, waiting
from mesh.errors import Conflict, RolloutUnderWay
from mesh.model import Application, ApplicationConfig, Awaited, Change, DeploymentConfig, Interface, Plan


@dataclass(frozen=True, slots=True)
class Applied:
    """What is done to one application. `application` is what to store; None: nothing."""

    name: str
    revision: int
    change: Change
    application: Application | None = None


def applied(
    configs: Sequence[ApplicationConfig],
    stored: Mapping[str, Application],
    *,
    keep_others: bool,
    applied_at: float,
    hold_on_failure: bool = False,
) -> tuple[Applied, ...]:
    """Return what to do to each application, those of the config first. `applied_at` is Unix time in seconds."""
    named = {c.name: _applied(c, stored.get(c.name), applied_at, hold_on_failure) for c in configs}
    return _together(named, stored, keep_others)


def restarted(
    name: str, deployments: Iterable[str], stored: Mapping[str, Application], *, applied_at: float
) -> tuple[Applied, ...]:
    """Return what it does to an application, which is part of the goal, that deployments of it are to restart."""
    before = stored[name]
    config = goal(before)
    assert config is not None
    after = _updated(before, config, applied_at, hold_on_failure=False)
    known = {spec.name for plan in (before.plan, before.serving) if plan is not None for spec in plan.deployments}
    restarts = {name: at for name, at in after.restarts.items() if name in known}
    restarts |= dict.fromkeys(deployments, after.revision)
    item = Applied(name, after.revision, Change.UPDATED, replace(after, restarts=restarts))
    return _together({name: item}, stored, keep_others=True)


def scaled(config: ApplicationConfig, num_replicas: Mapping[str, int]) -> ApplicationConfig:
    """Return a config with other numbers of replicas, by deployment."""
    named = {deployment.name for deployment in config.deployments}
    deployments = tuple(
        replace(d, num_replicas=num_replicas[d.name]) if d.name in num_replicas else d for d in config.deployments
    )
    added = (DeploymentConfig(name, count) for name, count in sorted(num_replicas.items()) if name not in named)
    return replace(config, deployments=(*deployments, *added))


def _together(
    named: Mapping[str, Applied], stored: Mapping[str, Application], keep_others: bool
) -> tuple[Applied, ...]:
    """Return what is done when these are changed by one apply: what it takes away waits for what it brings."""
    after = {name: item.application or stored[name] for name, item in named.items()}
    awaits = awaited(after.values())
    waits = waiting(after, stored)
    result = []
    for name, item in named.items():
        application = replace(after[name], leaving=False, awaits=awaits if name in waits else ())
        result.append(replace(item, application=None if application == stored.get(name) else application))
    if not keep_others:
        others = (stored[name] for name in sorted(set(stored) - set(named)))
        result += [_left_out(application, awaits) for application in others if not application.deleting]
    return tuple(result)


def check_expected(result: Iterable[Applied], stored: Mapping[str, Application], expected: Mapping[str, int]) -> None:
    """Raise Conflict if an application that is to be changed is not at the revision that its changer knows."""
    for item in result:
        before = stored.get(item.name)
        revision = before.revision if before is not None else 0
        if item.application is None or item.name not in expected or expected[item.name] == revision:
            continue
        is_at = f"is at revision {revision}" if revision else "is gone"
        text = f"application {item.name!r} {is_at}, not at {expected[item.name]}: somebody else changed it meanwhile"
        raise Conflict(text, hint="look at what is there now (meshctl history), then repeat the command")


def check_under_way(result: Iterable[Applied], stored: Mapping[str, Application]) -> None:
    """Raise RolloutUnderWay if an application that is to be changed has not come to its newest revision yet."""
    found = {}
    for item in result:
        before = stored.get(item.name)
        if item.application is None or before is None or not is_under_way(before):
            continue
        # What stays as it is may be named again while it waits, and what goes already may be left out again.
        harmless = before.leaving if item.change is Change.DELETED else item.change is Change.UNCHANGED
        if not harmless or (before.leaving and item.change is Change.UNCHANGED):
            found[item.name] = before.revision
    if found:
        raise RolloutUnderWay(found)


def goal(application: Application) -> ApplicationConfig | None:
    """Return what an application is to be, as it was applied; None if it is to be nothing.

    That is the newest revision, and once that has failed, what served before: nothing else is worked toward.
    """
    if application.deleting or application.leaving:
        return None
    if application.failure is None:
        return application.config
    return application.serving.config if application.serving is not None else None


def deleted(application: Application) -> Applied:
    """Return what deleting an application does to it. The descriptors go at once: many deletions fit one commit."""
    marked = None if application.deleting else replace(_bare(application), deleting=True, leaving=False, awaits=())
    return Applied(application.config.name, application.revision, Change.DELETED, marked)


def _bare(application: Application) -> Application:
    def bare(plan: Plan) -> Plan:
        return replace(plan, deployments=tuple(replace(spec, interface=Interface()) for spec in plan.deployments))

    return replace(
        application,
        plan=bare(application.plan) if application.plan is not None else None,
        serving=bare(application.serving) if application.serving is not None else None,
        superseded=tuple(map(bare, application.superseded)),
    )


def _left_out(application: Application, awaits: tuple[Awaited, ...]) -> Applied:
    """Return what it does to an application that an apply does not name it; what the apply brings comes first."""
    if not awaits:
        return deleted(application)
    marked = replace(application, leaving=True, awaits=awaits)
    name, revision = application.config.name, application.revision
    return Applied(name, revision, Change.DELETED, None if marked == application else marked)


def _applied(
    config: ApplicationConfig, before: Application | None, applied_at: float, hold_on_failure: bool
) -> Applied:
    if before is None or before.deleting:
        # Made anew, beside replicas that still drain if it is being deleted; nothing of the old one counts.
        revision = before.revision + 1 if before is not None else 1
        created = Application(config=config, revision=revision, applied_at=applied_at, hold_on_failure=hold_on_failure)
        return Applied(config.name, revision, Change.CREATED, created)
    if config == before.config and not before.failure:
        return Applied(config.name, before.revision, Change.UNCHANGED)
    # The same config again after a failure is a wish to try again: its code may have been mended meanwhile.
    updated = _updated(before, config, applied_at, hold_on_failure)
    return Applied(config.name, updated.revision, Change.UPDATED, updated)


def _updated(before: Application, config: ApplicationConfig, applied_at: float, hold_on_failure: bool) -> Application:
    # The plan of the revision before stays until the new one is built, so that its replicas run on as they are. That
    # of a failed revision steps back: some of its replicas may still stand in for others, but its settings are void.
    plan, superseded, restarts = before.plan, before.superseded, before.restarts
    if before.failure and before.plan is not None and before.plan != before.serving:
        plan, superseded = before.serving, (before.plan, *superseded)
    if before.failure and before.serving is not None:
        # What serves is what the next revision is compared with: a restart that failed is not asked for any more.
        restarts = before.serving.restarts
    same_env = config.runtime_env == before.config.runtime_env and config.code_version == before.config.code_version
    return replace(
        before,
        pinned_env=before.pinned_env if same_env else None,
        config=config,
        revision=before.revision + 1,
        plan=plan,
        superseded=superseded,
        failure=None,
        applied_at=applied_at,
        restarts=restarts,
        hold_on_failure=hold_on_failure,
    )
