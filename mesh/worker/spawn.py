"""Starts the processes of a worker: what the kernel is told, and the three pipes that each of them has.

Owns command and environment. Knows no event loop and loads little, for it is the first that `run` and `start` need.
Started from the main thread only: the kernel ends a process with the thread that started it. Called by `process` and
`ahead`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh import settings
from mesh.worker.launch import Surroundings, framed

BUILD = "mesh.worker.build"
REPLICA = "mesh.worker.replica"


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start: a module of mesh, its arguments and the message on its stdin."""

    module: str
    payload: bytes = b""
    arguments: tuple[str, ...] = ()
    python: str = ""
    """The interpreter; "": that of this process."""
    working_dir: str = ""
    env_vars: Mapping[str, str] = field(default_factory=dict)
    surroundings: Surroundings | None = None
    """For a process that listens, in a second message."""

    def image(self) -> Image:
        """Return what its process is started as, now."""
        python = self.python or sys.executable
        # -P: the directory a user's code lies in must not shadow what mesh itself imports.
        command = (python, "-P", "-m", self.module, "--parent", str(os.getpid()), *self.arguments)
        return Image(command, {**_environment(self.python), **self.env_vars, "PYTHONUNBUFFERED": "1"})

    def messages(self) -> bytes:
        """Return what to write to its stdin."""
        second = framed(self.surroundings.message()) if self.surroundings is not None else b""
        return framed(self.payload) + second


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: a program that knows nothing of mesh. Its environment is what is given here and nothing else."""

    command: tuple[str, ...]
    env_vars: Mapping[str, str]
    working_dir: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """What a process is started as, but for its working directory and the number of its status descriptor."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


def replica_arguments(host: str) -> tuple[str, ...]:
    """Return the arguments of a replica that listens on `host`."""
    return ("--host", host)


class Spawned:
    """A process that was started, and this side's ends of its pipes: stdin, output (both streams), status."""

    def __init__(self, launch: Launch | Program) -> None:
        """Start it, as the leader of a session of its own. Raises OSError or ValueError, and leaves nothing behind."""
        stdin, self.stdin = os.pipe()
        self.output, output = os.pipe()
        self.status, status = os.pipe()
        try:
            self.process = _start(launch, stdin, output, status)
        except BaseException:
            self.close()
            raise
        finally:
            for fd in (stdin, output, status):
                os.close(fd)

    def close(self) -> None:
        """Close the pipes."""
        for fd in (self.stdin, self.output, self.status):
            os.close(fd)


def _start(launch: Launch | Program, stdin: int, output: int, status: int) -> subprocess.Popen[bytes]:
    ours = isinstance(launch, Launch)
    image = launch.image() if isinstance(launch, Launch) else Image(launch.command, launch.env_vars)
    return subprocess.Popen(
        (*image.command, "--status-fd", str(status)) if ours else image.command,
        stdin=stdin,
        stdout=output,
        stderr=output,
        pass_fds=(status,) if ours else (),
        cwd=launch.working_dir or None,
        env=dict(image.environment),
        start_new_session=True,
    )


def _environment(python: str) -> dict[str, str]:
    own = dict(settings.child_environment())
    if python:  # what is installed beside it is found first
        directory = os.path.dirname(python)
        own |= {"PATH": f"{directory}:{own.get('PATH', os.defpath)}", "VIRTUAL_ENV": os.path.dirname(directory)}
    return own
