"""CPU that processes spend in the time that counts: the load generator's own, and those it is told to watch.

Read by the generator itself, so that neither its start nor the opening of connections counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

import psutil

from benchmarks.latencies import Tally

CLIENT = "client"


class Watch:
    """Reads the CPU seconds of processes at the beginning and at the end of a time, into a tally."""

    def __init__(self, tally: Tally, pids: Iterable[int]) -> None:
        self._tally = tally
        self._processes = [psutil.Process(pid) for pid in pids]

    def between(self, begin: float, end: float) -> None:
        """Do so at these times of `time.perf_counter`, on the running loop."""
        loop = asyncio.get_running_loop()
        offset = loop.time() - time.perf_counter()
        loop.call_at(begin + offset, self._read, -1)
        loop.call_at(end + offset, self._read, 1)

    def _read(self, sign: int) -> None:
        spent = self._tally.cpu_s
        spent[CLIENT] = spent.get(CLIENT, 0.0) + sign * time.process_time()
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                name = str(process.pid)
                spent[name] = spent.get(name, 0.0) + sign * sum(process.cpu_times()[:2])


def pids(text: str) -> tuple[int, ...]:
    """Parse "PID,PID"."""
    return tuple(int(part) for part in text.split(",") if part)
