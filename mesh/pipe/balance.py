"""Balancing over replicas on exact in-flight counts: the least loaded first, in turn among equals.

Owns the counts of one deployment at one caller. Knows nothing of queues. Pure. Called by `dispatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar


class Backend(Protocol):
    """What is balanced over. `in_flight` and `open` are kept by `Balance`."""

    in_flight: int
    open: bool


_B = TypeVar("_B", bound=Backend)


class Balance(Generic[_B]):
    """Picks the backend with the fewest calls in flight that is open and below the limit, in O(1).

    Backends stand in buckets by their count. Counts change by one, so the lowest bucket that is not empty
    moves by one as well. Within a bucket the one that waited longest is first.
    """

    def __init__(self, limit: int) -> None:
        assert limit > 0
        self.limit = limit
        self._buckets: dict[int, dict[_B, None]] = {}
        self._lowest = 0
        self._open = 0
        self.in_flight = 0

    def __repr__(self) -> str:
        return f"<Balance {self.in_flight} in flight over {self._open} open, limit {self.limit} each>"

    def __len__(self) -> int:
        return self._open

    def __iter__(self) -> Iterator[_B]:
        return (backend for bucket in self._buckets.values() for backend in bucket)

    def open(self, backend: _B) -> None:
        """Let a backend take calls; its `in_flight` counts as it stands."""
        if backend.open:
            return
        backend.open = True
        self._open += 1
        self._put(backend)

    def close(self, backend: _B) -> None:
        """Let a backend take no more calls; those in flight are counted on."""
        if not backend.open:
            return
        backend.open = False
        self._open -= 1
        del self._buckets[backend.in_flight][backend]

    def acquire(self) -> _B | None:
        """Count one more call on the best backend and return it, or None if none has a free slot."""
        if not self._open:
            return None
        lowest = self._lowest
        while not (bucket := self._buckets.get(lowest)):
            lowest += 1
        self._lowest = lowest
        if lowest >= self.limit:
            return None
        backend = next(iter(bucket))
        self.count(backend)
        return backend

    def exchange(self, held: _B, preferred: Iterable[_B], rank: Callable[[_B], int]) -> _B:
        """Let the call that was just counted on `held` go to one of `preferred` with a free slot, and return that.

        The least loaded of those; if there is none, one as little loaded as `held` was, with the lowest `rank`.
        """
        free = [each for each in preferred if each is held or (each.open and each.in_flight < self.limit)]
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
        if backend.open:
            del self._buckets[backend.in_flight][backend]
            backend.in_flight += 1
            self._put(backend)
        else:
            backend.in_flight += 1

    def release(self, backend: _B) -> None:
        """Count one call less."""
        assert backend.in_flight > 0
        self.in_flight -= 1
        if backend.open:
            del self._buckets[backend.in_flight][backend]
            backend.in_flight -= 1
            self._put(backend)
        else:
            backend.in_flight -= 1

    def _put(self, backend: _B) -> None:
        count = backend.in_flight
        bucket = self._buckets.get(count)
        if bucket is None:
            bucket = self._buckets[count] = {}
        bucket[backend] = None
        if count < self._lowest:
            self._lowest = count
