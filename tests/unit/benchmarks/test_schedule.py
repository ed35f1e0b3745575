from __future__ import annotations

import itertools

import pytest

from benchmarks.schedule import Share, even, poisson


def test_even_arrivals_are_the_same_over_any_number_of_processes() -> None:
    alone = list(even(100.0, 1.0, Share()))
    assert alone == pytest.approx([number / 100 for number in range(100)])
    shared = sorted(at for number in range(3) for at in even(100.0, 1.0, Share(number, 3)))
    assert shared == pytest.approx(alone)


def test_poisson_arrivals_have_their_rate_and_spread() -> None:
    arrivals = sorted(at for number in range(4) for at in poisson(1000.0, 20.0, Share(number, 4), seed=3))
    assert len(arrivals) == pytest.approx(20_000, rel=0.03)
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 / mean == pytest.approx(1.0, rel=0.05)


def test_arrivals_repeat_with_the_seed_and_differ_without_and_between_processes() -> None:
    first = list(poisson(50.0, 2.0, Share(0, 2), seed=1))
    assert first == list(poisson(50.0, 2.0, Share(0, 2), seed=1))
    assert first != list(poisson(50.0, 2.0, Share(0, 2), seed=2))
    assert first != list(poisson(50.0, 2.0, Share(1, 2), seed=1))
    assert all(0 <= at < 2.0 for at in first)
    assert first == sorted(first)
