"""Balancing over replicas on exact in-flight counts: the least loaded first, in turn among equals.

Owns the counts of one deployment at one caller, and that a backend whose calls fail fast does not draw them all: it
always has the fewest in flight. Knows nothing of queues. Pure. Called by `dispatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

SUSPECT_AFTER = 5
"""Calls that failed one after another, after which a backend gets calls in turn only."""
SECOND_BEST_S = 0.1
"""Seconds between calls that suspects get because no other backend has a free slot."""


class Backend(Protocol):
    """What is balanced over. All of it is kept by `Balance`."""

    in_flight: int
    open: bool
    ranked: bool
    """It is open and stands in a bucket; if it is open and does not, it is suspect."""
    failures: int
    """Calls that failed since one ended well."""


_B = TypeVar("_B", bound=Backend)


class Balance(Generic[_B]):
    """Picks the backend with the fewest calls in flight that is open and below the limit, in O(1).

    Backends stand in buckets by their count. Counts change by one, so the lowest bucket that is not empty
    moves by one as well. Within a bucket the one that waited longest is first.

    A backend whose last calls all failed is suspect. It stands in no bucket and gets one call of as many as there are
    backends, until one ends well. If all are suspect none is: the fault is then with the calls. Where no other has a
    free slot, suspects get a call now and then (`second_best`), so that none waits for ever beside an idle backend.
    """

    def __init__(self, limit: int) -> None:
        assert limit > 0
        self.limit = limit
        self._buckets: dict[int, dict[_B, None]] = {}
        self._lowest = 0
        self._suspects: dict[_B, int] = {}
        """The turn at which each may be next, in order."""
        self._turn = 0
        self._second_best_at = float("-inf")
        self._open = 0
        self.in_flight = 0

    def __repr__(self) -> str:
        return f"<Balance {self.in_flight} in flight over {self._open} open, limit {self.limit} each>"

    def __len__(self) -> int:
        return self._open

    def __iter__(self) -> Iterator[_B]:
        yield from self._suspects
        for bucket in self._buckets.values():
            yield from bucket

    def open(self, backend: _B) -> None:
        """Let a backend take calls; its `in_flight` counts as it stands."""
        if backend.open:
            return
        backend.open = backend.ranked = True
        backend.failures = 0
        self._open += 1
        self._put(backend)

    def close(self, backend: _B) -> None:
        """Let a backend take no more calls; those in flight are counted on."""
        if not backend.open:
            return
        backend.open = False
        self._open -= 1
        if backend.ranked:
            backend.ranked = False
            del self._buckets[backend.in_flight][backend]
        else:
            del self._suspects[backend]
        self._pardon()

    def acquire(self) -> _B | None:
        """Count one more call on the best backend and return it, or None if none has a free slot."""
        if not self._open:
            return None
        lowest = self._lowest
        while not (bucket := self._buckets.get(lowest)):
            lowest += 1
        self._lowest = lowest
        if self._suspects and (suspect := self._due(lowest)) is not None:
            self.count(suspect)
            return suspect
        if lowest >= self.limit:
            return None
        backend = next(iter(bucket))
        self.count(backend)
        return backend

    @property
    def suspects(self) -> bool:
        """Whether any backend is suspect."""
        return bool(self._suspects)

    def second_best(self, now: float) -> _B | None:
        """Count one more call on a suspect and return it, after `acquire` found none; None: not now, or none is free.

        `now`: seconds of any clock that never jumps.
        """
        if now < self._second_best_at + SECOND_BEST_S:
            return None
        suspect = min(self._suspects, key=lambda each: each.in_flight, default=None)
        if suspect is None or suspect.in_flight >= self.limit:
            return None
        self._second_best_at = now
        self._took_turn(suspect)
        self.count(suspect)
        return suspect

    def ended(self, backend: _B, *, failed: bool) -> None:
        """Tell, before `release`, how a call on this backend ended; good ends need only be told after failures."""
        if not failed:
            backend.failures = 0
            if backend.open and not backend.ranked:
                del self._suspects[backend]
                self._rank(backend)
            return
        backend.failures += 1
        if backend.failures >= SUSPECT_AFTER and backend.ranked:
            del self._buckets[backend.in_flight][backend]
            backend.ranked = False
            self._suspects[backend] = self._turn + self._open
            self._pardon()

    def exchange(self, held: _B, preferred: Iterable[_B], rank: Callable[[_B], int]) -> _B:
        """Let the call that was just counted on `held` go to one of `preferred` with a free slot, and return that.

        The least loaded of those; if there is none, one as little loaded as `held` was, with the lowest `rank`.
        """
        free = [each for each in preferred if each is held or (each.ranked and each.in_flight < self.limit)]
        if free:
            best = min(free, key=lambda each: each.in_flight - (each is held))
        else:
            best = min((held, *self._buckets.get(held.in_flight - 1, ())), key=rank)
        if best is not held:
            self.release(held)
            self.count(best)
        return best

    def count(self, backend: _B) -> None:
        """Count one more call on this very backend (a slot that it offered)."""
        self.in_flight += 1
        if backend.ranked:
            del self._buckets[backend.in_flight][backend]
            backend.in_flight += 1
            self._put(backend)
        else:
            backend.in_flight += 1

    def release(self, backend: _B) -> None:
        """Count one call less."""
        assert backend.in_flight > 0
        self.in_flight -= 1
        if backend.ranked:
            del self._buckets[backend.in_flight][backend]
            backend.in_flight -= 1
            self._put(backend)
        else:
            backend.in_flight -= 1

    def _due(self, lowest: int) -> _B | None:
        """Return the first suspect whose turn it is and that has no more in flight than the least loaded; count turns.

        One that cannot take its turn, for a call on it hangs, is passed over: others stand behind it.
        """
        due = None
        for suspect, turn in self._suspects.items():
            if turn > self._turn:
                break
            if suspect.in_flight < min(lowest + 1, self.limit):
                due = suspect
                break
        if due is not None:
            self._took_turn(due)
        if due is not None or lowest < self.limit:
            self._turn += 1
        return due

    def _took_turn(self, suspect: _B) -> None:
        del self._suspects[suspect]
        self._suspects[suspect] = self._turn + self._open

    def _pardon(self) -> None:
        """Trust all again if all that are open are suspect."""
        if len(self._suspects) == self._open:
            for backend in self._suspects:
                backend.failures = 0
                self._rank(backend)
            self._suspects.clear()

    def _rank(self, backend: _B) -> None:
        backend.ranked = True
        self._put(backend)

    def _put(self, backend: _B) -> None:
        count = backend.in_flight
        bucket = self._buckets.get(count)
        if bucket is None:
            bucket = self._buckets[count] = {}
        bucket[backend] = None
        if count < self._lowest:
            self._lowest = count
