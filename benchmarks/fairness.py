"""How evenly calls are spread over equal replicas: pure. Used by `scale_out`.

A look is what is in flight at each of them at one moment. Its max/mean is above 1 also under the best assignment there
is: calls cannot be split, and none can be moved once it runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Look = Sequence[int]
FEW = 2.0
"""Calls in flight per replica below which a look says more of beginning and end than of balancing."""


def uneven(values: Sequence[float]) -> float:
    """Return max/mean."""
    return max(values) / statistics.fmean(values)


def least_uneven(look: Look) -> float:
    """Return the least max/mean that so many calls over so many replicas can have: n calls over r, ceil(n/r)/(n/r)."""
    calls, replicas = sum(look), len(look)
    return -(-calls // replicas) * replicas / calls


def of_looks(looks: Sequence[Look]) -> dict[str, float]:
    """Sum up looks; {} if there are none with enough in flight.

    `…max_to_mean`: of the replicas' averages over time; `…of_a_look`: the mean over looks, `…at_best`: what the best
    assignment would have given in the same looks; `…most_above_even`: calls that the busiest replica had more than
    even numbers would have given it, the mean over looks.
    """
    counted = [look for look in looks if sum(look) >= FEW * len(look)]
    if not counted:
        return {}
    return {
        "looks": len(counted),
        "in_flight_a_replica": statistics.fmean(statistics.fmean(look) for look in counted),
        "in_flight_max_to_mean": uneven([statistics.fmean(each) for each in zip(*counted, strict=True)]),
        "in_flight_max_to_mean_of_a_look": statistics.fmean(map(uneven, counted)),
        "in_flight_max_to_mean_of_a_look_at_best": statistics.fmean(map(least_uneven, counted)),
        "in_flight_most_above_even": statistics.fmean(max(look) - -(-sum(look) // len(look)) for look in counted),
    }
