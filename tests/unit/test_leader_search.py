"""Whom to ask next for the leader."""

from __future__ import annotations

from mesh.leader_search import REDIRECTS_MAX, LeaderSearch


def asked(search: LeaderSearch, count: int) -> list[str]:
    """Addresses that are asked one after another while none answers."""
    found = []
    for _ in range(count):
        found.append(search.address)
        search.failed()
    return found


def test_all_are_asked_before_a_pause() -> None:
    search = LeaderSearch(["a", "b", "c"])
    pauses = []
    for _ in range(6):
        search.failed()
        pauses.append(search.round_over)
    assert pauses == [False, False, True] * 2
    assert search.rounds == 2


def test_each_round_asks_everyone_once() -> None:
    search = LeaderSearch(["a", "b", "c"])
    assert [sorted(asked(search, 3)) for _ in range(3)] == [["a", "b", "c"]] * 3


def test_a_redirect_is_followed_at_once() -> None:
    search = LeaderSearch(["a", "b"])
    search.redirected("x")
    assert (search.address, search.round_over) == ("x", False)
    search.failed()
    assert (search.address, search.round_over) == ("b", False)


def test_nobody_leads() -> None:
    search = LeaderSearch(["a", "b"])
    search.redirected("")
    assert (search.address, search.round_over) == ("b", False)
    search.redirected("")
    assert search.round_over
    assert search.rounds == 1


def test_a_leader_that_went_silent_is_asked_last() -> None:
    search = LeaderSearch(["a", "b", "c"])
    search.lost("", stood=True)  # the stream to a
    assert search.round_over
    assert search.rounds == 0
    assert asked(search, 3) == ["b", "c", "a"]


def test_a_leader_that_went_silent_is_not_followed_back_to_in_the_same_round() -> None:
    search = LeaderSearch(["a", "b"])
    search.redirected("x")
    search.lost("", stood=True)  # the stream to x
    search.redirected("x")  # says a, which does not know it yet
    assert search.address == "b"
    search.redirected("x")
    assert search.round_over
    search.redirected("x")
    assert search.address == "x", "in the next round it may lead again"


def test_a_leader_that_names_its_successor_is_followed() -> None:
    search = LeaderSearch(["a", "b"])
    search.lost("b", stood=True)
    assert (search.address, search.round_over) == ("b", False)


def test_redirects_in_a_ring_end_in_a_pause() -> None:
    search = LeaderSearch(["a", "b"])
    steps = 0
    while not search.round_over or not steps:
        search.redirected("b" if search.address == "a" else "a")
        steps += 1
        assert steps <= 2 * REDIRECTS_MAX + 2
    assert search.rounds == 1


def test_streams_that_are_taken_only_to_be_ended_lead_to_pauses_that_grow() -> None:
    search = LeaderSearch(["a"])
    for i in range(5):
        search.lost("", stood=False)
        assert search.round_over
        assert search.rounds == i + 1
    for _ in range(REDIRECTS_MAX):
        search.lost("a", stood=False)
        assert not search.round_over
    search.lost("a", stood=False)
    assert search.round_over


def test_one_address() -> None:
    search = LeaderSearch(["a"])
    assert asked(search, 2) == ["a", "a"]
    assert search.round_over
