"""Whom to ask next for the leader of the control plane.

Owns the order of the addresses within a round, redirects, and when to pause. Who went silent or did not answer is
asked last: the others can tell who leads now. Never connects and never waits. Called by workers and gateways.
"""

from __future__ import annotations

from collections.abc import Sequence

REDIRECTS_MAX = 3
"""Redirects followed in a row without a pause; more means that the control planes do not agree."""


class LeaderSearch:
    """Rounds over all addresses. Ask `address`, tell what came of it, and pause when `round_over`."""

    def __init__(self, addresses: Sequence[str]) -> None:
        assert addresses
        self._order = list(addresses)
        self._left = list(addresses)
        self._leader = ""
        self._redirects = 0
        self._failed: set[str] = set()
        self.rounds = 0
        """Rounds in a row in which nobody led."""

    @property
    def address(self) -> str:
        """Whom to ask now: the one that was said to lead, else the first that was not asked in this round."""
        return self._leader or self._left[0]

    @property
    def round_over(self) -> bool:
        """Whether a new round begins, so that a pause is due first."""
        return not self._leader and len(self._left) == len(self._order)

    def redirected(self, leader: str) -> None:
        """It answered that another one leads, or nobody ("")."""
        asked = self.address
        self._redirects += 1
        follow = leader and leader not in self._failed and self._redirects <= REDIRECTS_MAX
        self._next(asked, leader if follow else "")

    def failed(self) -> None:
        """It did not answer."""
        self._avoid()
        self._next(self.address, "")

    def lost(self, leader: str, *, stood: bool) -> None:
        """It led, and its stream has ended. `leader` is whom it named; `stood`: the stream did for some time.

        One that takes streams only to end them does not count as found.
        """
        if stood:
            self.rounds = self._redirects = 0
        else:
            self.rounds += 1
            self._redirects += 1
        self._failed.clear()
        follow = leader and self._redirects <= REDIRECTS_MAX
        if not follow:
            self._avoid()
            self._redirects = 0
        self._leader = leader if follow else ""
        self._left = list(self._order)

    def _avoid(self) -> None:
        """Ask this one last from now on."""
        asked = self.address
        self._failed.add(asked)
        if asked in self._order:
            self._order.remove(asked)
            self._order.append(asked)

    def _next(self, asked: str, leader: str) -> None:
        if asked in self._left:
            self._left.remove(asked)
        self._leader = leader
        if not leader and not self._left:
            self._left, self._redirects = list(self._order), 0
            self._failed.clear()
            self.rounds += 1
