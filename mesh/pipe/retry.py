"""Which requests may be repeated, and how many: a budget that keeps repeats a small share of the load.

Pure. Called by `dispatch` when a replica is lost with requests on it.
"""

from __future__ import annotations

from typing import Protocol

LOSSES_MAX = 2
"""Replicas that may be lost with a call on them that never ran: its mere arrival may be what ends them."""
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


class Lost(Protocol):
    """A call whose replica was lost."""

    idempotent: bool
    accepted: bool
    repeated: bool
    losses: int


def cause_to_repeat(call: Lost, budget: RetryBudget, *, answered: bool) -> str:
    """Return why a call is to be sent again, "" if it must not be; note in it that it is, and pay for it.

    `answered`: part of its answer came, or part of its body went with the replica.
    """
    call.losses += 1
    if not call.accepted and not call.repeated and call.losses <= LOSSES_MAX:
        # A replica starts such a call before it says so: it may have run, so this is its one repeat.
        call.repeated = call.idempotent
        return "lost_before_accept"
    if call.accepted and call.idempotent and not call.repeated and not answered and budget.withdraw():
        call.repeated = True
        call.accepted = False
        return "lost_after_accept"
    return ""
