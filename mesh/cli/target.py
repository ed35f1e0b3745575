"""What `run` is given: a config file, or an import path with arguments. Becomes a Config either way.

Owns how the two are told apart and the defaults of an import path. Never imports user code. Called by `local` and
`build`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mesh.cli import config_file
from mesh.cli.config_file import Config, ConfigFile
from mesh.errors import InvalidConfig, Problem
from mesh.model import ApplicationConfig, RuntimeEnv
from mesh.serving.options import applications_problems, shown

_FILE_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Asked:
    """The words of a `run` command. None: the flag was not given."""

    target: str
    arguments: tuple[str, ...] = ()
    name: str | None = None
    route_prefix: str | None = None
    working_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What to run. `file` is set if it came from a config file."""

    config: Config
    file: ConfigFile | None
    directories: tuple[Path, ...]
    """Where its code is, and its config file."""

    def marked(self, code_version: str) -> Target:
        """Return the same with another mark of its code, run so that no stale bytecode can stand in for it."""
        applications = tuple(
            replace(
                application,
                code_version=code_version,
                runtime_env=replace(
                    application.runtime_env,
                    env_vars={"PYTHONDONTWRITEBYTECODE": "1", **application.runtime_env.env_vars},
                ),
            )
            for application in self.config.applications
        )
        return replace(self, config=replace(self.config, applications=applications))


def read(asked: Asked) -> Target:
    """Return the target. Raises InvalidConfig, and NotFound for a config file that is not there."""
    if is_file(asked.target):
        return _from_file(asked)
    return from_import_path(asked)


def flag(field: str) -> str:
    """Return the word of the command line that stands for a field of an application's config."""
    flags = {
        "name": "--name",
        "route_prefix": "--route-prefix",
        "import_path": "TARGET",
        "args": "KEY=VALUE",
        "runtime_env.working_dir": "--working-dir",
    }
    return flags.get(field, field)


def is_file(target: str) -> bool:
    """Whether a target names a config file, there or not, rather than an import path."""
    if target.lower().endswith(_FILE_SUFFIXES):
        return True
    return ":" not in target and not target.endswith(".py") and Path(target).is_file()


def _from_file(asked: Asked) -> Target:
    flags = {
        "key=value": asked.arguments,
        "--name": asked.name,
        "--route-prefix": asked.route_prefix,
        "--working-dir": asked.working_dir,
    }
    if given := [flag for flag, value in flags.items() if value not in (None, ())]:
        text = f"{', '.join(given)} cannot be used with a config file"
        raise InvalidConfig((Problem("", text, f"write it in {asked.target}"),))
    path = Path(asked.target)
    file = config_file.read(path)
    if not file.config.applications:
        raise file.located(InvalidConfig((Problem("applications", "has nothing to run", "list an application there"),)))
    places = [path.resolve().parent]
    for application in file.config.applications:
        env = application.runtime_env
        places += [Path(place) for place in (env.working_dir, *env.py_modules)]
    return Target(file.config, file, tuple(dict.fromkeys(place for place in places if place.is_dir())))


def from_import_path(asked: Asked) -> Target:
    """Return the target that an import path names. Raises InvalidConfig."""
    _refuse_file_name(asked.target)
    directory = (Path.cwd() / (asked.working_dir or ".")).resolve()
    if not directory.is_dir():
        text = f"{directory} is not a directory"
        raise InvalidConfig((Problem("--working-dir", text, "name the directory to import from"),))
    application = ApplicationConfig(
        name="default" if asked.name is None else asked.name,
        route_prefix="/" if asked.route_prefix is None else asked.route_prefix,
        import_path=asked.target,
        runtime_env=RuntimeEnv(working_dir=str(directory)),
        args_json=_arguments_json(asked.arguments),
    )
    problems = tuple(
        replace(problem, field=flag(problem.field.partition(".")[2]))
        for problem in applications_problems([application])
    )
    if problems:
        raise InvalidConfig(problems)
    return Target(Config(applications=(application,)), None, (directory,))


def _refuse_file_name(target: str) -> None:
    module, _, attribute = target.partition(":")
    if module.endswith(".py"):
        better = f"{module.removesuffix('.py').strip('./').replace('/', '.')}:{attribute or 'app'}"
        text = f"{shown(target)} names a file; an import path names a module and an attribute"
        raise InvalidConfig((Problem("TARGET", text, f"write {better}"),))


def _arguments_json(arguments: Sequence[str]) -> str:
    """Return key=value words as a JSON object of texts; empty without any."""
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise InvalidConfig((Problem("", f"{shown(argument)} is not an argument", "write KEY=VALUE"),))
        if key in values:
            raise InvalidConfig((Problem("", f"argument {shown(key)} stands twice", "leave one of the two out"),))
        values[key] = value
    return json.dumps(values, sort_keys=True) if values else ""
