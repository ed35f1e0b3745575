"""Growing pauses between repeats.

Owns the arithmetic only: no clock, no randomness of its own. Used by reconnect loops and the supervisor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential pauses with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015).

    `initial_s` and `max_s` are seconds; `floor` is the share of a pause that is never jittered away (0 to 1).
    """

    initial_s: float
    max_s: float
    multiplier: float = 2.0
    floor: float = 0.0

    def pause_s(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait before repeat number `attempt` (from 0). `random` draws from [0, 1)."""
        assert attempt >= 0
        ceiling = min(self.max_s, self.initial_s * self.multiplier ** min(attempt, 64))
        return ceiling * (self.floor + (1.0 - self.floor) * random())
