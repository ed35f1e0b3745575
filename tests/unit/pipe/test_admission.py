"""The waiting line keeps the order of arrival whatever happens in it; Retry-After follows the drain rate."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.pipe.admission import RETRY_AFTER_MAX_S, UNLIMITED, DrainRate, Line


@dataclass
class Waiter:
    order: int


def line_of(length_max: int, *orders: int) -> tuple[Line[Waiter], list[Waiter]]:
    line: Line[Waiter] = Line(length_max)
    waiters = [Waiter(order) for order in orders]
    for waiter in waiters:
        assert line.offer(waiter) is None
    return line, waiters


def test_a_full_line_sheds_with_the_numbers() -> None:
    line, _ = line_of(2, 1, 2)
    shed = line.offer(Waiter(3))
    assert shed is not None
    assert shed.detail == "Request dropped due to backpressure (num_queued_requests=2, max_queued_requests=2)."
    assert len(line) == 2


@pytest.mark.parametrize(("length_max", "let_in"), [(0, 0), (1, 1), (UNLIMITED, 500)])
def test_the_limit_is_exact(length_max: int, let_in: int) -> None:
    line: Line[Waiter] = Line(length_max)
    assert sum(line.offer(Waiter(order)) is None for order in range(1, 501)) == let_in


def test_who_is_put_back_stands_at_its_old_place_even_over_the_limit() -> None:
    line, (first, second, third) = line_of(3, 1, 2, 3)
    assert line.pop() is first and line.pop() is second
    fourth = Waiter(4)
    line.offer(fourth)
    line.put_back(second)
    line.put_back(first)
    assert len(line) == 4
    assert line.offer(Waiter(5)) is not None
    assert [line.pop() for _ in range(5)] == [first, second, third, fourth, None]


def test_leaving_is_known_and_makes_room() -> None:
    line, (first, second) = line_of(2, 1, 2)
    assert line.leave(first) and not line.leave(first)
    assert line.offer(Waiter(3)) is None
    assert line.pop() is second
    assert not line.leave(second), "it is no longer in the line"


def test_clear_returns_those_who_still_wait() -> None:
    line, (first, second, third) = line_of(9, 1, 2, 3)
    line.leave(second)
    assert line.clear() == [first, third]
    assert len(line) == 0 and line.pop() is None


def test_many_who_leave_do_not_make_the_line_grow() -> None:
    line: Line[Waiter] = Line(UNLIMITED)
    for order in range(10_000):
        waiter = Waiter(order)
        line.offer(waiter)
        line.leave(waiter)
    assert len(line._places) < 200


class LineMachine(RuleBasedStateMachine):
    """A sorted list is the model: the line must always let out the lowest order."""

    def __init__(self) -> None:
        super().__init__()
        self.line: Line[Waiter] = Line(4)
        self.model: list[Waiter] = []
        self.out: list[Waiter] = []
        self.arrivals = 0

    @rule()
    def arrive(self) -> None:
        self.arrivals += 1
        waiter = Waiter(self.arrivals)
        shed = self.line.offer(waiter)
        assert (shed is not None) == (len(self.model) >= 4)
        if shed is None:
            self.model.append(waiter)
        else:
            assert shed.queued == len(self.model)

    @rule()
    def pop(self) -> None:
        first = self.line.pop()
        assert first is (self.model.pop(0) if self.model else None)
        if first is not None:
            self.out.append(first)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        waiter = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.line.put_back(waiter)
        self.model = sorted([*self.model, waiter], key=lambda each: each.order)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        assert self.line.leave(waiter)

    @rule()
    def clear(self) -> None:
        assert self.line.clear() == self.model
        self.model = []

    @invariant()
    def the_length_agrees(self) -> None:
        assert len(self.line) == len(self.model)

    def teardown(self) -> None:
        assert [self.line.pop() for _ in range(len(self.model) + 1)] == [*self.model, None]


TestLine = LineMachine.TestCase


def freed(rate: DrainRate, count: int) -> None:
    for _ in range(count):
        rate.add()


def test_nothing_is_known_of_the_rate_at_first_however_late_the_first_question_comes() -> None:
    rate = DrainRate()
    freed(rate, 4)
    assert rate.per_second(1_000_000.0) is None
    assert rate.retry_after_s(2, 1_000_000.0, 0.0) == 1.0


def test_the_rate_is_that_of_the_last_window() -> None:
    rate = DrainRate(window_s=5.0)
    rate.per_second(100.0)
    freed(rate, 50)
    assert rate.per_second(105.0) == 10.0
    freed(rate, 5)
    assert rate.per_second(107.0) == 10.0, "this window is not over"
    assert rate.per_second(110.0) == 1.0
    assert rate.retry_after_s(2, 110.0, 0.0) == 3.0


def test_a_window_without_a_free_slot_means_a_long_wait_and_not_a_short_one() -> None:
    rate = DrainRate(window_s=5.0)
    rate.per_second(100.0)
    assert rate.retry_after_s(2, 106.0, 0.0) == 18.0


def test_a_long_silence_is_not_averaged_over() -> None:
    rate = DrainRate(window_s=5.0)
    rate.per_second(100.0)
    freed(rate, 100)
    assert rate.per_second(4000.0) is None
    freed(rate, 100)
    assert rate.per_second(4005.0) == 20.0


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.integers(0, 1000))
def test_retry_after_is_bounded_and_spread_by_half(waiting: int, chance: float, count: int) -> None:
    rate = DrainRate(window_s=5.0)
    rate.per_second(100.0)
    freed(rate, count)
    plain = rate.retry_after_s(waiting, 105.0, 0.0)
    spread = rate.retry_after_s(waiting, 105.0, chance)
    assert 0 < plain <= spread <= min(RETRY_AFTER_MAX_S, plain * 1.5) or spread == RETRY_AFTER_MAX_S
