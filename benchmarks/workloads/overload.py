"""More requests than can be served, in an open loop: what is served nevertheless, and how late.

Two ways: a deployment that can serve 500 a second whatever the machine, which leaves the processors half idle, and one
that does nothing, whose peak is what the machine can do. Whatever is answered otherwise than with 200 or 503 ends it.
"""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.generators import CPU, Run, Way, closed, interleaved, opened, summed_up
from benchmarks.report import medians, ratio
from benchmarks.trees import Served

RUNS = 5
SECONDS = 1.0
AT_ONCE = 20
"""As many as may run and wait of the one that waits: for the peak."""
QUEUE_BUDGET_MS = 20.0
GOODPUT_GOALS = {2: 0.98, 10: 0.95}
BOUNDED = 200
"""As many as may run and wait of the one that does nothing."""
ARRIVING = {"processes": 2, "connections": 512, "deadline": 2.0}
"""Clients of that: several times what is admitted, and no generator alone brings so many."""


def overload(mesh: Served) -> dict[str, Any]:
    """The peak in a closed loop, then 70 %, 2 times and 10 times of it, at random times.

    Served by one replica that can serve 500 a second (10 at a time for 20 ms each) with a queue of 10, so 20 ms.
    """
    rounds = _Rounds(mesh, "/slow", at_once=AT_ONCE, arriving={"deadline": 2.0})
    ways: dict[str, Way] = {
        "peak": rounds.peak,
        "load_70_percent": functools.partial(rounds.open, 0.7),
        **{f"overload_{times}x": functools.partial(rounds.open, times) for times in GOODPUT_GOALS},
    }
    taken = interleaved(ways, RUNS)
    usual = _told(taken["load_70_percent"])
    bound = QUEUE_BUDGET_MS + 2 * usual["admitted"]["p99_ms"]
    results: dict[str, Any] = {"overload_peak": summed_up(taken["peak"]), "load_70_percent": usual}
    for times, goal in GOODPUT_GOALS.items():
        runs = taken[f"overload_{times}x"]
        told = _told(runs)
        told["goodput_of_peak"] = ratio([run["admitted"] for run in runs], taken["peak"])
        told["goodput_of_peak_goal"] = goal
        told["admitted_p99_ms_bound"] = round(bound, 3)
        results[f"overload_{times}x"] = told
    return results


def overload_of_all(mesh: Served) -> dict[str, Any]:
    """The same for a replica that does nothing, 100 at a time and 100 waiting: the peak takes all of the machine.

    The generators take of it too: twice the peak leaves mesh less of the processors than the peak did.
    """
    rounds = _Rounds(mesh, "/bounded", at_once=BOUNDED, arriving=ARRIVING)
    closed(mesh, "/bounded", connections=BOUNDED, seconds=SECONDS)
    ways: dict[str, Way] = {"peak": rounds.peak, "overload_2x": functools.partial(rounds.open, 2.0)}
    taken = interleaved(ways, RUNS)
    over = _told(taken["overload_2x"])
    over["goodput_of_peak"] = ratio([run["admitted"] for run in taken["overload_2x"]], taken["peak"])
    return {"overload_of_all_peak": summed_up(taken["peak"]), "overload_of_all_2x": over}


class _Rounds:
    """Runs at multiples of the peak that was measured last."""

    def __init__(self, mesh: Served, path: str, *, at_once: int, arriving: dict[str, Any]) -> None:
        self._mesh = mesh
        self._path = path
        self._at_once = at_once
        self._arriving = arriving
        self._peak = 0.0

    def peak(self) -> Run:
        run = closed(self._mesh, self._path, connections=self._at_once, seconds=SECONDS)
        self._peak = float(run["per_second"])
        return run

    def open(self, times: float) -> Run:
        return opened(self._mesh, self._path, rate=times * self._peak, seconds=SECONDS, **self._arriving)


def _told(taken: list[Run]) -> dict[str, Any]:
    keys = ("per_second", "p50_ms", "p99_ms", "p999_ms")
    lost = ("requests", "broken", "dropped", "timed_out")
    return {
        "admitted": medians([run["admitted"] for run in taken], keys),
        "shed": medians([run["shed"] for run in taken], keys),
        "sent_late_p99_ms": medians([run["late"] for run in taken], ("p99_ms",))["p99_ms"],
        **{name: sum(run[name] for run in taken) for name in lost},
        **medians(taken, CPU),
    }
