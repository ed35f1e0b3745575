"""Tells which part got slower than a baseline: pure. Used by `benchmarks.guard`.

A figure of a part is a ratio: its time over that of a reference work in the same process. Ratios of several processes
give a figure and how far one process strays from another; what is called slower must be beyond that. Counts of what a
request does are the same each time: one more of anything is a finding, but for instructions and bytes, which may vary a
little with what is around.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TOLERATED = 1.1
"""Times the baseline that a part may take at any rate."""
SPREADS = 3.0
"""So many times its spread, where that is more."""
COUNTS_TOLERATED = {"instructions": 1.01, "bytes of memory": 1.05}
"""Times the baseline of these counts; of all others not one more."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What is known of a part: the median of its ratios, and how far the upper quartile is above it, as a share."""

    ratio: float
    spread: float

    @property
    def allowed(self) -> float:
        """Times `ratio` that another measurement may be."""
        return max(TOLERATED, 1.0 + SPREADS * self.spread)


@dataclass(frozen=True, slots=True)
class Change:
    """A part beside the baseline. `times`: how often its old time it takes now."""

    part: str
    times: float
    allowed: float

    @property
    def slower(self) -> bool:
        """Whether it is beyond what is allowed."""
        return self.times > self.allowed


def figure(ratios: Sequence[float]) -> Figure:
    """Sum up the ratios of one part, one from each process. There must be one at least."""
    median = statistics.median(ratios)
    return Figure(median, sorted(ratios)[3 * len(ratios) // 4] / median - 1.0)


def changes(baseline: Mapping[str, Figure], measured: Mapping[str, Sequence[float]]) -> list[Change]:
    """Compare the medians of what is in both, the most slowed first."""
    found = [
        Change(part, statistics.median(ratios) / baseline[part].ratio, baseline[part].allowed)
        for part, ratios in measured.items()
        if part in baseline
    ]
    return sorted(found, key=lambda change: change.times / change.allowed, reverse=True)


def unknown(baseline: Mapping[str, Figure], measured: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the parts that only one of both has: the baseline is of other code, and must be renewed."""
    return sorted(baseline.keys() ^ measured.keys())


def least(before: Mapping[str, Sequence[float]], again: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return of each part that was measured twice the ratios whose median is lower.

    What else runs on a machine makes things slower, never faster: a part is slower only if it is so each time.
    """
    return {
        part: list(min(before[part], ratios, key=statistics.median)) for part, ratios in again.items() if part in before
    }


def line(change: Change) -> str:
    """Say it in a line."""
    return f"{change.part}: {change.times:.2f} × the baseline's time (allowed: {change.allowed:.2f} ×)"


Counts = Mapping[str, Mapping[str, float]]
"""What a request does, by kind of request and name."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A count that is not what it was. `part_of` a total that is judged itself: it says where that comes from."""

    request: str
    what: str
    before: float
    now: float

    @property
    def part_of(self) -> str:
        """The total that this is a part of, or ""."""
        total = self.what.partition(":")[0]
        return total if total in COUNTS_TOLERATED and total != self.what else ""

    @property
    def grown(self) -> bool:
        """Whether it is beyond what is allowed."""
        return not self.part_of and self.now > self.before * COUNTS_TOLERATED.get(self.what, 1.0)

    def __str__(self) -> str:
        return f"{self.request}: {self.what}: {self.before:g} → {self.now:g} a request"


def differences(baseline: Counts, counted: Counts) -> list[Difference]:
    """Return what differs in kinds of requests that are in both."""
    found = (
        Difference(request, what, before.get(what, 0), now.get(what, 0))
        for request, before in baseline.items()
        for now in (counted.get(request, before),)
        for what in sorted(before.keys() | now.keys())
    )
    return [each for each in found if each.before != each.now]
