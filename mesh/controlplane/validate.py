"""What is wrong with an apply, alone and against what is stored.

Owns the rules across applications and the limits of one apply; the rules of single options are in
`serving.options`. Never does I/O. Called by `api` before anything is stored.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence

from mesh.controlplane.handover import holds
from mesh.errors import Problem
from mesh.model import Application, ApplicationConfig, RuntimeEnv
from mesh.packages.place import is_digest, place_problems, places
from mesh.packages.requirements import requirement_problems
from mesh.serving.env_vars import env_vars_problems
from mesh.serving.options import DEPLOYMENT_OPTIONS, Range, applications_problems, shown

APPLICATIONS_PER_APPLY_MAX = 40
"""Changed and deleted applications in one apply, so that it fits one commit of the store with room to spare."""
CONFIG_BYTES_MAX = 64 * 1024
"""Bytes of one application's config. Stored goal state holds a config up to eleven times (itself, and in five plans
as config and as settings), within the store's limit of 1 MiB for a value."""

_PACKAGE = "package:"
_PORT = Range(0, 65535, meaning=" (0: a free one)")


def options_problems(
    http_port: int | None, grpc_port: int | None, request_timeout_s: float | None
) -> tuple[Problem, ...]:
    """Return what is wrong with the options of a config; None means not set."""
    checks = (
        ("http_options.port", _PORT, http_port),
        ("http_options.request_timeout_s", DEPLOYMENT_OPTIONS["request_timeout_s"], request_timeout_s),
        ("grpc_options.port", _PORT, grpc_port),
    )
    return tuple(
        Problem(field, wrong, allowed.hint)
        for field, allowed, value in checks
        if value is not None and (wrong := allowed.problem(value))
    )


def apply_problems(
    configs: Sequence[ApplicationConfig],
    stored: Mapping[str, Application],
    *,
    keep_others: bool,
    sizes: Sequence[int],
) -> tuple[Problem, ...]:
    """Return all that is wrong with applying `configs`; nothing if it may be done.

    `stored` is the goal state by application, `sizes` the bytes of each config as a message.
    """
    return tuple(_problems(configs, stored, keep_others, sizes))


def _problems(
    configs: Sequence[ApplicationConfig], stored: Mapping[str, Application], keep_others: bool, sizes: Sequence[int]
) -> Iterator[Problem]:
    yield from applications_problems(configs)
    for i, config in enumerate(configs):
        yield from _json_problems(config, at=f"applications[{i}]")
        yield from requirement_problems(config.runtime_env.pip, at=f"applications[{i}].runtime_env.pip")
        yield from place_problems(config.runtime_env, at=f"applications[{i}].runtime_env")
        yield from env_vars_problems(config.runtime_env, at=f"applications[{i}].runtime_env.env_vars")
        if sizes[i] > CONFIG_BYTES_MAX:
            text = f"has {sizes[i]} bytes; {CONFIG_BYTES_MAX} are allowed"
            yield Problem(f"applications[{i}]", text, "move data out of the config")
    if keep_others:
        yield from _route_conflicts(configs, stored)
    yield from _limit_problems(configs, stored, keep_others)


def named_packages(envs: Sequence[RuntimeEnv]) -> dict[str, str]:
    """Return the digest of each package that the applications' environments name, by its field in the config."""
    return {
        f"applications[{i}].runtime_env.{field}": text.removeprefix(_PACKAGE)
        for i, env in enumerate(envs)
        for field, text in places(env)
        if text.startswith(_PACKAGE) and is_digest(text.removeprefix(_PACKAGE))
    }


def missing_packages(named: Mapping[str, str], missing: Collection[str]) -> tuple[Problem, ...]:
    """Return a problem for each field that names a package that is not there."""
    hint = "name the directory of the code, which meshctl deploy uploads; packages that nothing names are removed"
    return tuple(
        Problem(field, f"there is no package {digest}", hint) for field, digest in named.items() if digest in missing
    )


def _json_problems(config: ApplicationConfig, *, at: str) -> Iterator[Problem]:
    if config.args_json and (wrong := json_problem(config.args_json, kind=dict)):
        yield Problem(f"{at}.args", wrong, "write a mapping of names to values")
    for i, deployment in enumerate(config.deployments):
        if deployment.user_config_json and (wrong := json_problem(deployment.user_config_json)):
            yield Problem(f"{at}.deployments[{i}].user_config", wrong, "write a JSON value")


def json_problem(text: str, *, kind: type = object) -> str:
    """Return what is wrong with a text that is to be JSON, or ""."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    return "" if isinstance(value, kind) else "must be a JSON object"


def _route_conflicts(configs: Sequence[ApplicationConfig], stored: Mapping[str, Application]) -> Iterator[Problem]:
    """An application that stays keeps its routes. One that is being deleted has none any more."""
    named = {config.name for config in configs}
    routes = {
        route: name
        for name, application in sorted(stored.items())
        if name not in named and not application.deleting
        for route in holds(application) | {application.config.route_prefix}
        if route
    }
    for i, config in enumerate(configs):
        if (owner := routes.get(config.route_prefix)) is not None:
            text = f"route_prefix {shown(config.route_prefix)} is taken by application {owner!r}"
            yield Problem(f"applications[{i}].route_prefix", text, "give each application a route of its own")


def _limit_problems(
    configs: Sequence[ApplicationConfig], stored: Mapping[str, Application], keep_others: bool
) -> Iterator[Problem]:
    if len(configs) > APPLICATIONS_PER_APPLY_MAX:
        text = f"{len(configs)} applications in one apply; {APPLICATIONS_PER_APPLY_MAX} are allowed"
        yield Problem("applications", text, "apply them in parts, keeping the others")
        return
    named = {config.name for config in configs}
    deleted = [name for name, a in stored.items() if name not in named and not a.deleting] if not keep_others else []
    if len(deleted) > APPLICATIONS_PER_APPLY_MAX:
        text = f"{len(deleted)} applications would be deleted; {APPLICATIONS_PER_APPLY_MAX} in one apply are allowed"
        yield Problem("applications", text, "keep the others, and delete by name")
