"""Runs the tools that environments are made with: git, uv, pip.

Owns how one is run: a child process whose group ends with the worker, nothing on its stdin, an environment that names
each variable, output that is bounded, passed on and without credentials. Called in threads, by those who make
environments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mesh.clock import Clock
from mesh.errors import DeployFailed
from mesh.worker.environments.listener import without_credentials
from mesh.worker.environments.work import Work
from mesh.worker.output import Output
from mesh.worker.process import EXITED_WELL, Child
from mesh.worker.spawn import Program
from mesh.worker.watchdog import Watchdog

_TAIL_LINES = 40


class ToolFailed(DeployFailed):
    """A tool did not do what it was to do; `output` is what it printed last."""

    def __init__(self, message: str, output: str) -> None:
        super().__init__(message)
        self.output = output


class Tools:
    """The tools of one worker."""

    def __init__(self, watchdog: Watchdog, clock: Clock) -> None:
        self._watchdog = watchdog
        self._clock = clock

    def run(self, command: Sequence[str], env_vars: Mapping[str, str], directory: Path, work: Work) -> str:
        """Run a tool to its end and return what it printed last. Raises ToolFailed, DeployFailed and Stopped."""
        program = Program(tuple(command), dict(env_vars), str(directory))
        ending, tail = work.wait(self._run(program, work))
        if ending != EXITED_WELL:
            raise ToolFailed(f"{Path(command[0]).name} {ending}", tail)
        return tail

    async def _run(self, program: Program, work: Work) -> tuple[str, str]:
        output = Output()

        def printed(data: bytes) -> None:
            for line in output.feed(data, self._clock.monotonic()):
                work.printed(without_credentials(line))

        child = Child(program, self._watchdog, on_output=printed, on_status=_nothing)
        try:
            ending = await child.wait()
        finally:
            await child.close()
        for line in output.end():
            work.printed(without_credentials(line))
        return ending, without_credentials(output.tail(_TAIL_LINES))


def _nothing(_: bytes) -> None:
    """Tools have no status to tell."""
