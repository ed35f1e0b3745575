"""When a batch goes and what is in it: by hand, and for every interleaving that hypothesis finds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.errors import InvalidConfig
from mesh.serving.batching import SPARE_S, Batching, BatchLimits, UsualTime, results_of


def batching(size: int = 3, wait_s: float = 1.0, concurrent: int = 1) -> Batching[str]:
    return Batching(BatchLimits(size, wait_s, concurrent))


def taken(core: Batching[str], now: float) -> tuple[str, ...]:
    batch = core.take(now)
    return batch.items if batch is not None else ()


def test_a_full_batch_goes_at_once_and_the_rest_waits() -> None:
    core = batching()
    for item in "abcd":
        core.add(item, 0.0)
    assert taken(core, 0.0) == ("a", "b", "c")
    core.ended(0.1)
    assert taken(core, 0.9) == () and core.wake_at() == 1.0
    assert taken(core, 1.0) == ("d",)


def test_no_more_run_than_may() -> None:
    core = batching(size=1, concurrent=2)
    for item in "abc":
        core.add(item, 0.0)
    assert [taken(core, 0.0) for _ in range(3)] == [("a",), ("b",), ()]
    assert core.wake_at() is None, "the end of a batch is what it waits for"
    core.ended()
    assert taken(core, 0.0) == ("c",)


def test_a_deadline_sends_a_batch_off_in_time() -> None:
    core = batching(wait_s=10.0)
    core.add("a", 0.0)
    core.add("b", 0.0, deadline=5.0)
    assert core.wake_at() == 5.0 - SPARE_S
    core.add("full", 0.0)
    assert taken(core, 0.0) == ("a", "b", "full")
    core.ended(2.0)
    core.add("c", 10.0)
    core.add("d", 10.0, deadline=15.0)
    assert core.wake_at() == 13.0 - SPARE_S, "the deadline, less what a batch took"
    assert taken(core, 12.9) == ()
    assert taken(core, 13.0 - SPARE_S) == ("c", "d")


def test_a_deadline_that_leaves_with_its_item_no_longer_counts() -> None:
    core = batching(wait_s=10.0)
    core.add("a", 0.0)
    core.add("b", 0.0, deadline=2.0)
    assert core.wake_at() == 2.0 - SPARE_S
    assert core.discard("b") and not core.discard("b")
    assert core.wake_at() == 10.0


def test_what_is_late_is_dropped() -> None:
    core = batching(size=2)
    core.add("a", 0.0, deadline=1.0)
    core.add("b", 0.0, deadline=3.0)
    core.take(0.0)
    core.add("c", 0.0, deadline=2.0)
    core.add("d", 0.0)
    assert core.wake_at() == 2.0, "while a batch runs, deadlines are all that can come true"
    assert core.drop_late(1.9) == []
    assert core.drop_late(2.0) == ["c"]
    core.ended()
    assert taken(core, 2.0) == ("d",)


def test_keys_do_not_share_a_batch_and_the_longest_waiting_goes_first() -> None:
    core = batching(size=2)
    for item, key in (("a1", "a"), ("b1", "b"), ("b2", "b"), ("a2", "a")):
        core.add(item, 0.0, key=key)
    assert taken(core, 0.0) == ("a1", "a2")
    core.ended()
    batch = core.take(0.0)
    assert batch is not None and batch.items == ("b1", "b2") and batch.key == "b"
    assert len(core) == 0


def test_a_batch_has_the_latest_deadline_of_its_items() -> None:
    core = batching(size=2)
    core.add("a", 0.0, deadline=4.0)
    core.add("b", 1.0, deadline=9.0)
    batch = core.take(1.0)
    assert batch is not None and batch.deadline == 9.0 and batch.waited_s == 1.0
    core.ended()
    core.add("c", 0.0, deadline=4.0)
    core.add("d", 0.0)
    batch = core.take(1.0)
    assert batch is not None and batch.deadline is None


def test_other_limits_are_in_force_for_what_waits() -> None:
    core = batching(size=3, wait_s=9.0)
    core.add("a", 0.0)
    core.add("b", 0.0)
    assert taken(core, 0.0) == ()
    core.limits = BatchLimits(2, 9.0)
    assert taken(core, 0.0) == ("a", "b")
    core.ended()
    core.add("c", 0.0)
    core.limits = BatchLimits(2, 0.5)
    assert core.wake_at() == 0.5


def test_the_usual_time_leans_to_the_longer_side() -> None:
    usual = UsualTime()
    assert usual.seconds == 0.0
    usual.add(1.0)
    assert usual.seconds == 1.0
    for seconds in (1.0, 2.0, 1.0, 2.0) * 10:
        usual.add(seconds)
    assert 2.0 < usual.seconds < 3.0


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_batch_size": 1.5}, "max_batch_size"),
        ({"max_batch_size": True}, "max_batch_size"),
        ({"batch_wait_timeout_s": -1}, "batch_wait_timeout_s"),
        ({"batch_wait_timeout_s": float("nan")}, "batch_wait_timeout_s"),
        ({"batch_wait_timeout_s": "1"}, "batch_wait_timeout_s"),
        ({"max_concurrent_batches": 0}, "max_concurrent_batches"),
    ],
)
def test_limits_that_are_none(limits: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        BatchLimits(**limits)
    assert caught.value.problems[0].field == field


def test_what_a_batched_function_may_return() -> None:
    assert results_of((1, 2), 2, "f") == (1, 2)
    with pytest.raises(ValueError, match="f is batched: it was given 2 items and returned 3 results"):
        results_of([1, 2, 3], 2, "f")
    for wrong in (None, "ab", {"a": 1, "b": 2}, {1, 2}, 5):
        with pytest.raises(TypeError, match="one result for each item"):
            results_of(wrong, 2, "f")


class AnyInterleaving(RuleBasedStateMachine):
    """Callers that come, leave and are late, batches that end, limits that change, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.core: Batching[int] = Batching(BatchLimits(3, 2.0, 2))
        self.now = 0.0
        self.came: dict[int, tuple[str, float, float | None]] = {}
        """By item: key, when it came, deadline."""
        self.left: dict[int, str] = {}
        """By item: how it went."""
        self.running = 0

    def pump(self) -> None:
        for item in self.core.drop_late(self.now):
            deadline = self.came[item][2]
            assert deadline is not None and deadline <= self.now
            self.leave(item, "late")
        while (batch := self.core.take(self.now)) is not None:
            self.running += 1
            assert self.running <= max(self.core.limits.max_concurrent_batches, self.running - 1)
            self.went(batch.items, str(batch.key))
            waited_s = self.now - self.came[batch.items[0]][1]
            assert batch.waited_s == waited_s
        assert self.running == self.core.running

    def went(self, items: tuple[int, ...], key: str) -> None:
        limits, usual_s = self.core.limits, self.core.usual.seconds
        assert 1 <= len(items) <= limits.max_batch_size
        assert list(items) == sorted(items), "in order of arrival"
        assert all(self.came[item][0] == key for item in items)
        same = [item for item, (other, *_) in self.came.items() if other == key and item not in self.left]
        assert same[: len(items)] == list(items), "nobody of the same key is passed"
        full = len(items) == limits.max_batch_size
        waited = self.now - self.came[items[0]][1] >= limits.batch_wait_timeout_s
        deadlines = [deadline for _, _, deadline in (self.came[item] for item in items) if deadline is not None]
        pressed = any(deadline - usual_s - SPARE_S <= self.now for deadline in deadlines)
        assert full or waited or pressed, "not before there is a reason"
        for item in items:
            self.leave(item, "ran")

    def leave(self, item: int, how: str) -> None:
        assert item not in self.left, "nothing goes twice"
        self.left[item] = how

    @rule(key=st.sampled_from("ab"), time_left=st.none() | st.sampled_from([0.5, 1.0, 3.0, 8.0]))
    def come(self, key: str, time_left: float | None) -> None:
        item = len(self.came)
        deadline = None if time_left is None else self.now + time_left
        self.came[item] = (key, self.now, deadline)
        self.core.add(item, self.now, key=key, deadline=deadline)
        self.pump()

    @precondition(lambda self: len(self.core) > 0)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from([item for item in self.came if item not in self.left]))
        assert self.core.discard(item)
        self.leave(item, "cancelled")

    @rule(seconds=st.sampled_from([0.25, 0.5, 2.0]))
    def pass_time(self, seconds: float) -> None:
        """Time goes on, and the queue is looked at when it asked for that."""
        end = self.now + seconds
        while (at := self.core.wake_at()) is not None and at <= end:
            self.now = max(self.now, at)
            before = (len(self.core), self.running)
            self.pump()
            assert (len(self.core), self.running) != before, "it asked to be woken for something"
        self.now = end
        self.pump()

    @precondition(lambda self: self.running > 0)
    @rule(took_s=st.none() | st.sampled_from([0.1, 0.4]))
    def end(self, took_s: float | None) -> None:
        self.running -= 1
        self.core.ended(took_s)
        self.pump()

    @rule(size=st.integers(1, 4), wait_s=st.sampled_from([0.0, 0.25, 2.0]), concurrent=st.integers(1, 3))
    def change(self, size: int, wait_s: float, concurrent: int) -> None:
        self.core.limits = BatchLimits(size, wait_s, concurrent)
        self.pump()

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.core) == len(self.came) - len(self.left)

    @invariant()
    def nobody_waits_without_need(self) -> None:
        limits = self.core.limits
        if self.running >= limits.max_concurrent_batches:
            return
        waiting = [item for item in self.came if item not in self.left]
        for key in "ab":
            same = [item for item in waiting if self.came[item][0] == key]
            assert len(same) < limits.max_batch_size
            for item in same:
                _, since, deadline = self.came[item]
                assert self.now - since < limits.batch_wait_timeout_s
                assert deadline is None or self.now < deadline - self.core.usual.seconds - SPARE_S

    def teardown(self) -> None:
        """All that waits goes, or is late, in the end."""
        for _ in range(len(self.came) + 1):
            while self.running:
                self.end(None)
            self.pass_time(2.0)
        assert set(self.left) == set(self.came)


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
