"""Virtual environments: made for a lock, shared by all whose requirements have the same one.

Owns the keys under which locks and environments are cached, mesh's own requirements as constraints, and how code in
such an environment finds mesh: by the worker's own site-packages, after the environment's. Requirements are resolved
once; from then on their lock is in the cache, so that a restart needs no network. Blocks: called in threads, by
`prepare`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mesh.errors import EnvironmentFailed
from mesh.packages.requirements import constrained, names, pins, url_of
from mesh.worker.environments.cache import TREE, Cache, Held
from mesh.worker.environments.installer import Installer, installer
from mesh.worker.environments.resolver import Resolver
from mesh.worker.environments.tools import ToolFailed, Tools
from mesh.worker.environments.work import Work

FIELD = "runtime_env.pip"
_LOCK = "lock.txt"
_LOCK_BYTES_MAX = 4 * 1024 * 1024
_DOWNLOADS = f"downloads-{0:064x}"
_DISTRIBUTION = "mesh-serve"
_PATH_FILE = "~mesh.pth"
"""The last one in the order in which Python reads them: what it names comes after all else."""


@dataclass(frozen=True, slots=True)
class Venv:
    """A virtual environment that is ready."""

    python: str
    pins: tuple[str, ...]
    """Requirements that make the same environment, whenever they are resolved."""
    held: tuple[Held, ...]


class Venvs:
    """The virtual environments of one worker."""

    def __init__(self, cache: Cache, resolver: Resolver, tools: Tools) -> None:
        self._cache = cache
        self._resolver = resolver
        self._tools = tools

    def ready(self, requirements: Sequence[str], work: Work) -> Venv:
        """Return an environment that has what is required. Raises EnvironmentFailed and Stopped."""
        import importlib.metadata

        constraints = constrained(importlib.metadata.requires(_DISTRIBUTION) or ())
        locked = self._locked(requirements, constraints, work)
        try:
            lock = (locked.path / TREE / _LOCK).read_text()
            exact = pins(lock)
            # They may be asked for by a replica: it must not be resolved again.
            self._cache.hold(_lock_key(exact, constraints), lambda into: _write_lock(into, lock), work).release()
            held = self._cache.hold(_key("venv", [lock, *_site_directories()]), self._maker(lock, work), work)
        except BaseException:
            locked.release()
            raise
        return Venv(str(held.path / TREE / "bin" / "python"), exact, (locked, held))

    def _locked(self, requirements: Sequence[str], constraints: Sequence[str], work: Work) -> Held:
        def make(into: Path) -> None:
            work.say(f"resolving {len(requirements)} requirements")
            (into / "requirements.in").write_text("".join(f"{line}\n" for line in requirements))
            (into / "constraints.txt").write_text("".join(f"{line}\n" for line in constraints))
            for url in map(urlsplit, filter(None, map(url_of, requirements))):
                self._resolver.addresses(url.hostname or "", url.port or 443)
            try:
                with self._installer(work) as tool:
                    tool.resolve(into / "requirements.in", into / "constraints.txt", into / _LOCK, work)
            except ToolFailed as error:
                raise _unresolved(error, constraints) from error
            _write_lock(into, (into / _LOCK).read_text())

        return self._cache.hold(_lock_key(requirements, constraints), make, work)

    @contextlib.contextmanager
    def _installer(self, work: Work) -> Iterator[Installer]:
        """Yield what installs, with a cache of its own that is an entry like any: it goes when there is no room."""
        held = self._cache.hold(_DOWNLOADS, lambda into: (into / TREE).mkdir(), work)
        try:
            yield installer(self._tools, held.path / TREE)
        finally:
            self._cache.measure(held)
            held.release()

    def _maker(self, lock: str, work: Work) -> Callable[[Path], None]:
        def make(into: Path) -> None:
            work.say(f"installing {len(pins(lock))} packages")
            (into / _LOCK).write_text(lock)
            try:
                with self._installer(work) as tool:
                    tool.install(into / _LOCK, into / TREE, work)
            except ToolFailed as error:
                text = f"packages cannot be installed: {_last_line(error.output) or error.message}"
                hint = "the worker's log has all that the installer printed"
                raise EnvironmentFailed(text, hint=hint, field=FIELD, details=error.output) from error
            _open_to_mesh(into / TREE)

        return make


def _write_lock(into: Path, lock: str) -> None:
    if len(lock) > _LOCK_BYTES_MAX:
        raise EnvironmentFailed("too many packages are needed", hint="ask for less", field=FIELD)
    (into / TREE).mkdir()
    (into / TREE / _LOCK).write_text(lock)


def _open_to_mesh(venv: Path) -> None:
    """Let code in an environment see the worker's own packages, mesh among them, after those of the environment."""
    (site,) = (venv / "lib").glob("python*/site-packages")
    lines = [f"import site; site.addsitedir({directory!r})\n" for directory in _site_directories()]
    (site / _PATH_FILE).write_text("".join(lines))


def _site_directories() -> list[str]:
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    paths += [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    return list(dict.fromkeys(paths))


def _lock_key(requirements: Sequence[str], constraints: Sequence[str]) -> str:
    return _key("lock", [sorted(requirements), list(constraints)])


def _key(kind: str, parts: list[object]) -> str:
    """Return a key for what is made from `parts` by this interpreter."""
    built_for = [sys.implementation.cache_tag, platform.machine(), sysconfig.get_platform(), sys.base_prefix]
    return f"{kind}-{hashlib.sha256(json.dumps([*built_for, parts]).encode()).hexdigest()}"


def _unresolved(error: ToolFailed, constraints: Sequence[str]) -> EnvironmentFailed:
    said = " ".join(error.output.split())
    text = f"requirements cannot be resolved: {said or error.message}"
    ours = sorted(name for name in names(constraints) if name in said)
    hint = "mend the requirements"
    if ours:
        needed = ", ".join(line for line in constraints if names([line]) & set(ours))
        hint = f"mesh runs beside the code and needs {needed}: leave room for that"
    return EnvironmentFailed(text, hint=hint, field=FIELD, details=error.output)


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2].strip()
