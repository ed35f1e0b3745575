"""How many repeats a target gets, and when a second attempt goes beside a slow one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mesh_client.budget import RetryBudget
from mesh_client.latency import SAMPLES_MAX, Latencies
from mesh_client.policy import Budget, Hedge


def test_repeats_are_a_share_of_requests_and_a_small_minimum() -> None:
    budget = RetryBudget(Budget(ratio=0.1, min_per_s=0, burst=10), 0.0)
    repeats = 0
    for _ in range(1000):
        budget.deposit(0.0)
        while budget.withdraw(0.0):
            repeats += 1
    assert repeats in (109, 110)


def test_without_requests_the_minimum_comes_back_and_no_more() -> None:
    budget = RetryBudget(Budget(ratio=0.1, min_per_s=1.0, burst=3), 0.0)
    assert [budget.withdraw(0.0) for _ in range(4)] == [True, True, True, False]
    assert not budget.withdraw(0.9)
    assert budget.withdraw(1.0)
    assert [budget.withdraw(1000.0) for _ in range(4)] == [True, True, True, False]


def test_what_is_saved_has_a_bound() -> None:
    budget = RetryBudget(Budget(ratio=1.0, saved_max=20), 0.0)
    for _ in range(1000):
        budget.deposit(0.0)
    assert budget.tokens == 20


def test_time_that_goes_back_gives_nothing() -> None:
    budget = RetryBudget(Budget(burst=1), 10.0)
    assert budget.withdraw(10.0)
    assert not budget.withdraw(5.0)
    assert not budget.withdraw(10.5)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=300), st.floats(0, 1), st.floats(0, 3))
def test_never_more_than_promised(steps: list[tuple[bool, float]], ratio: float, per_s: float) -> None:
    budget = RetryBudget(Budget(ratio=ratio, min_per_s=per_s, burst=5), 0.0)
    now, requests, repeats = 0.0, 0, 0
    for asks, passed in steps:
        now += passed
        if asks:
            budget.deposit(now)
            requests += 1
        repeats += budget.withdraw(now)
        assert repeats <= 5 + ratio * requests + per_s * now + 1e-6


def test_hedges_wait_as_long_as_all_but_the_slowest_took() -> None:
    latencies, hedge = Latencies(), Hedge(samples_min=20)
    for i in range(19):
        latencies.add(i / 1000)
    assert latencies.hedge_after_s(hedge) is None
    for i in range(19, 100):
        latencies.add(i / 1000)
    assert latencies.hedge_after_s(hedge) == pytest.approx(0.095)
    for _ in range(SAMPLES_MAX):
        latencies.add(0.5)
    assert latencies.hedge_after_s(hedge) == 0.5


def test_hedges_may_wait_for_a_fixed_time() -> None:
    assert Latencies().hedge_after_s(Hedge(after_s=0.2)) == 0.2
    assert Latencies().hedge_after_s(Hedge(after_s=0.0)) == 0.001
