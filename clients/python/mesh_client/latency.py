"""How long answers of a target took of late, and so when a second attempt beside a slow one makes sense.

Owns a bounded window of samples. Pure. Called by `target`.
"""

from __future__ import annotations

from collections import deque

from mesh_client.policy import Hedge

SAMPLES_MAX = 256
RECOUNT = 16
"""New samples after which the quantile is taken anew: sorting costs more than a call of it is worth."""


class Latencies:
    """Seconds that the last answers took."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._fresh = 0
        self._known: float | None = None

    def add(self, seconds: float) -> None:
        """Note one answer."""
        self._samples.append(seconds)
        self._fresh += 1

    def hedge_after_s(self, hedge: Hedge) -> float | None:
        """Return the seconds after which to send a second attempt; None: not known yet."""
        if hedge.after_s is not None:
            return max(hedge.min_s, hedge.after_s)
        if len(self._samples) < hedge.samples_min:
            return None
        if self._known is None or self._fresh >= RECOUNT:
            ordered = sorted(self._samples)
            self._known = ordered[min(len(ordered) - 1, int(len(ordered) * hedge.quantile))]
            self._fresh = 0
        return max(hedge.min_s, self._known)
