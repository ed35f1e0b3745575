"""Attempts, pauses and times of one request."""

from __future__ import annotations

from typing import Any

import pytest
from mesh_client.course import Course
from mesh_client.errors import DeadlineExceeded, MeshClientError, Overloaded, Unavailable
from mesh_client.policy import Backoff, Budget, Hedge, Policy


def half() -> float:
    return 0.5


def course(*, timeout_s: float | None = 10.0, idempotent: bool = False, stream: bool = False, **policy: Any) -> Course:
    return Course(Policy(**policy), now=100.0, timeout_s=timeout_s, idempotent=idempotent, stream=stream)


def shed(retry_after_s: float | None = None) -> MeshClientError:
    error = Overloaded("full", retry_after_s=retry_after_s)
    error.never_ran = error.transient = True
    return error


def broken() -> MeshClientError:
    error = Unavailable("broken")
    error.transient = True
    return error


def test_an_attempt_gets_what_is_left() -> None:
    at = course(timeout_s=10.0)
    assert at.begin(100.0) == 10.0
    assert at.begin(104.0) == 6.0
    assert at.attempts == 2


def test_an_attempt_gets_less_where_the_policy_says_so() -> None:
    at = course(timeout_s=10.0, attempt_timeout_s=3.0)
    assert at.begin(100.0) == 3.0
    assert at.begin(108.0) == 2.0
    assert course(timeout_s=None, attempt_timeout_s=3.0).begin(0.0) == 3.0
    assert course(timeout_s=None).begin(0.0) is None


def test_a_stream_has_no_limit_of_an_attempt() -> None:
    assert course(timeout_s=None, attempt_timeout_s=3.0, stream=True).begin(100.0) is None


def test_no_attempt_begins_when_the_time_is_over() -> None:
    at = course(timeout_s=1.0)
    at.begin(100.0)
    with pytest.raises(DeadlineExceeded) as raised:
        at.begin(101.0)
    assert raised.value.attempts == 1


def test_what_never_ran_is_repeated_whatever_it_is() -> None:
    at = course(idempotent=False)
    at.begin(100.0)
    assert at.pause_s(shed(), 100.0, half) is not None


def test_what_may_have_run_is_repeated_only_if_it_may_run_twice() -> None:
    for idempotent in (False, True):
        at = course(idempotent=idempotent)
        at.begin(100.0)
        assert (at.pause_s(broken(), 100.0, half) is not None) is idempotent


def test_what_would_fail_again_is_not_repeated() -> None:
    at = course(idempotent=True)
    at.begin(100.0)
    assert at.pause_s(MeshClientError("wrong"), 100.0, half) is None


def test_who_asks_not_to_come_back_is_left_alone() -> None:
    at = course()
    at.begin(100.0)
    error = shed()
    error.final = True
    assert at.pause_s(error, 100.0, half) is None


def test_what_was_given_away_cannot_be_sent_again() -> None:
    at = course()
    at.spent = True
    at.begin(100.0)
    assert at.pause_s(shed(), 100.0, half) is None


def test_only_so_many_attempts() -> None:
    at = course(attempts_max=2)
    at.begin(100.0)
    assert at.pause_s(shed(), 100.0, half) is not None
    at.begin(100.0)
    assert at.pause_s(shed(), 100.0, half) is None


def test_pauses_grow_and_are_drawn_from_nothing_to_their_limit() -> None:
    at = course(attempts_max=9, backoff=Backoff(initial_s=0.1, max_s=0.4))
    limits = []
    for _ in range(4):
        at.begin(100.0)
        limits.append(at.pause_s(shed(), 100.0, lambda: 1.0))
        assert at.pause_s(shed(), 100.0, lambda: 0.0) == 0.0
    assert limits == [0.1, 0.2, 0.4, 0.4]


def test_the_pause_that_was_asked_for_is_kept_and_a_little_longer() -> None:
    at = course()
    at.begin(100.0)
    assert at.pause_s(shed(2.0), 100.0, lambda: 0.0) == 2.0
    assert at.pause_s(shed(2.0), 100.0, half) == pytest.approx(2.1)


def test_a_pause_that_is_too_long_is_not_begun() -> None:
    at = course(timeout_s=1.0)
    at.begin(100.0)
    assert at.pause_s(shed(1.0), 100.0, half) is None
    at = course(timeout_s=None, pushback_max_s=5.0)
    at.begin(100.0)
    assert at.pause_s(shed(5.1), 100.0, half) is None
    assert at.pause_s(shed(4.9), 100.0, half) is not None


def test_an_attempt_cut_short_may_be_repeated_and_one_that_had_all_the_time_not() -> None:
    late = DeadlineExceeded("late")
    for idempotent, limit, repeated in ((True, 1.0, True), (False, 1.0, False), (True, None, False)):
        at = course(idempotent=idempotent, attempt_timeout_s=limit)
        at.begin(100.0)
        assert (at.pause_s(late, 101.0, half) is not None) is repeated


@pytest.mark.parametrize(
    "make",
    [
        lambda: Policy(timeout_s=0),
        lambda: Policy(attempt_timeout_s=-1),
        lambda: Policy(attempts_max=0),
        lambda: Policy(pushback_max_s=-1),
        lambda: Policy(connect_timeout_s=0),
        lambda: Backoff(initial_s=0),
        lambda: Backoff(initial_s=2, max_s=1),
        lambda: Backoff(multiplier=0.5),
        lambda: Budget(ratio=1.5),
        lambda: Budget(min_per_s=-1),
        lambda: Budget(burst=101),
        lambda: Hedge(after_s=-1),
        lambda: Hedge(quantile=1),
        lambda: Hedge(samples_min=0),
    ],
)
def test_a_policy_that_cannot_be_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


def test_huge_numbers_of_repeats_do_no_harm() -> None:
    assert Backoff(initial_s=0.1, max_s=5.0).pause_s(100_000, half) == 2.5
