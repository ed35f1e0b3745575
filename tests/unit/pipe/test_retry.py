"""The retry budget keeps repeats a small share of the load."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from mesh.pipe.retry import IDEMPOTENT, RetryBudget


def test_methods_that_may_run_twice() -> None:
    assert "GET" in IDEMPOTENT and "PUT" in IDEMPOTENT
    assert not {"POST", "PATCH"} & IDEMPOTENT


def test_it_starts_full_and_runs_out() -> None:
    budget = RetryBudget(tokens_max=3)
    assert [budget.withdraw() for _ in range(4)] == [True, True, True, False]


def test_requests_fill_it_by_their_share() -> None:
    budget = RetryBudget(ratio=0.25, tokens_max=1)
    assert budget.withdraw()
    for _ in range(3):
        budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()


@given(st.lists(st.booleans(), max_size=500))
def test_repeats_never_exceed_the_saved_tokens_and_the_share(steps: list[bool]) -> None:
    budget = RetryBudget(ratio=0.2, tokens_max=10)
    deposits = repeats = 0
    for deposit in steps:
        if deposit:
            budget.deposit()
            deposits += 1
        else:
            repeats += budget.withdraw()
    assert repeats <= 10 + 0.2 * deposits + 0.2
