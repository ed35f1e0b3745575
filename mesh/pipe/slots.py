"""The slots of one replica: who runs, who was refused, who is offered the next free slot.

The replica is the authority on its own limit, whoever calls. Owns the counts and the order of refusals. Pure:
never reads a clock, awaits or sends; each change returns the offers to send. Called by `callee`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable


class Slots:
    """At most `limit` calls run at once. Callers over it are remembered in order and offered slots in that order.

    A caller is any hashable value that stands for one pipe. One refusal leads to exactly one offer.
    """

    def __init__(self, limit: int) -> None:
        assert limit > 0
        self.limit = limit
        self.ongoing = 0
        self._reserved: dict[Hashable, int] = {}
        self._reserved_total = 0
        self._refused: deque[Hashable] = deque()

    def __repr__(self) -> str:
        return f"<Slots {self.ongoing}+{self._reserved_total}/{self.limit}, {len(self._refused)} refused>"

    @property
    def free(self) -> int:
        """Slots neither taken nor reserved; negative after the limit was lowered."""
        return self.limit - self.ongoing - self._reserved_total

    def take(self, caller: Hashable, *, offered: bool) -> bool:
        """Take a slot for `caller` and return True, or remember it as refused and return False.

        `offered` uses up one of the caller's reservations; where it has none left (it came too late) the
        call is treated like any other.
        """
        if offered and self._reserved.get(caller):
            self._unreserve(caller)
            self.ongoing += 1
            return True
        # Those refused before come first: a newcomer may not pass them.
        if self.free > 0 and not self._refused:
            self.ongoing += 1
            return True
        self._refused.append(caller)
        return False

    def release(self) -> list[Hashable]:
        """Free a slot. Return the callers to send an offer to."""
        assert self.ongoing > 0
        self.ongoing -= 1
        return self._offers()

    def decline(self, caller: Hashable) -> list[Hashable]:
        """Give an offered slot back (the caller has nobody waiting, or its offer ran out)."""
        if self._reserved.get(caller):
            self._unreserve(caller)
        return self._offers()

    def forget(self, caller: Hashable) -> list[Hashable]:
        """Drop the refusals and reservations of a caller whose pipe has ended. Its running calls stay."""
        self._refused = deque(other for other in self._refused if other != caller)
        self._reserved_total -= self._reserved.pop(caller, 0)
        return self._offers()

    def resize(self, limit: int) -> list[Hashable]:
        """Put another limit in force. Running calls over it go on."""
        assert limit > 0
        self.limit = limit
        return self._offers()

    def _offers(self) -> list[Hashable]:
        offered: list[Hashable] = []
        while self._refused and self.free > 0:
            caller = self._refused.popleft()
            self._reserved[caller] = self._reserved.get(caller, 0) + 1
            self._reserved_total += 1
            offered.append(caller)
        return offered

    def _unreserve(self, caller: Hashable) -> None:
        self._reserved_total -= 1
        if self._reserved[caller] == 1:
            del self._reserved[caller]
        else:
            self._reserved[caller] -= 1
