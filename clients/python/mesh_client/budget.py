"""How many repeats a target gets: a bucket of tokens that requests fill and repeats empty.

Owns the tokens. Under overload every request fails at first; were each repeated, the load would double just then. With
the budget it grows by `ratio`. Never reads a clock. Called by `target`.
"""

from __future__ import annotations

from mesh_client.policy import Budget


class RetryBudget:
    """The tokens of one target. `now` is monotonic seconds."""

    def __init__(self, budget: Budget, now: float) -> None:
        self._budget = budget
        self._tokens = budget.burst
        self._then = now

    @property
    def tokens(self) -> float:
        """Repeats that are saved up."""
        return self._tokens

    def deposit(self, now: float) -> None:
        """Count a request."""
        self._refill(now)
        self._tokens = min(self._budget.saved_max, self._tokens + self._budget.ratio)

    def withdraw(self, now: float) -> bool:
        """Take the token for one repeat, if there is one."""
        self._refill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _refill(self, now: float) -> None:
        passed, self._then = max(0.0, now - self._then), max(self._then, now)
        if self._tokens < self._budget.burst:
            self._tokens = min(self._budget.burst, self._tokens + passed * self._budget.min_per_s)
