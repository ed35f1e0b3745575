"""Processes that stand still without ending: they answer nothing and keep their connections."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

_STILL_S = 10.0


def freeze(pid: int) -> None:
    """Stop a process. Returns once all of it stands still: after the signal its threads may answer for a while yet."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + _STILL_S
    while not all(_state(task) in "TtZX" for task in Path(f"/proc/{pid}/task").iterdir()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} did not stand still within {_STILL_S:g} s")
        time.sleep(0.001)


def thaw(pid: int) -> None:
    """Have a process go on that was frozen."""
    os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Freeze a process for the block. It may be killed in it."""
    freeze(pid)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            thaw(pid)


def _state(task: Path) -> str:
    """The letter of a thread's state, as in proc(5); X for one that is gone."""
    try:
        return (task / "stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
