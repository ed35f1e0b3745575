"""The config file: text in, a Config or located problems out; and a Config back to the same text.

Owns the shape of the file (docs: reference, "Config file") and the place of every field in it. Ranges and rules are
those of `serving.options`. Never talks to a control plane. Pure except `read`. Called by the commands.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.cli import strict_yaml
from mesh.cli.strict_yaml import Document, Fault, Place
from mesh.errors import InvalidConfig, NotFound, Problem
from mesh.model import ApplicationConfig, Cors, DeploymentConfig, RuntimeEnv
from mesh.packages.place import has_scheme, place_problems
from mesh.serving.cors import MAX_AGE_S, cors_problems
from mesh.serving.options import (
    JSON_OPTIONS,
    OPTIONS,
    SECONDS_MAX,
    Range,
    applications_problems,
    as_fields,
    nearest,
    option_problems,
    shown,
)

BYTES_MAX = 1024 * 1024
_PORT = Range(0, 65535, meaning=" (0: a free one)")
_TIMEOUT = Range(0.001, SECONDS_MAX, whole=False)
_APPLICATION_KEYS = ("name", "route_prefix", "import_path", "runtime_env", "args", "deployments", "code_version")


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Options of the HTTP listener; None: not set."""

    host: str | None = None
    port: int | None = None
    request_timeout_s: float | None = None
    cors: Cors | None = None


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """Options of the gRPC listener; None: not set."""

    port: int | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """All that a config file says. Field names are those of the message mesh.v1.Config."""

    http_options: HttpOptions | None = None
    grpc_options: GrpcOptions | None = None
    applications: tuple[ApplicationConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that was read without a problem."""

    path: str
    config: Config
    document: Document

    def located(self, error: InvalidConfig) -> InvalidFile:
        """Return a problem that somebody else found, with the places of its fields in this file."""
        return InvalidFile(self.path, [self.fault(problem) for problem in error.problems])

    def fault(self, problem: Problem) -> Fault:
        """Return a problem with the place of its field in this file."""
        return Fault(self.document.place(problem.field), problem)


class InvalidFile(InvalidConfig):
    """A config file is wrong; `faults` has the place of each problem, in the order of the file."""

    def __init__(self, path: str, faults: Iterable[Fault]) -> None:
        self.path = path
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.place.line, fault.place.column)))
        super().__init__(tuple(fault.problem for fault in self.faults))


def read(path: Path) -> ConfigFile:
    """Read a config file. Raises NotFound where there is none, InvalidFile on problems."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"no config file {path}", hint="check the path") from error
    except OSError as error:
        hint = "name a file that you may read"
        raise InvalidConfig((Problem("", f"cannot read {path}: {error.strerror}", hint),)) from error
    return decode(data, path=str(path), directory=str(path.resolve().parent))


def decode(data: bytes, *, path: str, directory: str) -> ConfigFile:
    """Parse the bytes of a config file. Raises InvalidFile."""
    if len(data) > BYTES_MAX:
        problem = Problem("", f"is larger than {BYTES_MAX // 1024} KiB", "move data out of the config")
        raise InvalidFile(path, [Fault(Place(), problem)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise InvalidFile(path, [Fault(place, Problem("", "is not UTF-8 text", "save it as UTF-8"))]) from error
    return parse(text, path=path, directory=directory)


def parse(text: str, *, path: str, directory: str) -> ConfigFile:
    """Parse a config file's text. `directory` is where relative paths in it start. Raises InvalidFile."""
    document = strict_yaml.parse(text)
    if document.faults:
        raise InvalidFile(path, document.faults)
    reader = _Reader(document, directory)
    config = reader.config()
    known = {fault.problem.field for fault in reader.faults}
    for problem in applications_problems(config.applications):
        if problem.field not in known:
            reader.faults.append(Fault(document.place(problem.field), problem))
    if reader.faults:
        raise InvalidFile(path, reader.faults)
    return ConfigFile(path, config, document)


def render(config: Config) -> str:
    """Return a Config as YAML that `parse` reads back to the same value."""
    return strict_yaml.dump(as_data(config))


def as_data(config: Config) -> dict[str, Any]:
    """Return a Config as plain data of the file's shape, with only what is set."""
    data: dict[str, Any] = {}
    for name, options in (("http_options", config.http_options), ("grpc_options", config.grpc_options)):
        if options is not None and (fields := _set(options)):
            data[name] = fields
    if config.http_options is not None and config.http_options.cors is not None:
        data["http_options"]["cors"] = _cors_data(config.http_options.cors)
    data["applications"] = [_application_data(application) for application in config.applications]
    return data


def _application_data(config: ApplicationConfig) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": config.name,
        "route_prefix": config.route_prefix,
        "import_path": config.import_path,
    }
    if config.code_version:
        data["code_version"] = config.code_version
    env = config.runtime_env
    env_data = {
        "working_dir": env.working_dir,
        "py_modules": list(env.py_modules),
        "pip": list(env.pip),
        "env_vars": dict(sorted(env.env_vars.items())),
    }
    if env_data := {name: value for name, value in env_data.items() if value}:
        data["runtime_env"] = env_data
    if config.args_json:
        data["args"] = json.loads(config.args_json)
    if config.deployments:
        data["deployments"] = [_deployment_data(deployment) for deployment in config.deployments]
    return data


def _deployment_data(config: DeploymentConfig) -> dict[str, Any]:
    data = _set(config)
    if "user_config_json" in data:
        data["user_config"] = json.loads(data.pop("user_config_json"))
    if config.json is not None:
        data["json"] = _set(config.json)
    return data


def _cors_data(cors: Cors) -> dict[str, Any]:
    data = {**_set(cors), "allow_origins": list(cors.allow_origins), "allow_headers": list(cors.allow_headers)}
    return {name: value for name, value in data.items() if name != "allow_headers" or value}


def _set(options: Any) -> dict[str, Any]:
    values = ((name, getattr(options, name)) for name in options.__dataclass_fields__)
    return {name: value for name, value in values if value is not None}


class _Reader:
    """Reads the fields of one document, notes each fault and goes on with a stand-in that causes no other."""

    def __init__(self, document: Document, directory: str) -> None:
        self.faults: list[Fault] = []
        self._document = document
        self._directory = directory

    def config(self) -> Config:
        if self._document.value is None:
            self._fault("", "is empty", 'it needs a list "applications"')
            return Config()
        root = self._mapping(self._document.value, "", ("http_options", "grpc_options", "applications"))
        if isinstance(self._document.value, dict) and "applications" not in root:
            self._fault("applications", "is missing", "applications: [] stands for none")
        applications = self._list(root.get("applications", []), "applications")
        return Config(
            self._http(root["http_options"]) if "http_options" in root else None,
            self._grpc(root["grpc_options"]) if "grpc_options" in root else None,
            tuple(self._application(value, f"applications[{i}]", i) for i, value in enumerate(applications)),
        )

    def _http(self, value: object) -> HttpOptions:
        found = self._mapping(value, "http_options", ("host", "port", "request_timeout_s", "cors"))
        return HttpOptions(
            self._text(found, "host", "http_options") if found.get("host") is not None else None,
            self._number(found, "port", "http_options", _PORT),
            self._number(found, "request_timeout_s", "http_options", _TIMEOUT),
            self._cors(found["cors"], "http_options.cors") if found.get("cors") is not None else None,
        )

    def _cors(self, value: object, at: str) -> Cors:
        found = self._mapping(value, at, ("allow_origins", "allow_headers", "max_age_s", "allow_credentials"))
        if isinstance(value, dict) and "allow_origins" not in found:
            self._fault(f"{at}.allow_origins", "is missing", "list the origins; [] stands for none")
        faults = len(self.faults)
        credentials = found.get("allow_credentials")
        if credentials is not None and not isinstance(credentials, bool):
            text = f"must be true or false, not {_shown(credentials)}"
            self._fault(f"{at}.allow_credentials", text, "write true or false")
        cors = Cors(
            self._texts(found.get("allow_origins", []), f"{at}.allow_origins"),
            self._texts(found.get("allow_headers", []), f"{at}.allow_headers"),
            self._number(found, "max_age_s", at, MAX_AGE_S),
            credentials if isinstance(credentials, bool) else None,
        )
        if len(self.faults) == faults:
            for problem in cors_problems(cors, at=at):
                self._fault(problem.field, problem.message, problem.hint)
        return cors

    def _grpc(self, value: object) -> GrpcOptions:
        found = self._mapping(value, "grpc_options", ("port",))
        return GrpcOptions(self._number(found, "port", "grpc_options", _PORT))

    def _application(self, value: object, at: str, index: int) -> ApplicationConfig:
        found = self._mapping(value, at, _APPLICATION_KEYS)
        if isinstance(value, dict) and "import_path" not in found:
            self._fault(f"{at}.import_path", "is missing", 'name the application, as "module:app"')
        # Stand-ins differ by index, so that a wrong name is not reported as a repeated one too.
        name = self._text(found, "name", at, default="default", stand_in=f"wrong-{index}")
        if found.get("route_prefix", "/") is None:
            route = ""
        else:
            route = self._text(found, "route_prefix", at, default="/", stand_in=f"/wrong-{index}")
        if not isinstance(value, dict):
            name, route = f"wrong-{index}", f"/wrong-{index}"
        deployments = self._list(found.get("deployments", []), f"{at}.deployments")
        return ApplicationConfig(
            name=name,
            route_prefix=route,
            import_path=self._text(found, "import_path", at, default="wrong:wrong", stand_in="wrong:wrong"),
            runtime_env=self._runtime_env(found.get("runtime_env", {}), f"{at}.runtime_env"),
            args_json=self._json_object(found.get("args", {}), f"{at}.args"),
            deployments=tuple(
                self._deployment(item, f"{at}.deployments[{i}]", i) for i, item in enumerate(deployments)
            ),
            code_version=self._text(found, "code_version", at),
        )

    def _runtime_env(self, value: object, at: str) -> RuntimeEnv:
        found = self._mapping(value, at, ("working_dir", "py_modules", "pip", "env_vars"))
        env_vars = self._mapping(found.get("env_vars", {}), f"{at}.env_vars", None)
        env = RuntimeEnv(
            working_dir=self._place(self._text(found, "working_dir", at, default=".") or "."),
            py_modules=tuple(map(self._place, self._texts(found.get("py_modules", []), f"{at}.py_modules"))),
            pip=self._texts(found.get("pip", []), f"{at}.pip"),
            env_vars={name: self._text(env_vars, name, f"{at}.env_vars") for name in env_vars},
        )
        for problem in place_problems(env, at=at):
            self._fault(problem.field, problem.message, problem.hint)
        return env

    def _deployment(self, value: object, at: str, index: int) -> DeploymentConfig:
        found = self._mapping(value, at, ("name", *OPTIONS))
        if isinstance(value, dict) and "name" not in found:
            self._fault(f"{at}.name", "is missing", "name the deployment as the code does")
        name = self._text(found, "name", at, default=f"wrong-{index}", stand_in=f"wrong-{index}")
        options = {key: item for key, item in found.items() if key != "name" and item is not None}
        if isinstance(options.get("json"), dict):
            options["json"] = self._mapping(options["json"], f"{at}.json", JSON_OPTIONS)
        wrong = list(option_problems(options, at=at))
        for problem in wrong:
            self._fault(problem.field, problem.message, problem.hint)
        bad = {problem.field.removeprefix(f"{at}.").partition(".")[0] for problem in wrong}
        return DeploymentConfig(name=name, **as_fields({key: v for key, v in options.items() if key not in bad}))

    def _mapping(self, value: object, at: str, known: Sequence[str] | None) -> Mapping[str, Any]:
        """Return the mapping without unknown keys. `known` None: any key."""
        if not isinstance(value, dict):
            self._fault(at, f"must be a mapping of keys to values, not {_shown(value)}", "write KEY: VALUE, indented")
            return {}
        if known is None:
            return value
        for key in value:
            if key not in known:
                path = f"{at}.{key}" if at else key
                problem = Problem(path, f"unknown key {shown(key)}", nearest(key, known))
                self.faults.append(Fault(self._document.keys[path], problem))
        return {key: value[key] for key in value if key in known}

    def _list(self, value: object, at: str) -> list[Any]:
        if not isinstance(value, list):
            self._fault(at, f"must be a list, not {_shown(value)}", "write each item on a line of its own, after '- '")
            return []
        return value

    def _text(self, found: Mapping[str, Any], key: str, at: str, *, default: str = "", stand_in: str = "") -> str:
        if key not in found:
            return default
        value = found[key]
        if not isinstance(value, str):
            hint = f'put it in quotes: "{value}"' if isinstance(value, (int, float)) else "write text"
            self._fault(f"{at}.{key}", f"must be text, not {_shown(value)}", hint)
            return stand_in
        return value

    def _texts(self, value: object, at: str) -> tuple[str, ...]:
        items = self._list(value, at)
        for i, item in enumerate(items):
            if not isinstance(item, str):
                self._fault(f"{at}[{i}]", f"must be text, not {_shown(item)}", "put it in quotes")
        return tuple(item for item in items if isinstance(item, str))

    def _number(self, found: Mapping[str, Any], key: str, at: str, allowed: Range) -> Any:
        value = found.get(key)
        if value is not None and (wrong := allowed.problem(value)):
            self._fault(f"{at}.{key}", wrong, allowed.hint)
            return None
        return value

    def _json_object(self, value: object, at: str) -> str:
        found = self._mapping(value, at, None)
        try:
            return _json(found) if found else ""
        except ValueError:
            self._fault(at, "must be JSON values, which .inf and .nan are not", "write a number, or null")
            return ""

    def _place(self, text: str) -> str:
        """Return a place of code; a path in it starts in the directory of the file."""
        return text if has_scheme(text) else posixpath.normpath(posixpath.join(self._directory, text))

    def _fault(self, field: str, message: str, hint: str = "") -> None:
        self.faults.append(Fault(self._document.place(field), Problem(field, message, hint)))


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False, sort_keys=True)


def _shown(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list():
            return "a list"
    return shown(value)
