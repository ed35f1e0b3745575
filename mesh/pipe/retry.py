"""How many requests may be repeated: a budget that keeps repeats a small share of the load.

Pure. Called by `dispatch` when a replica is lost with requests on it.
"""

from __future__ import annotations

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
"""Methods that may run twice (RFC 9110, 9.2.2)."""


class RetryBudget:
    """Each request adds `ratio` of a token, each repeat costs one; at most `tokens_max` are saved up.

    After Finagle's RetryBudget, with a count in place of a time window. It starts full, so that the loss of a
    replica early on is covered too.
    """

    def __init__(self, *, ratio: float = 0.2, tokens_max: float = 1000.0) -> None:
        self._ratio = ratio
        self._tokens_max = tokens_max
        self._tokens = tokens_max

    def deposit(self) -> None:
        """Count a request that was dispatched."""
        if self._tokens < self._tokens_max:
            self._tokens += self._ratio

    def withdraw(self) -> bool:
        """Take the token for one repeat, if there is one."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
