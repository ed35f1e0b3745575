"""Runs one load generator in several processes that begin at once.

Owns the processes and the common beginning: each gets ready (opens its connections), then all begin. The processes
are forks, end with their parent, and are killed when time is up.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import uvloop

from benchmarks.latencies import Tally
from benchmarks.schedule import Share

READY_S = 60.0
SOON_S = 0.02
"""Between the last one's being ready and the common beginning."""
_PR_SET_PDEATHSIG = 1


class Start:
    """Makes processes begin at one time."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("fork")
        self._at = context.Value("d", 0.0, lock=False)
        self._barrier: Barrier = context.Barrier(count, action=self._set)

    def wait(self) -> float:
        """Block until all are ready; return when to begin, as `time.perf_counter` says it in all processes."""
        self._barrier.wait(READY_S)
        return float(self._at.value)

    def _set(self) -> None:
        self._at.value = time.perf_counter() + SOON_S


Work = Callable[[Share, Start], Coroutine[Any, Any, Tally]]


def run(work: Work, processes: int, limit_s: float) -> Tally:
    """Run a share of the work in each process and return what all saw together. Raises SystemExit if one fails."""
    allow_many_files()
    start = Start(processes)
    if processes == 1:
        return uvloop.run(work(Share(), start))
    context = multiprocessing.get_context("fork")
    children = []
    try:
        for number in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(work, Share(number, processes), start, theirs, os.getpid()))
            child.start()
            theirs.close()
            children.append((child, ours))
        whole = Tally()
        ends = time.monotonic() + limit_s
        for _, ours in children:
            if not ours.poll(max(0.0, ends - time.monotonic())):
                raise SystemExit("a process of the load generator did not end in time")
            with contextlib.suppress(EOFError):
                whole.merge(ours.recv())
                continue
            raise SystemExit("a process of the load generator failed")
        return whole
    finally:
        for child, _ in children:
            child.join(1)
            if child.is_alive():
                child.kill()


def allow_many_files() -> None:
    """Let this process open as many connections as the system lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def die_with(parent_pid: int) -> None:
    """Have the kernel end this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def _child(work: Work, share: Share, start: Start, to_parent: Connection, parent_pid: int) -> None:
    die_with(parent_pid)
    to_parent.send(uvloop.run(work(share, start)))
