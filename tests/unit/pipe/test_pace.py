"""Calls wait for one another only where the thread that carries them lacks time."""

from __future__ import annotations

import pytest

from mesh.pipe.pace import GATHER_MAX_S, RELIEVED, SATURATED, WINDOW_S, Pace


def paced(*, calls: int, rate: float, wanted: float) -> Pace:
    """Return a pace after a second with so many calls at once, frames per second, and share of time wanted."""
    pace = Pace()
    assert pace.wrote(0, 100.0)
    pace.measure(100.0, 5.0)
    pace.gather(calls)
    assert not pace.wrote(int(rate), 100.0 + WINDOW_S / 2)
    assert pace.wrote(0, 101.0)
    pace.measure(101.0, 5.0 + wanted)
    return pace


def test_a_thread_that_has_time_never_waits() -> None:
    assert Pace().gather(64) == (0, 0.0)
    assert paced(calls=64, rate=2000, wanted=SATURATED - 0.01).gather(64) == (0, 0.0)


def test_all_that_were_at_once_of_late_wait_for_one_another() -> None:
    pace = paced(calls=10, rate=2000, wanted=1.0)
    assert pace.gather(3) == (10, 0.005)
    assert pace.gather(12) == (12, 0.006)
    pace.wrote(2000, 102.0)
    pace.measure(102.0, 7.0)
    assert pace.gather(1) == (12, 0.006), "of this window and the one before"
    pace.wrote(2000, 103.0)
    pace.measure(103.0, 8.0)
    assert pace.gather(1) == (0, 0.0)


@pytest.mark.parametrize(("calls", "rate", "wanted"), [(1, 500, 0), (4, 10_000, 0), (64, 1000, GATHER_MAX_S)])
def test_waits_are_bounded_and_none_where_there_is_nothing_to_wait_for(calls: int, rate: float, wanted: float) -> None:
    assert paced(calls=calls, rate=rate, wanted=1.2).gather(1)[1] == wanted


def test_it_lacks_time_until_there_is_clearly_enough_again() -> None:
    pace = paced(calls=8, rate=2000, wanted=SATURATED + 0.01)
    for second, wanted_s, saturated in (
        (102.0, RELIEVED + 0.01, True),
        (103.0, RELIEVED - 0.01, False),
        (104.0, 0.7, False),
    ):
        before = pace._wanted_s
        pace.wrote(100, second)
        pace.measure(second, before + wanted_s)
        assert pace.saturated is saturated


def test_the_first_window_says_nothing_of_the_thread() -> None:
    pace = Pace()
    pace.wrote(100, 50.0)
    pace.measure(50.0, 49.9)
    assert not pace.saturated
