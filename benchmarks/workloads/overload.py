"""More requests than can be served, in an open loop: what is served nevertheless, and how late.

Served by one replica that can serve 500 a second (10 at a time for 20 ms each) with a queue of 10, so 20 ms.
"""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.generators import CPU, Run, Way, closed, interleaved, opened, summed_up
from benchmarks.report import medians, ratio
from benchmarks.trees import Served

RUNS = 5
SECONDS = 1.5
AT_ONCE = 20
"""As many as may run and wait: for the peak."""
QUEUE_BUDGET_MS = 20.0
GOODPUT_GOALS = {2: 0.98, 10: 0.95}


def overload(mesh: Served) -> dict[str, Any]:
    """The peak in a closed loop, then 70 %, 2 times and 10 times of it, at random times."""
    rounds = _Rounds(mesh)
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


class _Rounds:
    """Runs at multiples of the peak that was measured last."""

    def __init__(self, mesh: Served) -> None:
        self._mesh = mesh
        self._peak = 0.0

    def peak(self) -> Run:
        run = closed(self._mesh, "/slow", connections=AT_ONCE, seconds=SECONDS)
        self._peak = float(run["per_second"])
        return run

    def open(self, times: float) -> Run:
        return opened(self._mesh, "/slow", rate=times * self._peak, seconds=SECONDS, deadline=2.0)


def _told(taken: list[Run]) -> dict[str, Any]:
    keys = ("per_second", "p50_ms", "p99_ms", "p999_ms")
    lost = ("broken", "dropped", "timed_out")
    return {
        "admitted": medians([run["admitted"] for run in taken], keys),
        "shed": medians([run["shed"] for run in taken], keys),
        "sent_late_p99_ms": medians([run["late"] for run in taken], ("p99_ms",))["p99_ms"],
        **{name: sum(run[name] for run in taken) for name in lost},
        **medians(taken, CPU),
    }
