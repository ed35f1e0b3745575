"""How even a look is, and how even it could be."""

from __future__ import annotations

import pytest

from benchmarks.fairness import least_uneven, of_looks, uneven


@pytest.mark.parametrize(
    ("look", "is_", "at_best"),
    [
        ([16, 16, 16, 16], 1.0, 1.0),
        ([16, 16, 16, 15], 16 * 4 / 63, 16 * 4 / 63),
        ([17, 16, 15, 16], 17 / 16, 1.0),
        ([3, 2, 2, 2], 12 / 9, 12 / 9),
        ([1, 0, 0, 0], 4.0, 4.0),
    ],
)
def test_a_look_is_as_uneven_as_its_largest_and_at_best_as_whole_calls_allow(
    look: list[int], is_: float, at_best: float
) -> None:
    assert uneven(look) == pytest.approx(is_)
    assert least_uneven(look) == pytest.approx(at_best)


def test_time_average_and_single_looks_are_two_figures() -> None:
    found = of_looks([[20, 16, 12, 16], [12, 16, 20, 16]])
    assert found["in_flight_max_to_mean"] == 1.0
    assert found["in_flight_max_to_mean_of_a_look"] == 1.25
    assert found["in_flight_max_to_mean_of_a_look_at_best"] == 1.0
    assert found["in_flight_most_above_even"] == 4
    assert (found["looks"], found["in_flight_a_replica"]) == (2, 16)


def test_looks_at_the_beginning_and_the_end_do_not_count() -> None:
    assert of_looks([[1, 0, 0, 0], [4, 4, 4, 4], [1, 1, 0, 0]])["looks"] == 1
    assert of_looks([[1, 0, 0, 0]]) == {}
