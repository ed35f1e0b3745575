"""When a batch goes, and what is in it.

Owns who waits for a batched function, in what order, and the rule: a batch goes when it is full, when its first item
has waited `batch_wait_timeout_s`, or when the earliest deadline in it leaves hardly more than the time that a batch
usually takes; and at most `max_concurrent_batches` run. Pure: never reads a clock, awaits or runs anything. Called by
`batch_queue`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mesh.errors import InvalidConfig, Problem

SIZE_MAX = 1_000_000
WAIT_MAX_S = 3600.0
SPARE_S = 0.01
"""Seconds before a deadline that are left beside the time of the batch: it has to begin, and its results to arrive."""
_NEVER = float("inf")
_GAIN = 0.2
"""Weight of the last batch in the time that one usually takes."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What bounds the batches of one function. Raises InvalidConfig."""

    max_batch_size: int = 10
    batch_wait_timeout_s: float = 0.01
    max_concurrent_batches: int = 1

    def __post_init__(self) -> None:
        problems = [*_whole("max_batch_size", self.max_batch_size)]
        problems += _whole("max_concurrent_batches", self.max_concurrent_batches)
        wait_s: object = self.batch_wait_timeout_s
        if isinstance(wait_s, bool) or not isinstance(wait_s, (int, float)) or not 0 <= wait_s <= WAIT_MAX_S:
            text = f"must be a number of seconds from 0 to {WAIT_MAX_S:g}, not {str(wait_s)[:40]}"
            problems.append(Problem("batch_wait_timeout_s", text))
        if problems:
            raise InvalidConfig(tuple(problems))


_T = TypeVar("_T", bound=Hashable)


@dataclass(slots=True)
class _Place:
    """Where an item stands."""

    lane: _Lane[Any]
    order: int
    since: float
    deadline: float


class _Lane(Generic[_T]):
    """Items that may share a batch, in order of arrival."""

    __slots__ = ("_earliest", "_stale", "key", "places")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.places: dict[_T, _Place] = {}
        self._earliest = _NEVER
        self._stale = False
        """Whether the earliest deadline may have left."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def first(self) -> _Place:
        return next(iter(self.places.values()))

    @property
    def earliest(self) -> float:
        """The earliest deadline of all that wait here."""
        if self._stale:
            self._earliest = min((place.deadline for place in self.places.values()), default=_NEVER)
            self._stale = False
        return self._earliest

    def add(self, item: _T, place: _Place) -> None:
        self.places[item] = place
        self._earliest = min(self._earliest, place.deadline)

    def remove(self, item: _T) -> _Place:
        place = self.places.pop(item)
        if place.deadline <= self._earliest < _NEVER:
            self._stale = True
        return place


@dataclass(frozen=True, slots=True)
class Batch(Generic[_T]):
    """Items that go together, in order of arrival. `waited_s` is how long the first of them waited."""

    items: tuple[_T, ...]
    key: Hashable
    waited_s: float
    deadline: float | None
    """The latest deadline in it, None if one item has none."""


class UsualTime:
    """How long something takes, as a rule: the average of the last ones and twice their spread. 0: not known."""

    def __init__(self) -> None:
        self._average_s = 0.0
        self._spread_s = 0.0
        self._known = False

    @property
    def seconds(self) -> float:
        """What to reckon with."""
        return self._average_s + 2 * self._spread_s

    def add(self, seconds: float) -> None:
        """Learn of one."""
        if not self._known:
            self._known = True
            self._average_s = seconds
            return
        self._spread_s += _GAIN * (abs(seconds - self._average_s) - self._spread_s)
        self._average_s += _GAIN * (seconds - self._average_s)


class Batching(Generic[_T]):
    """Who waits for one function. Each item is added once; it leaves in a batch, too late, or by `discard`."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        """May be replaced at any time; ask `take` again then."""
        self.running = 0
        """Batches that were taken and have not ended."""
        self.usual = UsualTime()
        self._lanes: dict[Hashable, _Lane[_T]] = {}
        self._places: dict[_T, _Place] = {}
        self._orders = 0

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"<Batching {len(self)} waiting, {self.running} running>"

    def add(self, item: _T, now: float, *, key: Hashable = "", deadline: float | None = None) -> None:
        """Let `item` wait. Only items of one `key` share a batch."""
        assert item not in self._places, "an item is added once"
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        self._orders += 1
        place = _Place(lane, self._orders, now, _NEVER if deadline is None else deadline)
        self._places[item] = place
        lane.add(item, place)

    def discard(self, item: _T) -> bool:
        """Drop an item whose caller is gone. False if it does not wait."""
        if item not in self._places:
            return False
        self._remove(item)
        return True

    def drop_late(self, now: float) -> list[_T]:
        """Take out and return the items whose time is over: to run them would help nobody."""
        late: list[_T] = []
        for lane in list(self._lanes.values()):
            if lane.earliest <= now:
                late += [item for item, place in lane.places.items() if place.deadline <= now]
        for item in late:
            self._remove(item)
        return late

    def take(self, now: float) -> Batch[_T] | None:
        """Return the batch that goes now, which counts as running until `ended`; None if none does."""
        if not self._places or self.running >= self.limits.max_concurrent_batches:
            return None
        ready = [lane for lane in self._lanes.values() if self._due(lane) <= now]
        if not ready:
            return None
        lane = min(ready, key=_order) if len(ready) > 1 else ready[0]
        items = tuple(lane.places)[: self.limits.max_batch_size]
        places = [self._remove(item) for item in items]
        latest = max(place.deadline for place in places)
        self.running += 1
        return Batch(items, lane.key, now - places[0].since, None if latest == _NEVER else latest)

    def wake_at(self) -> float | None:
        """Return when to look again if nothing happens until then: `drop_late` and `take`. None: never."""
        if not self._places:
            return None
        busy = self.running >= self.limits.max_concurrent_batches
        at = min(lane.earliest if busy else min(self._due(lane), lane.earliest) for lane in self._lanes.values())
        return None if at == _NEVER else at

    def ended(self, took_s: float | None = None) -> None:
        """A batch is over; `took_s` if it came to its proper end."""
        assert self.running > 0
        self.running -= 1
        if took_s is not None:
            self.usual.add(took_s)

    def _due(self, lane: _Lane[_T]) -> float:
        first = lane.first
        if len(lane) >= self.limits.max_batch_size:
            return first.since
        return min(first.since + self.limits.batch_wait_timeout_s, lane.earliest - self.usual.seconds - SPARE_S)

    def _remove(self, item: _T) -> _Place:
        lane = self._places.pop(item).lane
        place = lane.remove(item)
        if not lane.places:
            del self._lanes[lane.key]
        return place


def results_of(returned: Any, count: int, name: str) -> Sequence[Any]:
    """Return what a batched function returned, one result for each item. Raises TypeError or ValueError."""
    is_list = hasattr(returned, "__len__") and hasattr(returned, "__getitem__")
    if not is_list or isinstance(returned, (str, bytes, bytearray, Mapping)):
        kind = type(returned).__name__
        raise TypeError(f"{name} is batched: it returns a list with one result for each item, not {kind}")
    if len(returned) != count:
        raise ValueError(f"{name} is batched: it was given {count} items and returned {len(returned)} results")
    return returned  # type: ignore[no-any-return]


def _order(lane: _Lane[Any]) -> int:
    return lane.first.order


def _whole(name: str, value: object) -> list[Problem]:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= SIZE_MAX:
        return [Problem(name, f"must be a whole number from 1 to {SIZE_MAX}, not {str(value)[:40]}")]
    return []
