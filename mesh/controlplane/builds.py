"""Builds: which worker imports which revision now, and the plan that follows from what it found.

Owns the book of builds of one leader's term and the digest that decides which change needs new replicas. Never
imports user code, never does I/O. Called by `reconcile`, `loop` and `sessions`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from dataclasses import dataclass, replace

from mesh.model import Application, ApplicationConfig, BuiltDeployment, DeploymentSpec, Failure, Plan
from mesh.serving.options import nearest, resolve, shown

BUILDS_PER_WORKER_MAX = 2
"""Each build is a process that imports user code: more at once would starve the replicas beside it."""
ANSWER_MARGIN_S = 10.0
"""Seconds beyond the build's own timeout after which a worker that says nothing is given up."""
USER_CONFIG_CHARACTERS_MAX = 16 * 1024
"""Of all user_config that the code itself declares: it is stored with the plan, within the store's value limit."""


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
    ended: bool = False
    failure: Failure | None = None
    deployments: tuple[BuiltDeployment, ...] = ()

    @property
    def deadline(self) -> float:
        """When the leader stops waiting for the answer."""
        return self.started + self.timeout_s + ANSWER_MARGIN_S


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

    def ended(self, build_id: str, failure: Failure | None, deployments: tuple[BuiltDeployment, ...]) -> bool:
        """Take a result. Returns False if nobody waits for it any more."""
        for name, build in self._builds.items():
            if build.build_id == build_id and not build.ended:
                self._builds[name] = replace(build, ended=True, failure=failure, deployments=deployments)
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


def plan_of(application: Application, build: Build) -> Plan | Failure:
    """Return the plan of a build that ended, or why there is none."""
    if build.failure is not None:
        return build.failure
    config = application.config
    if sum(built.ingress for built in build.deployments) != 1:
        text = f"{shown(config.import_path)} must have exactly one ingress deployment"
        return Failure(text, "import_path", "name an application with one")
    known = [built.config.name for built in build.deployments]
    for i, override in enumerate(config.deployments):
        if override.name not in known:
            text = f"{shown(config.import_path)} has no deployment {shown(override.name)}"
            return Failure(text, f"deployments[{i}].name", nearest(override.name, known))
    size = sum(len(built.config.user_config_json or "") for built in build.deployments)
    if size > USER_CONFIG_CHARACTERS_MAX:
        text = f"user_config in code has {size} characters; {USER_CONFIG_CHARACTERS_MAX} are allowed"
        return Failure(text, "import_path", "move data out of user_config")
    overrides = {override.name: override for override in config.deployments}
    return Plan(
        revision=application.revision,
        config=config,
        deployments=tuple(
            DeploymentSpec(
                name=built.config.name,
                ingress=built.ingress,
                version=version_of(config, built.config.name),
                settings=resolve(built.config, overrides.get(built.config.name)),
                interface=built.interface,
            )
            for built in build.deployments
        ),
    )


def version_of(config: ApplicationConfig, deployment: str) -> str:
    """Return the digest of all that needs new replicas of a deployment when it changes."""
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
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
