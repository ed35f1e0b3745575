"""Admission of one deployment at one caller: who waits, in what order, and who is shed.

Owns the waiting line and its limit. Knows nothing of replicas; `dispatch` asks it only when no slot is free.
Pure: never reads a clock, awaits or logs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

UNLIMITED = -1
RETRY_AFTER_MAX_S = 30.0


class Waiting(Protocol):
    """What can stand in the line: `order` is its place, drawn on arrival and kept for good."""

    order: int


_W = TypeVar("_W", bound=Waiting)


@dataclass(frozen=True, slots=True)
class Shed:
    """A request refused because the line is full."""

    queued: int
    queued_max: int

    @property
    def detail(self) -> str:
        """The sentence that clients and logs get."""
        return (
            "Request dropped due to backpressure "
            f"(num_queued_requests={self.queued}, max_queued_requests={self.queued_max})."
        )


class Line(Generic[_W]):
    """A bounded first-come-first-served line. Leaving it from the middle costs O(1), amortised."""

    def __init__(self, length_max: int) -> None:
        self.length_max = length_max
        self._places: deque[_W] = deque()
        self._present: set[int] = set()

    def __len__(self) -> int:
        return len(self._present)

    def __repr__(self) -> str:
        return f"<Line {len(self)}/{self.length_max}>"

    def offer(self, arrival: _W, beyond: int = 0) -> Shed | None:
        """Let `arrival` wait at the end, or say why it is shed. So many `beyond` the limit have slots in a moment."""
        if self.length_max != UNLIMITED and len(self._present) >= self.length_max + beyond:
            return Shed(len(self._present), self.length_max)
        self.append(arrival)
        return None

    def append(self, arrival: _W) -> None:
        """Let somebody who was admitted elsewhere wait at the end: the limit does not turn it away now."""
        self._places.append(arrival)
        self._present.add(arrival.order)

    def put_back(self, returned: _W) -> None:
        """Let somebody who had been let go wait again, at its old place.

        It was admitted once, so the limit does not turn it away now.
        """
        ahead: list[_W] = []
        while self._places and self._places[0].order < returned.order:
            ahead.append(self._places.popleft())
        self._places.appendleft(returned)
        self._places.extendleft(reversed(ahead))
        self._present.add(returned.order)

    def pop(self) -> _W | None:
        """Take the first out of the line; None when nobody waits."""
        while self._places:
            first = self._places.popleft()
            if first.order in self._present:
                self._present.remove(first.order)
                return first
        return None

    def leave(self, waiting: _W) -> bool:
        """Take `waiting` out from wherever it stands; False if it was not in the line."""
        if waiting.order not in self._present:
            return False
        self._present.remove(waiting.order)
        # Whoever left is skipped when its turn comes; sweep before that would cost more than the line holds.
        if len(self._places) > 64 and len(self._places) > 4 * len(self._present):
            self._places = deque(each for each in self._places if each.order in self._present)
        return True

    def clear(self) -> list[_W]:
        """Empty the line and return who stood in it, in order."""
        gone = [each for each in self._places if each.order in self._present]
        self._places.clear()
        self._present.clear()
        return gone


class DrainRate:
    """How fast slots come free, over the last one to two windows of `window_s` seconds."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._start = 0.0
        self._count = 0
        self._previous: float | None = None

    def add(self) -> None:
        """Count one slot that came free."""
        self._count += 1

    def per_second(self, now: float) -> float | None:
        """Slots freed per second, None while nothing is known."""
        elapsed = now - self._start
        if elapsed >= 2 * self._window_s:
            # Nobody asked for long: when in that time the slots came free is not known.
            self._previous = None
            self._start, self._count = now, 0
        elif elapsed >= self._window_s:
            # None came free: then the next one is as good as any guess.
            self._previous = max(self._count, 1) / elapsed
            self._start, self._count = now, 0
        return self._previous

    def retry_after_s(self, waiting: int, now: float, chance: float) -> float:
        """Seconds after which a shed client has a fair chance: the line's length over the rate.

        `chance`, from [0, 1), spreads clients over half as much again, so that they do not return together.
        """
        rate = self.per_second(now)
        expected = (waiting + 1) / rate if rate else 1.0
        return float(min(RETRY_AFTER_MAX_S, expected * (1.0 + 0.5 * chance)))
