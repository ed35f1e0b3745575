"""From a document to a Config: every field by its name, with a located fault for each that is wrong.

Owns where fields stand and how they are written. Ranges and rules are those of `serving` and `packages`. Pure; what a
file needs from around it is given in `Surroundings`. Called by `config_file`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.cli import ray_serve, requirements
from mesh.cli.config_fields import APPLICATION, CORS, DEPLOYMENT, GRPC, HTTP, REFERENCE, ROOT, RUNTIME_ENV
from mesh.cli.config_values import Config, GrpcOptions, HttpOptions
from mesh.cli.strict_yaml import Document, Fault
from mesh.cli.typed_values import Values, kind
from mesh.errors import Problem
from mesh.model import ApplicationConfig, Cors, DeploymentConfig, RuntimeEnv
from mesh.packages.place import has_scheme, place_problems
from mesh.packages.requirements import requirement_problems
from mesh.serving.cors import MAX_AGE_S, cors_problems
from mesh.serving.env_vars import env_vars_problems
from mesh.serving.options import JSON_OPTIONS, SECONDS_MAX, Range, applications_problems, as_fields, option_problems

PORT = Range(0, 65535, meaning=" (0: a free one)")
TIMEOUT = Range(0.001, SECONDS_MAX, whole=False)
REQUIREMENTS_SUFFIX = ".txt"
_PIP_HINT = "write a list of requirements, or the path of a requirements file that ends in .txt"


def _no_files(path: str) -> str:
    raise requirements.RequirementsError(f"cannot read {path} here")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a config file may name that is not in it."""

    directory: str
    """Where relative paths in the file start."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What `!env` may name."""
    text: Callable[[str], str] = _no_files
    """Returns the text of the file at a path. Raises RequirementsError."""


def read(document: Document, surroundings: Surroundings) -> tuple[Config, list[Fault]]:
    """Return what a document without faults says, and what is wrong with that."""
    reader = _Reader(document, surroundings)
    config = reader.config()
    faults = reader.values.faults
    known = {fault.problem.field for fault in faults}
    faults += [
        Fault(document.place(problem.field), _better(problem, config))
        for problem in applications_problems(config.applications)
        if problem.field not in known
    ]
    return config, faults


def _better(problem: Problem, config: Config) -> Problem:
    """Return the problem with what to write, where the file says it as one of Ray Serve's may."""
    for i, application in enumerate(config.applications):
        if problem.field == f"applications[{i}].import_path" and (
            path := ray_serve.dotted_import_path(application.import_path)
        ):
            return Problem(problem.field, problem.message, f"write {path[:200]}")
    return problem


class _Reader:
    """Reads the fields of one document, notes each fault and goes on with a stand-in that causes no other."""

    def __init__(self, document: Document, surroundings: Surroundings) -> None:
        self.values = Values(document)
        self._document = document
        self._surroundings = surroundings

    def config(self) -> Config:
        values, value = self.values, self._document.value
        if value is None:
            values.fault("", "is empty", 'it needs a list "applications"')
            return Config()
        root = values.mapping(value, "", tuple(ROOT), level="")
        if isinstance(value, dict) and "applications" not in root:
            values.fault("applications", "is missing", "applications: [] stands for none")
        applications = values.items(root.get("applications", []), "applications")
        return Config(
            self._http(root["http_options"]) if "http_options" in root else None,
            self._grpc(root["grpc_options"]) if "grpc_options" in root else None,
            tuple(self._application(value, f"applications[{i}]", i) for i, value in enumerate(applications)),
        )

    def _http(self, value: object) -> HttpOptions:
        values, at = self.values, "http_options"
        found = values.mapping(value, at, tuple(HTTP), level=at)
        return HttpOptions(
            values.text(found, "host", at) if found.get("host") is not None else None,
            values.number(found, "port", at, PORT),
            values.number(found, "request_timeout_s", at, TIMEOUT),
            self._cors(found["cors"], f"{at}.cors") if found.get("cors") is not None else None,
        )

    def _cors(self, value: object, at: str) -> Cors:
        values = self.values
        found = values.mapping(value, at, tuple(CORS))
        if isinstance(value, dict) and "allow_origins" not in found:
            values.fault(f"{at}.allow_origins", "is missing", "list the origins; [] stands for none")
        faults = len(values.faults)
        cors = Cors(
            values.texts(found.get("allow_origins", []), f"{at}.allow_origins"),
            values.texts(found.get("allow_headers", []), f"{at}.allow_headers"),
            values.number(found, "max_age_s", at, MAX_AGE_S),
            values.truth(found, "allow_credentials", at),
        )
        if len(values.faults) == faults:
            for problem in cors_problems(cors, at=at):
                values.fault(problem.field, problem.message, problem.hint)
        return cors

    def _grpc(self, value: object) -> GrpcOptions:
        found = self.values.mapping(value, "grpc_options", tuple(GRPC), level="grpc_options")
        return GrpcOptions(self.values.number(found, "port", "grpc_options", PORT))

    def _application(self, value: object, at: str, index: int) -> ApplicationConfig:
        values = self.values
        found = values.mapping(value, at, tuple(APPLICATION), level="applications")
        if isinstance(value, dict) and "import_path" not in found:
            values.fault(f"{at}.import_path", "is missing", 'name the application, as "module:app"')
        # Stand-ins differ by index, so that a wrong name is not reported as a repeated one too.
        name = values.text(found, "name", at, default="default", stand_in=f"wrong-{index}")
        if found.get("route_prefix", "/") is None:
            route = ""
        else:
            route = values.text(found, "route_prefix", at, default="/", stand_in=f"/wrong-{index}")
        if not isinstance(value, dict):
            name, route = f"wrong-{index}", f"/wrong-{index}"
        deployments = values.items(found.get("deployments", []), f"{at}.deployments")
        return ApplicationConfig(
            name=name,
            route_prefix=route,
            import_path=values.text(found, "import_path", at, default="wrong:wrong", stand_in="wrong:wrong"),
            runtime_env=self._runtime_env(found.get("runtime_env", {}), f"{at}.runtime_env"),
            args_json=values.json_object(found.get("args", {}), f"{at}.args"),
            deployments=tuple(
                self._deployment(item, f"{at}.deployments[{i}]", i) for i, item in enumerate(deployments)
            ),
            code_version=values.text(found, "code_version", at),
        )

    def _runtime_env(self, value: object, at: str) -> RuntimeEnv:
        values = self.values
        found = values.mapping(value, at, tuple(RUNTIME_ENV), level="runtime_env")
        faults = len(values.faults)
        env = RuntimeEnv(
            working_dir=self._place(values.text(found, "working_dir", at, default=".") or "."),
            py_modules=tuple(map(self._place, values.texts(found.get("py_modules", []), f"{at}.py_modules"))),
            pip=self._pip(found.get("pip", []), f"{at}.pip"),
            **self._env_vars(found.get("env_vars", {}), f"{at}.env_vars"),
        )
        known = {fault.problem.field for fault in values.faults[faults:]}
        problems = (*place_problems(env, at=at), *requirement_problems(env.pip, at=f"{at}.pip"))
        for problem in (*problems, *env_vars_problems(env, at=f"{at}.env_vars")):
            if problem.field not in known:
                values.noted(problem)
        return env

    def _pip(self, value: object, at: str) -> tuple[str, ...]:
        values = self.values
        if isinstance(value, str):
            return self._requirements(value, at)
        if not isinstance(value, list):
            values.fault(at, f"must be a list, not {kind(value)}", _PIP_HINT)
            return ()
        found = values.texts(value, at)
        if len(found) > requirements.LINES_MAX:
            values.fault(at, f"has more than {requirements.LINES_MAX} items", "list what is needed only")
        for i, text in enumerate(value):
            if isinstance(text, str) and (wrong := requirements.problem(text)):
                values.fault(f"{at}[{i}]", *wrong)
        return found

    def _requirements(self, value: str, at: str) -> tuple[str, ...]:
        if not value.endswith(REQUIREMENTS_SUFFIX) or has_scheme(value):
            self.values.fault(at, "must be a list, or the path of a file that ends in .txt", _PIP_HINT)
            return ()
        path = posixpath.normpath(posixpath.join(self._surroundings.directory, value))
        try:
            return requirements.inlined(path, self._surroundings.text)
        except requirements.RequirementsError as error:
            self.values.fault(at, error.message, error.hint)
            return ()

    def _env_vars(self, value: object, at: str) -> dict[str, dict[str, str]]:
        """Return the variables by the field of RuntimeEnv that they go to."""
        values = self.values
        plain: dict[str, str] = {}
        sources: dict[str, dict[str, str]] = {name: {} for name in REFERENCE}
        found = values.mapping(value, at, None)
        for name, item in found.items():
            if isinstance(item, str):
                plain[name] = item
                continue
            if not isinstance(item, dict):
                # A number is not shown: it may be a secret, and this goes to logs.
                wrong, mend = (", not a list", "write text") if isinstance(item, list) else ("", "put it in quotes")
                values.fault(f"{at}.{name}", f"must be text{wrong}", mend)
                continue
            reference = values.mapping(item, f"{at}.{name}", tuple(REFERENCE))
            if len(reference) == 1:
                ((key, _),) = reference.items()
                sources[key][name] = values.text(reference, key, f"{at}.{name}", stand_in="WRONG")
            elif len(item) == len(reference):
                values.fault(f"{at}.{name}", "needs one reference", "write {from_env: NAME} or {from_file: /PATH}")
        return {
            "env_vars": plain,
            "env_vars_from_env": sources["from_env"],
            "env_vars_from_file": sources["from_file"],
        }

    def _deployment(self, value: object, at: str, index: int) -> DeploymentConfig:
        values = self.values
        found = values.mapping(value, at, tuple(DEPLOYMENT), level="deployments")
        if isinstance(value, dict) and "name" not in found:
            values.fault(f"{at}.name", "is missing", "name the deployment as the code does")
        name = values.text(found, "name", at, default=f"wrong-{index}", stand_in=f"wrong-{index}")
        options: dict[str, Any] = {key: item for key, item in found.items() if key != "name" and item is not None}
        if isinstance(options.get("json"), dict):
            options["json"] = values.mapping(options["json"], f"{at}.json", JSON_OPTIONS)
        wrong = list(option_problems(options, at=at))
        for problem in wrong:
            auto = problem.field == f"{at}.num_replicas" and options["num_replicas"] == ray_serve.AUTO
            values.fault(problem.field, problem.message, ray_serve.AUTO_HINT if auto else problem.hint)
        bad = {problem.field.removeprefix(f"{at}.").partition(".")[0] for problem in wrong}
        return DeploymentConfig(name=name, **as_fields({key: v for key, v in options.items() if key not in bad}))

    def _place(self, text: str) -> str:
        """Return a place of code; a path in it starts in the directory of the file."""
        return text if has_scheme(text) else posixpath.normpath(posixpath.join(self._surroundings.directory, text))
