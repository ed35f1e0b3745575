"""A whole config file of built applications, with a comment on every field.

Owns the form: what code set stands plainly, what is a default stands as a comment that does no harm without its '#'.
What is written, `config_file.parse` reads back to the same goal. Pure. Called by `build`.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.cli import config_fields, strict_yaml
from mesh.cli.config_data import deployment_data
from mesh.model import ApplicationConfig, DeploymentConfig, DeploymentSettings
from mesh.settings import GRPC_PORT, HTTP_PORT, LOOPBACK, GatewaySettings

_COMMENT_COLUMN = 46
_DEFAULT = "# "
"""Stands in front of what is not set."""
_REQUEST_TIMEOUT_S = int(GatewaySettings().request_timeout_s)
_HEAD = """\
# A config file: "meshctl deploy FILE" makes it so, "meshctl validate FILE" checks it. It is the whole goal:
# applications that it does not name are deleted. Commented options are defaults, in force until they are set
# here or in the code.
"""


@dataclass(frozen=True, slots=True)
class Built:
    """An application and its deployments as the code declares them, the ingress first."""

    config: ApplicationConfig
    deployments: tuple[DeploymentConfig, ...]


def written(applications: Sequence[Built], *, directory: str) -> str:
    """Return the text of the file that lies in `directory`. Local paths in it are relative to that."""
    lines = [*_HEAD.splitlines(), "", *_options(), "", _key(0, "applications", config_fields.ROOT)]
    for built in applications:
        lines += _application(built, directory)
    return "\n".join(lines) + "\n"


def _options() -> Iterator[str]:
    """The options of listeners, all of them defaults."""
    http = {"host": LOOPBACK, "port": HTTP_PORT, "request_timeout_s": _REQUEST_TIMEOUT_S, "cors": None}
    yield _key(0, "http_options", config_fields.ROOT, mark=_DEFAULT)
    for key, value in http.items():
        yield from _field(2, key, value, config_fields.HTTP, mark=_DEFAULT)
    yield _key(0, "grpc_options", config_fields.ROOT, mark=_DEFAULT)
    yield from _field(2, "port", GRPC_PORT, config_fields.GRPC, mark=_DEFAULT)


def _application(built: Built, directory: str) -> Iterator[str]:
    config, about = built.config, config_fields.APPLICATION
    yield from _item(2, config.name, about)
    yield from _field(4, "route_prefix", config.route_prefix, about)
    yield from _field(4, "import_path", config.import_path, about)
    yield _key(4, "runtime_env", about)
    place = posixpath.relpath(config.runtime_env.working_dir, directory)
    yield from _field(6, "working_dir", place, config_fields.RUNTIME_ENV)
    empty: Mapping[str, Any] = {"py_modules": [], "pip": [], "env_vars": {}}
    for key, value in empty.items():
        yield from _field(6, key, value, config_fields.RUNTIME_ENV, mark=_DEFAULT)
    args = json.loads(config.args_json or "{}")
    yield from _field(4, "args", args, about, mark="" if args else _DEFAULT)
    yield from _field(4, "code_version", "", about, mark=_DEFAULT)
    yield _key(4, "deployments", about)
    for deployment in built.deployments:
        yield from _deployment(deployment)


def _deployment(config: DeploymentConfig) -> Iterator[str]:
    about, values = config_fields.DEPLOYMENT, deployment_data(config)
    yield from _item(6, config.name, about)
    for name in (name for name in about if name != "name"):
        if name == "json":
            yield from _json(values.get(name, {}))
        elif name in values:
            yield from _field(8, name, values[name], about)
        else:
            yield from _field(8, name, _default(name), about, mark=_DEFAULT)


def _json(values: Mapping[str, bool]) -> Iterator[str]:
    yield _key(8, "json", config_fields.DEPLOYMENT, mark="" if values else _DEFAULT)
    for name in config_fields.JSON:
        yield from _field(
            10, name, values.get(name, False), config_fields.JSON, mark="" if name in values else _DEFAULT
        )


def _default(name: str) -> Any:
    """Return the default as the file takes it; for the time limit of requests that of the gateway stands in."""
    if name == "user_config":
        return None
    value = getattr(DeploymentSettings(), name) or _REQUEST_TIMEOUT_S
    return int(value) if value == int(value) else value


def _item(indent: int, name: str, about: Mapping[str, str]) -> Iterator[str]:
    """The first field of a list's item, which is its name: one line always."""
    yield from _field(indent, "name", name, about, mark="- ")


def _key(indent: int, key: str, about: Mapping[str, str], *, mark: str = "") -> str:
    """The line of a key whose value is in the lines that follow."""
    line = f"{' ' * indent}{mark}{key}:"
    return f"{line.ljust(_COMMENT_COLUMN)} # {about[key]}"


def _field(indent: int, key: str, value: Any, about: Mapping[str, str], *, mark: str = "") -> list[str]:
    """The lines of a field. A `mark` stands in front of the first, which is the only one then."""
    first, *rest = strict_yaml.dump({key: value}).rstrip("\n").split("\n")
    margin = " " * indent
    lines = [f"{margin}{line}" for line in rest]
    if rest and not first.endswith(":"):
        # A text of several lines: nothing may stand behind it.
        return [f"{margin}# {about[key]}", margin + first, *lines]
    return [f"{(margin + mark + first).ljust(_COMMENT_COLUMN)} # {about[key]}", *lines]
