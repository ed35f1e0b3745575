"""When the requests of an open loop are due.

Owns the arithmetic of arrivals. Pure: chance comes in as a seed. Used by `open_loop`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """One of several processes that make the arrivals together."""

    number: int = 0
    of: int = 1


def even(rate: float, seconds: float, share: Share) -> Iterator[float]:
    """Yield the seconds after the beginning of every arrival of a share, all the same time apart over all shares."""
    number = share.number
    while (at := number / rate) < seconds:
        yield at
        number += share.of


def poisson(rate: float, seconds: float, share: Share, seed: int = 0) -> Iterator[float]:
    """Yield the same for independent arrivals: those of all shares together are so too, at `rate`."""
    chance = random.Random(f"{seed}/{share.number}/{share.of}")
    at = chance.expovariate(rate / share.of)
    while at < seconds:
        yield at
        at += chance.expovariate(rate / share.of)
