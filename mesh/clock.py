"""The one place where time and chance come from.

Everything else takes `now` as an argument or a `Clock`. Never sleeps.
"""

from __future__ import annotations

import functools
import os
import random as _random
import threading
import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Clock:
    """Monotonic time for durations, wall time for people, randomness for jitter and ids."""

    _rng: _random.Random = field(default_factory=_random.Random)

    monotonic = staticmethod(time.monotonic)
    """Seconds from an arbitrary point; never jumps. Several calls a request: the system's function itself."""

    def wall(self) -> float:
        """Unix time in seconds; for display and for stored timestamps only."""
        return time.time()

    def random(self) -> float:
        """A number from [0, 1)."""
        return self._rng.random()

    def request_id(self) -> str:
        """32 hex digits, unique for all practical purposes; no secret (the system's generator costs a call each)."""
        return f"{self._rng.getrandbits(128):032x}"

    def token(self, length: int = 8) -> str:
        """`length` random hex digits (4 bits each), from the system's generator."""
        return os.urandom((length + 1) // 2).hex()[:length]


def thread_wanted_s() -> float:
    """Seconds in which the calling thread has computed or waited for a processor; where only that is known, computed.

    The kernel's own count: proc(5), /proc/pid/schedstat. Costs two microseconds.
    """
    if (schedstat := _schedstat(threading.get_ident())) < 0:
        return time.thread_time()
    computed, waited, _ = os.pread(schedstat, 128, 0).split()
    return (int(computed) + int(waited)) / 1e9


@functools.lru_cache(maxsize=64)
def _schedstat(_: int) -> int:
    """Return a descriptor of the calling thread's file, which stays open; -1: there is none."""
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


SYSTEM = Clock()
