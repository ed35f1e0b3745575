"""Changes of one application other than by a config file: rollback, scale, restart, pause.

Owns what each of them asks of the stored goal state; the cycle of reading and committing is that of `goal`. Called by
`revisions` on the leading instance only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from mesh import wire
from mesh.clock import Clock
from mesh.controlplane.apply import Applied, applied, check_expected, check_under_way, goal, restarted, scaled
from mesh.controlplane.goal import GoalState, Stored, Values, config_of, unknown, values_of
from mesh.controlplane.history import Why, is_repeated, rollback_target, told
from mesh.controlplane.records import application_key, encode_application
from mesh.controlplane.term import Term
from mesh.controlplane.validate import apply_problems
from mesh.errors import InvalidConfig, NotFound, Problem
from mesh.model import Application, ApplicationConfig, Change
from mesh.revision import Revision, RevisionCause
from mesh.serving.options import DEPLOYMENT_OPTIONS, nearest, shown
from mesh.v1 import deployment_pb2
from mesh.v1.revision_service_pb2 import ChangeOptions

_Make = Callable[[Stored, Application], tuple[Applied, ...]]
"""From what is stored, and the application as it is: what is done to it."""


class Revising:
    """Makes revisions of single applications."""

    def __init__(self, state: GoalState, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    async def revisions(self, term: Term, application: str) -> tuple[Revision, ...]:
        """Return the revisions of an application, the newest first. Raises NotFound, Unreachable."""
        history = await self._state.history(application)
        stored = term.mirror.applications
        if application not in stored:
            raise unknown(application, stored)
        return told(history, stored[application])[::-1]

    async def rollback(self, term: Term, application: str, to_revision: int, options: ChangeOptions) -> Applied:
        """Make a revision with the config of an older one; 0: the last that served and is other than the goal.

        Raises NotFound, InvalidConfig (its route is another's now, or its code is gone), and as `goal.change` does.
        """
        target: list[int] = []
        if (known := term.mirror.applications.get(application)) is not None:
            aim = rollback_target(await self._state.history(application), known, to_revision)
            await self._state.check_packages([aim.config])

        def make(stored: Stored, before: Application) -> tuple[Applied, ...]:
            if before.leaving:
                _goal(stored, before)
            revision = rollback_target(stored.history, before, to_revision)
            target[:] = [revision.revision]
            return tuple(
                replace(item, application=replace(item.application, pinned_env=revision.resolved_env))
                if item.name == application and item.application is not None
                else item
                for item in self._applied(stored, revision.config)
            )

        def why() -> Why:
            return Why(RevisionCause.ROLLBACK, f"to revision {target[0]}", options.request_id)

        return await self._make(term, application, options, make, why)

    async def scale(
        self, term: Term, application: str, num_replicas: Mapping[str, int], options: ChangeOptions
    ) -> Applied:
        """Set the numbers of replicas of deployments. Raises NotFound, InvalidConfig, and as `goal.change` does."""

        def make(stored: Stored, before: Application) -> tuple[Applied, ...]:
            config = _goal(stored, before)
            _check_deployments(before, num_replicas)
            allowed = DEPLOYMENT_OPTIONS["num_replicas"]
            problems = [
                Problem(f"{name}.num_replicas", wrong, allowed.hint)
                for name, count in sorted(num_replicas.items())
                if (wrong := allowed.problem(count))
            ]
            if problems or not num_replicas:
                nothing = Problem("num_replicas", "names no deployment", "name one, such as Echo=2")
                raise InvalidConfig(tuple(problems) or (nothing,))
            return self._applied(stored, scaled(config, num_replicas))

        detail = ", ".join(f"{name}={count}" for name, count in sorted(num_replicas.items()))
        return await self._make(
            term, application, options, make, lambda: Why(RevisionCause.SCALE, detail, options.request_id)
        )

    async def restart(
        self, term: Term, application: str, deployments: Iterable[str], options: ChangeOptions
    ) -> Applied:
        """Replace the replicas of deployments, of all if none is named. Raises as `scale` does."""
        named = sorted(set(deployments))

        def make(stored: Stored, before: Application) -> tuple[Applied, ...]:
            _goal(stored, before)
            _check_deployments(before, named)
            names = named or _deployments(before)
            return restarted(application, names, stored.applications, applied_at=self._clock.wall())

        why = Why(RevisionCause.RESTART, ", ".join(named), options.request_id)
        return await self._make(term, application, options, make, lambda: why)

    async def set_paused(self, term: Term, application: str, paused: bool) -> int:
        """Make rollouts stand still, or go on. Returns the newest revision. Raises NotFound, and as `goal.change`."""

        def decide(stored: Stored) -> tuple[tuple[Applied, ...], Values]:
            before = _existing(stored, application)
            values: Values = {}
            if before.paused != paused:
                values[application_key(application)] = encode_application(replace(before, paused=paused))
            return (Applied(application, before.revision, Change.UNCHANGED),), values

        return (await self._state.change(term, decide))[0].revision

    async def _make(
        self, term: Term, application: str, options: ChangeOptions, make: _Make, why: Callable[[], Why]
    ) -> Applied:
        def decide(stored: Stored) -> tuple[tuple[Applied, ...], Values]:
            before = _existing(stored, application)
            if is_repeated(stored.history, before, options.request_id):
                return (Applied(application, before.revision, Change.UPDATED),), {}
            if options.expected_revision and before.revision != options.expected_revision:
                known = (Applied(application, before.revision, Change.UPDATED, before),)
                check_expected(known, stored.applications, {application: options.expected_revision})
            result = make(stored, before)
            if not options.supersede:
                check_under_way(result, stored.applications)
            return result, values_of(result)

        return (await self._state.change(term, decide, why, application=application))[0]

    def _applied(self, stored: Stored, config: ApplicationConfig) -> tuple[Applied, ...]:
        size = wire.to_proto(config, deployment_pb2.ApplicationConfig).ByteSize()
        if problems := apply_problems([config], stored.applications, keep_others=True, sizes=[size]):
            raise InvalidConfig(problems)
        return applied([config], stored.applications, keep_others=True, applied_at=self._clock.wall())


def _existing(stored: Stored, application: str) -> Application:
    found = stored.applications.get(application)
    if found is None or found.deleting:
        raise unknown(application, (name for name, each in stored.applications.items() if not each.deleting))
    return found


def _goal(stored: Stored, application: Application) -> ApplicationConfig:
    """Return what an application is to be. Raises NotFound if it is to be nothing."""
    config = goal(application)
    if config is None:
        config_of(stored.applications, stored.options, application.config.name)  # raises with the reason
        raise NotFound(f"application {shown(application.config.name)} is no part of the goal", hint="deploy it")
    return config


def _deployments(application: Application) -> list[str]:
    """Return the names of its deployments, as far as they are known: none before the first build."""
    plans = (application.plan, application.serving) if not application.failure else (application.serving,)
    return sorted({spec.name for plan in plans if plan is not None for spec in plan.deployments})


def _check_deployments(application: Application, names: Iterable[str]) -> None:
    """Raise NotFound for a deployment that an application does not have. What is not built yet is not known."""
    known = _deployments(application)
    for name in names:
        if known and name not in known:
            text = f"application {shown(application.config.name)} has no deployment {shown(name)}"
            raise NotFound(f"{text}; {nearest(name, known)}", hint="see meshctl status")
