"""What an environment is once it is ready, and which ones have to be made ready at all.

Owns the value that a build or a replica is launched with. Never fetches or builds anything. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mesh.model import RuntimeEnv
from mesh.packages.place import InPlace, is_in_place, parse, places


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment that is ready."""

    runtime_env: RuntimeEnv
    """With directories of this host in the place of all places, and no requirements left to be installed."""
    resolved: RuntimeEnv
    """What made it: the same wherever and whenever it is made again."""
    python: str = ""
    """The interpreter to run; "": the worker's own."""


def in_place(env: RuntimeEnv) -> Environment | None:
    """Return the environment if all of it is on this host already, None if something has to be fetched or built."""
    if not is_in_place(env):
        return None
    found = {field: parse(text) for field, text in places(env)}
    paths = {field: place.path for field, place in found.items() if isinstance(place, InPlace)}
    return Environment(located(env, paths), env)


def located(env: RuntimeEnv, paths: Mapping[str, str], more: tuple[str, ...] = ()) -> RuntimeEnv:
    """Return an environment with the directory of each place, by field; `more` follow on the import path."""
    modules = tuple(paths[field] for field, _ in places(env) if field != "working_dir")
    return replace(env, working_dir=paths.get("working_dir", ""), py_modules=(*modules, *more), pip=())
