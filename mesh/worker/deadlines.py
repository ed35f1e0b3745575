"""The deadlines of many short calls: one timer for those that are young, one of its own for each that is not.

Owns only when; what a deadline means is its owner's. A timer of its own for each call costs as much as sending it.
Called by `flight`.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

YOUNG_S = 0.02
"""Seconds after which a call that still runs gets a timer of its own."""


class Limited(Protocol):
    """What has a deadline."""

    due: float
    """By the loop's clock."""
    timer: asyncio.TimerHandle | None

    def late(self) -> None:
        """The deadline has passed."""


class Deadlines:
    """The deadlines of one process's calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._young: dict[Limited, float] = {}
        """With the time at which each stops being young, in order of these."""
        self._looking = False

    def add(self, limited: Limited, now: float) -> None:
        """Call its `late` at its `due`, unless it is dropped before that."""
        if limited.due <= now + YOUNG_S:
            limited.timer = self._loop.call_at(limited.due, limited.late)
            return
        self._young[limited] = now + YOUNG_S
        if not self._looking:
            self._looking = True
            self._loop.call_later(YOUNG_S, self._look)

    def drop(self, limited: Limited) -> None:
        """Forget a deadline."""
        if self._young.pop(limited, None) is None and limited.timer is not None:
            limited.timer.cancel()
            limited.timer = None

    def _look(self) -> None:
        now = self._loop.time()
        while self._young:
            oldest, grown = next(iter(self._young.items()))
            if grown > now:
                break
            del self._young[oldest]
            oldest.timer = self._loop.call_at(oldest.due, oldest.late)
        self._looking = bool(self._young)
        if self._looking:
            self._loop.call_later(YOUNG_S, self._look)
