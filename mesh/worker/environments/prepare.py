"""Makes environments ready: all that an application's code needs around it, before a build or replica is started.

Owns which pieces an environment has, that one piece of work serves all who want the same, and how long what it made is
held. Never blocks the event loop: the work is done in threads and child processes. Called by the builds and the
supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from mesh.errors import EnvironmentFailed, MeshError
from mesh.lifecycle import Tasks
from mesh.model import RuntimeEnv
from mesh.packages.place import parse, places, render
from mesh.worker.environments.cache import Cache, Held
from mesh.worker.environments.environment import Environment, in_place, located
from mesh.worker.environments.fetch import Fetcher
from mesh.worker.environments.venvs import FIELD, Venv, Venvs
from mesh.worker.environments.work import Stopped, Told, Work

log = logging.getLogger("mesh.worker")

_THREADS = 8
_Key = tuple[str, tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An environment that is ready, and stays so until it is released."""

    environment: Environment
    held: tuple[Held, ...] = ()

    def again(self) -> Prepared:
        """Return another hold of the same."""
        return replace(self, held=tuple(held.again() for held in self.held))

    def release(self) -> None:
        """It is not used any more. Repeating it changes nothing."""
        for held in self.held:
            held.release()


class _Audience:
    """All who wait for one piece of work (`work.Told`)."""

    def __init__(self) -> None:
        self._doing = ""
        self._listeners: list[Told] = []

    def __len__(self) -> int:
        return len(self._listeners)

    def join(self, listener: Told) -> None:
        """Tell one more, first what goes on now."""
        self._listeners.append(listener)
        if self._doing:
            listener.doing(self._doing)

    def leave(self, listener: Told) -> None:
        """Tell one less."""
        self._listeners.remove(listener)

    def doing(self, text: str) -> None:
        """A step begins."""
        self._doing = text
        for listener in self._listeners:
            listener.doing(text)

    def printed(self, line: str) -> None:
        """A tool printed a line. One is enough to log it."""
        for listener in self._listeners[:1]:
            listener.printed(line)

    def warned(self, text: str) -> None:
        """Something is worth to be mended."""
        for listener in self._listeners[:1]:
            listener.warned(text)


@dataclass(frozen=True, slots=True)
class _Going:
    """One piece of work and who waits for it."""

    work: Work
    audience: _Audience
    task: asyncio.Task[Prepared | EnvironmentFailed]


class Environments:
    """The environments of one worker."""

    def __init__(self, cache: Cache, fetcher: Fetcher, venvs: Venvs, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        """How long it may take whoever waits for one."""
        self._cache = cache
        self._fetcher = fetcher
        self._venvs = venvs
        self._going: dict[_Key, _Going] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="environment")
        self._tasks = Tasks()

    def start(self) -> None:
        """Tidy the cache up, if there is one."""
        self._collect()

    async def close(self) -> None:
        """Stop all work and wait until it has ended."""
        for going in self._going.values():
            going.work.stop()
        await self._tasks.cancel()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def prepare(self, env: RuntimeEnv, listener: Told) -> Prepared:
        """Return an environment that is ready; `listener` is told what goes on meanwhile.

        Whoever gets one releases it. Cancelling ends the work, unless others wait for the same. Raises
        EnvironmentFailed.
        """
        if (ready := in_place(env)) is not None:
            return Prepared(ready)
        key = (env.working_dir, env.py_modules, env.pip)
        if (going := self._going.get(key)) is None:
            audience = _Audience()
            work = Work(audience)
            going = _Going(work, audience, self._tasks.spawn(self._run(env, work), name="environment"))
            self._going[key] = going
        going.audience.join(listener)
        try:
            prepared = await asyncio.shield(going.task)
            if isinstance(prepared, EnvironmentFailed):
                raise _same(prepared)
            # The variables are those of each who asks; what is fetched and built does not depend on them.
            return replace(prepared.again(), environment=_with_variables(prepared.environment, env))
        finally:
            going.audience.leave(listener)
            if not going.audience:
                self._leave(key, going)

    def _leave(self, key: _Key, going: _Going) -> None:
        """The last one who waited has what it wants, or wants it no more."""
        if self._going.get(key) is going:
            del self._going[key]
        going.work.stop()
        going.task.add_done_callback(_release)

    async def _run(self, env: RuntimeEnv, work: Work) -> Prepared | EnvironmentFailed:
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._threads, self._make, env, work)
        try:
            # Not cancelled with this task: the thread has to end first, and free what it holds.
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            work.stop()
            with contextlib.suppress(MeshError, Stopped):
                (await done).release()
            raise
        except EnvironmentFailed as error:
            return error
        except Stopped:
            return EnvironmentFailed("it was not wanted any more")
        except Exception as error:
            log.exception("an environment could not be made ready")
            return EnvironmentFailed(f"{type(error).__name__}: {error}", hint="the worker's log has more")
        finally:
            self._collect()

    def _make(self, env: RuntimeEnv, work: Work) -> Prepared:
        """Run in a thread."""
        work.check()
        held: list[Held] = []
        try:
            paths, resolved = self._places(env, work, held)
            venv = self._venv(env, work, held)
            more = tuple(path for path in map(Path, paths.values()) for path in _of_wheel(path))
            environment = Environment(
                located(env, paths, tuple(map(str, more))),
                replace(_resolved(env, resolved), pip=venv.pins if venv is not None else ()),
                venv.python if venv is not None else "",
            )
        except BaseException:
            for each in held:
                each.release()
            raise
        return Prepared(environment, tuple(held))

    def _places(self, env: RuntimeEnv, work: Work, held: list[Held]) -> tuple[dict[str, str], dict[str, str]]:
        paths: dict[str, str] = {}
        resolved: dict[str, str] = {}
        for name, text in places(env):
            with _blamed(f"runtime_env.{name}"):
                fetched = self._fetcher.fetch(parse(text), work)
            if fetched.held is not None:
                held.append(fetched.held)
            paths[name] = str(fetched.directory)
            resolved[name] = text if parse(text) == fetched.place else render(fetched.place)
        return paths, resolved

    def _venv(self, env: RuntimeEnv, work: Work, held: list[Held]) -> Venv | None:
        if not env.pip:
            return None
        with _blamed(FIELD):
            venv = self._venvs.ready(env.pip, work)
        held.extend(venv.held)
        return venv

    def _collect(self) -> None:
        with contextlib.suppress(RuntimeError):  # the threads are shut down
            self._threads.submit(self._cache.collect)


def _same(error: EnvironmentFailed) -> EnvironmentFailed:
    """Return another one like it: each who waits raises one of its own."""
    return EnvironmentFailed(error.message, hint=error.hint, field=error.field, details=error.details)


def _of_wheel(directory: Path) -> list[Path]:
    """Return the further directories of an unpacked wheel that belong on the import path."""
    return sorted(path for path in directory.glob("*.data/*lib") if path.name in ("purelib", "platlib"))


def _release(task: asyncio.Task[Prepared | EnvironmentFailed]) -> None:
    if not task.cancelled() and isinstance(prepared := task.result(), Prepared):
        prepared.release()


def _resolved(env: RuntimeEnv, by_field: dict[str, str]) -> RuntimeEnv:
    modules = tuple(by_field[name] for name, _ in places(env) if name != "working_dir")
    return replace(env, working_dir=by_field.get("working_dir", ""), py_modules=modules)


def _with_variables(environment: Environment, env: RuntimeEnv) -> Environment:
    def own(other: RuntimeEnv) -> RuntimeEnv:
        return replace(
            other,
            env_vars=env.env_vars,
            env_vars_from_env=env.env_vars_from_env,
            env_vars_from_file=env.env_vars_from_file,
        )

    return replace(environment, runtime_env=own(environment.runtime_env), resolved=own(environment.resolved))


@contextlib.contextmanager
def _blamed(field_path: str) -> Iterator[None]:
    """Name the field of the config to whatever fails within the block, unless it has one."""
    try:
        yield
    except EnvironmentFailed as error:
        error.field = error.field or field_path
        raise
    except MeshError as error:
        raise EnvironmentFailed(error.message, hint=error.hint, field=field_path) from error
    except OSError as error:
        text = f"the worker's disk does not take it: {error.strerror or error}"
        raise EnvironmentFailed(text, field=field_path, hint="make room there") from error
