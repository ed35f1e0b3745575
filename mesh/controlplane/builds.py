"""Builds: which worker imports which revision now, and the plan that follows from what it found.

Owns the book of builds of one leader's term and the digest that decides which change needs new replicas. Never
imports user code, never does I/O. Called by `reconcile`, `loop` and `sessions`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mesh import wire
from mesh.controlplane import pins
from mesh.controlplane.interfaces import refusal
from mesh.controlplane.limits import FAILURE_BYTES_MAX, bounded_failure
from mesh.controlplane.store import VALUE_BYTES_MAX
from mesh.controlplane.validate import CONFIG_BYTES_MAX, json_problem
from mesh.model import (
    Application,
    ApplicationConfig,
    BuiltDeployment,
    DeploymentSpec,
    Failure,
    Interface,
    Plan,
    RuntimeEnv,
)
from mesh.reasons import Reason
from mesh.serving.options import deployment_problems, nearest, resolve, shown
from mesh.v1 import deployment_pb2

BUILDS_PER_WORKER_MAX = 2
"""Each build is a process that imports user code: more at once would starve the replicas beside it."""
PREPARING_BUILDS_PER_WORKER_MAX = 8
"""Builds for which something has to be fetched or installed first: they may take minutes, and hold up no others."""
PREPARING_MAX_S = 3600.0
"""Seconds beyond which no worker may make an environment ready (its own limit is below that)."""
ANSWER_MARGIN_S = 10.0
"""Seconds beyond the build's own timeout after which a worker that says nothing is given up."""
USER_CONFIG_CHARACTERS_MAX = 16 * 1024
"""Of all user_config that the code itself declares: it is stored with the plan, within the store's value limit."""
PLAN_BYTES_MAX = (VALUE_BYTES_MAX - CONFIG_BYTES_MAX - FAILURE_BYTES_MAX - 16 * 1024) // 2
"""Bytes of a plan. One that serves and one that is to come are stored together, beside the config and a failure."""


@dataclass(frozen=True, slots=True)
class Build:
    """One build, running or ended. `started` is the leader's monotonic time."""

    build_id: str
    application: str
    revision: int
    worker_id: str
    session: int
    started: float
    timeout_s: float
    prepares: bool = False
    """Whether the worker has to fetch or install something first."""
    resolved_env: RuntimeEnv | None = None
    """The environment with its pins: those of an earlier build of the same, or those of this one."""
    answered: bool = False
    """Its result came and is being looked at."""
    ended: bool = False
    failure: Failure | None = None
    deployments: tuple[BuiltDeployment, ...] = ()

    @property
    def deadline(self) -> float:
        """When the leader stops waiting for the answer."""
        return self.started + self.limit_s

    @property
    def limit_s(self) -> float:
        """How long the leader waits for the answer. The worker has time limits of its own, and tells of them."""
        return self.timeout_s + ANSWER_MARGIN_S + (PREPARING_MAX_S if self.prepares else 0.0)


class Builds:
    """The newest build of each application."""

    def __init__(self) -> None:
        self._builds: dict[str, Build] = {}

    @property
    def newest(self) -> dict[str, Build]:
        """By application."""
        return dict(self._builds)

    def started(self, build: Build) -> None:
        """Note a build that was sent; it replaces an older one of the same application."""
        self._builds[build.application] = build

    def answered(self, build_id: str) -> Build | None:
        """Note that a result came. Returns its build, or None if nobody waits for it, or any more."""
        for name, build in self._builds.items():
            if build.build_id == build_id and not build.answered and not build.ended:
                self._builds[name] = replace(build, answered=True)
                return build
        return None

    def ended(self, result: Build) -> bool:
        """Take a build with its result. Returns False if nobody waits for it any more."""
        for name, build in self._builds.items():
            if build.build_id == result.build_id and not build.ended:
                self._builds[name] = replace(result, answered=build.answered, ended=True)
                return True
        return False

    def cancelled(self, build_id: str) -> None:
        """Drop a build whose result is not wanted any more."""
        self._builds = {name: build for name, build in self._builds.items() if build.build_id != build_id}

    def keep(self, applications: Container[str]) -> None:
        """Drop the builds of all other applications."""
        self._builds = {name: build for name, build in self._builds.items() if name in applications}


def is_wanted(build: Build, application: Application | None) -> bool:
    """Whether a build's result still matters: its application has no newer revision, has not failed and stays."""
    if application is None or application.deleting or application.failure is not None:
        return False
    return application.revision == build.revision


def plan_of(application: Application, build: Build, others: Iterable[Application] = ()) -> Plan | Failure:
    """Return the plan of a build that ended, or why there is none. `others` are all other applications.

    Nothing that the worker says is taken on trust: what comes from here is stored, and told to gateways.
    """
    failure = build.failure
    if failure is None:
        plan = _plan(application, build)
        resolved, written = build.resolved_env, application.config.runtime_env
        failure = next(_flaws(application.config, build.deployments), None) or _oversize(plan) or refusal(plan, others)
        failure = failure or (pins.refusal(written, resolved) if resolved is not None else None)
        if failure is None:
            return plan
    return bounded_failure(replace(failure, reason=failure.reason or Reason.BUILD_FAILED))


def _flaws(config: ApplicationConfig, built: Sequence[BuiltDeployment]) -> Iterator[Failure]:
    """Yield what is wrong with the deployments that a build found, their services apart."""
    if sum(each.ingress for each in built) != 1:
        text = f"{shown(config.import_path)} must have exactly one ingress deployment"
        yield Failure(text, "import_path", "name an application with one")
    known = [each.config.name for each in built]
    if len(set(known)) != len(known):
        text = f"{shown(config.import_path)} has two deployments of one name"
        yield Failure(text, "import_path", "give each a name of its own")
    for i, override in enumerate(config.deployments):
        if override.name not in known:
            text = f"{shown(config.import_path)} has no deployment {shown(override.name)}"
            yield Failure(text, f"deployments[{i}].name", nearest(override.name, known))
    size = sum(len(each.config.user_config_json or "") for each in built)
    if size > USER_CONFIG_CHARACTERS_MAX:
        text = f"user_config in code has {size} characters; {USER_CONFIG_CHARACTERS_MAX} are allowed"
        yield Failure(text, "import_path", "move data out of user_config")
    for each in built:
        for problem in deployment_problems(each.config, at=each.config.name):
            yield Failure(f"{problem.field} {problem.message}", "import_path", problem.hint)
        if each.config.user_config_json and (wrong := json_problem(each.config.user_config_json)):
            yield Failure(f"{each.config.name}.user_config {wrong}", "import_path", "declare a JSON value")


def _plan(application: Application, build: Build) -> Plan:
    plan = Plan(revision=application.revision, config=application.config, resolved_env=build.resolved_env)
    config = pins.pinned_config(plan)
    overrides = {override.name: override for override in config.deployments}
    return replace(
        plan,
        deployments=tuple(
            DeploymentSpec(
                name=each.config.name,
                ingress=each.ingress,
                version=version_of(
                    config, each.config.name, each.interface, application.restarts.get(each.config.name, 0)
                ),
                settings=resolve(each.config, overrides.get(each.config.name)),
                interface=each.interface,
                depth=each.depth,
            )
            for each in build.deployments
        ),
        restarts=application.restarts,
    )


def _oversize(plan: Plan) -> Failure | None:
    size = wire.to_proto(plan, deployment_pb2.Plan).ByteSize()
    if size <= PLAN_BYTES_MAX:
        return None
    descriptors = sum(len(spec.interface.descriptor_set) for spec in plan.deployments)
    text = f"what was built has {size} bytes, {descriptors} of them descriptors; {PLAN_BYTES_MAX} are allowed"
    hint = "serve fewer services, or move data out of the config"
    return Failure(text, "import_path", hint)


def version_of(
    config: ApplicationConfig, deployment: str, interface: Interface | None = None, restarted_at: int = 0
) -> str:
    """Return the digest of all that needs new replicas of a deployment when it changes.

    Its services are part of it: where they differ, code changed in place, which replicas that run do not have. So is
    the revision at which somebody asked to restart it (0: never).
    """
    environment = config.runtime_env
    parts = [
        deployment,
        config.import_path,
        json.loads(config.args_json) if config.args_json else {},
        config.code_version,
        environment.working_dir,
        list(environment.py_modules),
        list(environment.pip),
        dict(environment.env_vars),
    ]
    if environment.env_vars_from_env or environment.env_vars_from_file:
        parts += [dict(environment.env_vars_from_env), dict(environment.env_vars_from_file)]
    if restarted_at:
        parts.append({"restarted_at": restarted_at})
    if interface is not None and interface.services:
        parts += [list(interface.services), hashlib.sha256(interface.descriptor_set).hexdigest()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
