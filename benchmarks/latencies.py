"""What a load generator saw, and how it is summed up.

Owns tallies, their merging over processes and percentiles. Exact: every latency is kept. Pure: no clock, no sockets.
Used by the load generators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

UNANSWERED = 0
"""Stands for the status of a request that was given up: how long it was waited for counts as its latency."""
PER_MILLE = {"p50_ms": 500, "p90_ms": 900, "p99_ms": 990, "p999_ms": 999}


def percentile(ordered: Sequence[float], per_mille: int) -> float:
    """Return the nearest-rank percentile of what is sorted and not empty: that share of all is no greater."""
    return ordered[max(0, -(-len(ordered) * per_mille // 1000) - 1)]


def percentiles(latencies: Iterable[float]) -> dict[str, float]:
    """Return p50, p90, p99 and p99.9 in ms of latencies in seconds; nothing for none."""
    ordered = sorted(latencies)
    if not ordered:
        return {}
    return {name: round(percentile(ordered, share) * 1000, 3) for name, share in PER_MILLE.items()}


@dataclass(slots=True)
class Tally:
    """Latencies in seconds by status, of the requests that count; and how many of what else was seen."""

    latencies: dict[int, list[float]] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)
    """Seconds between when each request was due and when it was sent; of an open loop."""
    completed: Counter[int] = field(default_factory=Counter)
    """Answers by status that became whole while it counted: rates follow from these."""
    seen: Counter[str] = field(default_factory=Counter)
    """Anything else, by name."""
    cpu_s: dict[str, float] = field(default_factory=dict)
    """CPU seconds spent while it counted, by process; those of generators are one."""

    def add(self, status: int, seconds: float) -> None:
        """Note an answer whose latency counts."""
        self.latencies.setdefault(status, []).append(seconds)

    def merge(self, other: Tally) -> None:
        """Take in what another process saw."""
        for status, latencies in other.latencies.items():
            self.latencies.setdefault(status, []).extend(latencies)
        self.late.extend(other.late)
        self.completed.update(other.completed)
        self.seen.update(other.seen)
        for name, spent in other.cpu_s.items():
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + spent

    def figures(self, seconds: float) -> dict[str, Any]:
        """Return rates over `seconds`, and percentiles, over all statuses and for each."""
        every = [latency for latencies in self.latencies.values() for latency in latencies]
        rate = round(self.completed.total() / seconds, 1)
        result: dict[str, Any] = {"seconds": round(seconds, 3), "requests": len(every), "per_second": rate}
        result.update(percentiles(every))
        result["by_status"] = {
            str(status): {
                "requests": len(self.latencies.get(status, ())),
                "per_second": round(self.completed[status] / seconds, 1),
                **percentiles(self.latencies.get(status, ())),
            }
            for status in sorted({*self.latencies, *self.completed})
        }
        if self.late:
            result["late"] = percentiles(self.late)
        cpu_s = {name: round(spent, 4) for name, spent in self.cpu_s.items()}
        return {**result, "completed": self.completed.total(), "cpu_s": cpu_s, **dict(sorted(self.seen.items()))}
