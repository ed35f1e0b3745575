"""What applying a config, or deleting, makes of the stored goal state.

Owns the rules of revisions and of what counts as a change. Never does I/O; validation is in `validate`. Called by
`goal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mesh.controlplane.handover import awaited, waiting
from mesh.model import Application, ApplicationConfig, Awaited, Change, Interface, Plan


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
) -> tuple[Applied, ...]:
    """Return what to do to each application, those of the config first. `applied_at` is Unix time in seconds."""
    named = {config.name: _applied(config, stored.get(config.name), applied_at) for config in configs}
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


def _applied(config: ApplicationConfig, before: Application | None, applied_at: float) -> Applied:
    if before is None:
        created = Application(config=config, revision=1, applied_at=applied_at)
        return Applied(config.name, 1, Change.CREATED, created)
    revision = before.revision + 1
    if before.deleting:
        # Made anew beside replicas that still drain; nothing of the old one counts.
        created = Application(config=config, revision=revision, applied_at=applied_at)
        return Applied(config.name, revision, Change.CREATED, created)
    if config == before.config and not before.failure:
        return Applied(config.name, before.revision, Change.UNCHANGED)
    # The same config again after a failure is a wish to try again: its code may have been mended meanwhile.
    # The plan of the revision before stays until the new one is built, so that its replicas run on as they are. That
    # of a failed revision steps back: some of its replicas may still stand in for others, but its settings are void.
    plan, superseded = before.plan, before.superseded
    if before.failure and before.plan is not None and before.plan != before.serving:
        plan, superseded = before.serving, (before.plan, *superseded)
    updated = replace(
        before,
        config=config,
        revision=revision,
        plan=plan,
        superseded=superseded,
        failure=None,
        applied_at=applied_at,
    )
    return Applied(config.name, revision, Change.UPDATED, updated)
