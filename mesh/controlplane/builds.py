"""Builds: which worker imports which revision now, and the plan that follows from what it found.

Owns the book of builds of one leader's term and the digest that decides which change needs new replicas. Never
imports user code, never does I/O. Called by `reconcile`, `loop` and `sessions`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from dataclasses import dataclass, replace

from mesh.model import Application, ApplicationConfig, BuiltDeployment, DeploymentSpec, Plan
from mesh.serving.options import nearest, resolve

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
    error: str = ""
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

    def ended(self, build_id: str, error: str, deployments: tuple[BuiltDeployment, ...]) -> bool:
        """Take a result. Returns False if nobody waits for it any more."""
        for name, build in self._builds.items():
            if build.build_id == build_id and not build.ended:
                self._builds[name] = replace(build, ended=True, error=error, deployments=deployments)
                return True
        return False

    def keep(self, applications: Container[str]) -> None:
        """Drop the builds of all other applications."""
        self._builds = {name: build for name, build in self._builds.items() if name in applications}


def plan_of(application: Application, build: Build) -> Plan | str:
    """Return the plan of a build that ended, or why there is none."""
    if build.error:
        return build.error
    if sum(built.ingress for built in build.deployments) != 1:
        return f"{application.config.import_path!r} must have exactly one ingress deployment"
    config = application.config
    known = [built.config.name for built in build.deployments]
    for override in config.deployments:
        if override.name not in known:
            where = f"{config.import_path!r} has no deployment {override.name!r}"
            return f"{where}; {nearest(override.name, known)}"
    size = sum(len(built.config.user_config_json or "") for built in build.deployments)
    if size > USER_CONFIG_CHARACTERS_MAX:
        return f"user_config in code has {size} characters; {USER_CONFIG_CHARACTERS_MAX} are allowed"
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
