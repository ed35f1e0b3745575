"""Processes launched before it is known what they are for: a build and a replica, which load their code meanwhile.

Owns them until one is taken, which is until there is something to run that would be launched just so, or until none is
needed any more. A process waits for its first message anyway: one launched ahead gets it later and enters its working
directory then, and no code that it runs can tell. Nothing of a user's runs in it before. Called by the commands `run`
and `start`, which launch them first of all, and by `process`, which takes them.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from mesh.worker.spawn import BUILD, REPLICA, Image, Launch, Spawned, replica_arguments

UNUSED_S = 10.0
"""Seconds after which one that nothing was found for is ended."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    image: Image
    spawned: Spawned


class Ahead:
    """The processes that wait, at most one of each module. They end with this."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._waiting)

    def launch(self, host: str) -> None:
        """Launch a build, and a replica that is to listen on `host`. Once, and from the main thread."""
        for launch in (Launch(BUILD), Launch(REPLICA, arguments=replica_arguments(host))):
            # Whoever needs one then launches it, and tells why that cannot be.
            with contextlib.suppress(OSError, ValueError):
                self._waiting[launch.module] = _Waiting(launch.image(), Spawned(launch))

    def take(self, launch: Launch) -> Spawned | None:
        """Return a process that stands for one launched now, in the caller's hands from here on; None if none does."""
        waiting = self._waiting.get(launch.module)
        if waiting is None or not fits(waiting.image, launch.image(), launch.working_dir):
            return None
        del self._waiting[launch.module]
        if waiting.spawned.process.poll() is None and _enterable(launch.working_dir):
            return waiting.spawned
        _end(waiting.spawned)
        return None

    def close(self) -> None:
        """End those that wait still, if any."""
        while self._waiting:
            _end(self._waiting.popitem()[1].spawned)


def fits(waiting: Image, wanted: Image, working_dir: str) -> bool:
    """Whether a process started as `waiting`, where this process is, can stand for `wanted` started in `working_dir`.

    It can enter the directory itself, unless the interpreter made something of that at its start: relative places of
    modules.
    """
    if waiting != wanted:
        return False
    if not working_dir:
        return True
    places = wanted.environment.get("PYTHONPATH", "")
    return os.path.isabs(working_dir) and (not places or all(map(os.path.isabs, places.split(os.pathsep))))


def _enterable(working_dir: str) -> bool:
    return not working_dir or (os.path.isdir(working_dir) and os.access(working_dir, os.X_OK))


def _end(spawned: Spawned) -> None:
    spawned.process.kill()
    spawned.process.wait()
    spawned.close()
