"""Balance picks a backend with the fewest calls, below the limit; counts are exact; failures draw nothing."""

from __future__ import annotations

import heapq
from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.pipe.balance import SECOND_BEST_S, SUSPECT_AFTER, Balance


class Backend:
    def __init__(self, name: str = "") -> None:
        self.name = name
        self.in_flight = 0
        self.open = self.ranked = False
        self.failures = 0

    def __repr__(self) -> str:
        return f"{self.name}:{self.in_flight}"


def balance_of(limit: int, count: int) -> tuple[Balance[Backend], list[Backend]]:
    balance: Balance[Backend] = Balance(limit)
    backends = [Backend(str(i)) for i in range(count)]
    for backend in backends:
        balance.open(backend)
    return balance, backends


def test_without_backends_there_is_none() -> None:
    balance, _ = balance_of(1, 0)
    assert balance.acquire() is None


def test_equals_are_taken_in_turn_up_to_the_limit() -> None:
    balance, (a, b, c) = balance_of(2, 3)
    assert [balance.acquire() for _ in range(7)] == [a, b, c, a, b, c, None]
    assert balance.in_flight == 6


def exchanged(balance: Balance[Backend], preferred: list[Backend], rank: dict[str, int] | None = None) -> Backend:
    held = balance.acquire()
    assert held is not None
    return balance.exchange(held, preferred, lambda each: (rank or {}).get(each.name, 0))


def test_a_preferred_one_with_a_free_slot_is_taken_the_least_loaded_of_those() -> None:
    balance, (a, b, c) = balance_of(2, 3)
    assert [exchanged(balance, [b, c]) for _ in range(4)] == [b, c, b, c]
    assert (a.in_flight, b.in_flight, c.in_flight) == (0, 2, 2)
    assert exchanged(balance, [b, c]) is a, "nobody waits for a preferred one"
    assert exchanged(balance, [a]) is a and balance.in_flight == 6 and balance.acquire() is None


def test_a_preferred_one_that_is_closed_is_not_taken() -> None:
    balance, (a, b) = balance_of(2, 2)
    balance.close(b)
    assert exchanged(balance, [b]) is a


def test_without_a_preferred_one_the_rank_decides_among_the_least_loaded() -> None:
    balance, (a, b, c) = balance_of(2, 3)
    assert exchanged(balance, [], {"0": 3, "1": 2, "2": 1}) is c
    assert exchanged(balance, [], {"0": 3, "1": 2, "2": 1}) is b
    assert exchanged(balance, [], {"0": 3, "1": 2, "2": 1}) is a
    assert exchanged(balance, [c]) is c and balance.in_flight == 4


def test_the_one_that_came_free_is_next() -> None:
    balance, (a, b) = balance_of(1, 2)
    balance.acquire()
    balance.acquire()
    balance.release(b)
    assert balance.acquire() is b
    balance.release(a)
    assert balance.acquire() is a


def test_a_closed_backend_takes_nothing_and_counts_on() -> None:
    balance, (a, b) = balance_of(2, 2)
    balance.acquire()
    balance.close(a)
    balance.close(a)
    assert [balance.acquire() for _ in range(3)] == [b, b, None]
    balance.release(a)
    balance.count(a)
    assert (a.in_flight, balance.in_flight, len(balance)) == (1, 3, 1)
    balance.open(a)
    assert balance.acquire() is a
    assert balance.acquire() is None


def test_a_changed_limit_holds_at_once() -> None:
    balance, (a,) = balance_of(1, 1)
    balance.acquire()
    assert balance.acquire() is None
    balance.limit = 2
    assert balance.acquire() is a
    balance.limit = 1
    balance.release(a)
    assert balance.acquire() is None
    balance.release(a)
    assert balance.acquire() is a


def closed_loop(
    balance: Balance[Backend], takes: dict[str, int], failing: frozenset[str], *, clients: int, calls: int
) -> tuple[Counter[str], list[float]]:
    """Let so many clients ask again as soon as they are answered, until so many calls are over.

    `takes` is how long a call of each backend takes. Returns the calls of each, and max/mean of what is in flight, at
    each call's end.
    """
    served, spread = Counter[str](), list[float]()
    running: list[tuple[int, int, Backend]] = []
    waiting, now, number = clients, 0, 0
    backends = list(balance)
    while served.total() < calls:
        while waiting and (backend := balance.acquire()) is not None:
            waiting, number = waiting - 1, number + 1
            heapq.heappush(running, (now + takes[backend.name], number, backend))
        spread.append(max(each.in_flight for each in backends) * len(backends) / balance.in_flight)
        now, _, backend = heapq.heappop(running)
        served[backend.name] += 1
        if backend.name in failing:
            balance.ended(backend, failed=True)
        elif backend.failures:
            balance.ended(backend, failed=False)
        balance.release(backend)
        waiting += 1
    return served, spread


def shares(served: Counter[str]) -> dict[str, float]:
    return {name: count / served.total() for name, count in served.items()}


def test_equals_have_the_same_in_flight_and_serve_the_same() -> None:
    balance, backends = balance_of(100, 4)
    takes = {backend.name: 20 for backend in backends}
    served, spread = closed_loop(balance, takes, frozenset(), clients=64, calls=10_000)
    assert max(served.values()) <= 1.01 * served.total() / 4
    assert max(spread) <= 1.1


@pytest.mark.parametrize("limit", [100, 10], ids=["free slots", "clients wait"])
@pytest.mark.parametrize("clients", [1, 8, 64])
def test_a_backend_that_fails_fast_draws_no_more_than_its_share(clients: int, limit: int) -> None:
    balance, _ = balance_of(limit, 4)
    takes = {"0": 1, "1": 100, "2": 100, "3": 100}
    served, _ = closed_loop(balance, takes, frozenset("0"), clients=clients, calls=5_000)
    assert 0.2 < shares(served)["0"] < 0.27


def test_two_of_four_that_fail_fast_draw_no_more_than_theirs() -> None:
    balance, _ = balance_of(100, 4)
    takes = {"0": 1, "1": 1, "2": 100, "3": 100}
    served, _ = closed_loop(balance, takes, frozenset("01"), clients=64, calls=5_000)
    assert shares(served)["0"] < 0.27 and shares(served)["1"] < 0.27


def test_one_that_is_fast_and_well_may_draw_more() -> None:
    balance, _ = balance_of(100, 4)
    served, _ = closed_loop(balance, {"0": 1, "1": 100, "2": 100, "3": 100}, frozenset(), clients=64, calls=5_000)
    assert shares(served)["0"] > 0.9


def test_if_all_fail_the_least_loaded_is_first_as_ever() -> None:
    balance, backends = balance_of(10, 3)
    takes = {backend.name: 5 for backend in backends}
    served, spread = closed_loop(balance, takes, frozenset("012"), clients=30, calls=3_000)
    assert max(served.values()) <= 1.05 * 1_000
    assert max(spread[100:]) <= 1.2, "no slot stands empty"


def test_a_suspect_that_does_well_once_is_trusted_again() -> None:
    balance, (a, b) = balance_of(100, 2)
    for _ in range(SUSPECT_AFTER):
        balance.count(a)
        balance.ended(a, failed=True)
        balance.release(a)
    assert [balance.acquire() for _ in range(6)] == [b, b, a, b, a, b]
    balance.ended(a, failed=False)
    assert [balance.acquire() for _ in range(2)] == [a, a]


def test_the_last_one_that_is_open_is_never_suspect() -> None:
    balance, (a, b) = balance_of(2, 2)
    for _ in range(SUSPECT_AFTER):
        balance.ended(a, failed=True)
    assert not a.ranked
    balance.close(b)
    assert [balance.acquire() for _ in range(3)] == [a, a, None]
    for _ in range(SUSPECT_AFTER):
        balance.ended(a, failed=True)
    balance.release(a)
    assert balance.acquire() is a


def test_a_suspect_that_comes_back_begins_anew() -> None:
    balance, (a, b) = balance_of(2, 2)
    for _ in range(SUSPECT_AFTER):
        balance.ended(a, failed=True)
    balance.close(a)
    balance.open(a)
    assert a.ranked and set(balance) == {a, b}


def test_none_waits_for_ever_beside_a_suspect_that_is_idle() -> None:
    balance, (a, b) = balance_of(1, 2)
    balance.count(b)
    for _ in range(SUSPECT_AFTER):
        balance.ended(a, failed=True)
    assert balance.suspects and balance.acquire() is None
    assert balance.second_best(100.0) is a, "the first at once"
    assert balance.second_best(200.0) is None, "it has no free slot"
    balance.release(a)
    assert balance.second_best(100.0 + SECOND_BEST_S / 2) is None, "too soon"
    assert balance.second_best(100.0 + SECOND_BEST_S) is a
    assert balance.in_flight == 2


def test_a_suspect_whose_call_hangs_does_not_hold_up_the_others() -> None:
    balance, (a, b, _) = balance_of(10, 3)
    for suspect in (a, b):
        for _ in range(SUSPECT_AFTER):
            balance.ended(suspect, failed=True)
    balance.count(a)  # hangs
    served: Counter[str] = Counter()
    for _ in range(300):
        backend = balance.acquire()
        assert backend is not None
        served[backend.name] += 1
        balance.release(backend)
    assert served[a.name] == 0 and served[b.name] >= 90, served


class BalanceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.balance: Balance[Backend] = Balance(2)
        self.backends = [Backend(name) for name in "abcd"]
        self.counts = dict.fromkeys(self.backends, 0)

    def opened(self) -> list[Backend]:
        return [backend for backend in self.backends if backend.open]

    @rule(i=st.integers(0, 3))
    def open(self, i: int) -> None:
        self.balance.open(self.backends[i])

    @rule(i=st.integers(0, 3))
    def close(self, i: int) -> None:
        self.balance.close(self.backends[i])

    @rule()
    def acquire(self) -> None:
        trusted = min((self.counts[backend] for backend in self.opened() if backend.ranked), default=None)
        backend = self.balance.acquire()
        if backend is None:
            assert trusted is None or trusted >= self.balance.limit
        else:
            assert trusted is not None and backend.open and self.counts[backend] < self.balance.limit
            assert self.counts[backend] == trusted or (not backend.ranked and self.counts[backend] < trusted)
            self.counts[backend] += 1

    @rule(i=st.integers(0, 3))
    def fail(self, i: int) -> None:
        self.balance.ended(self.backends[i], failed=True)

    @rule(i=st.integers(0, 3))
    def succeed(self, i: int) -> None:
        self.balance.ended(self.backends[i], failed=False)

    @rule(i=st.integers(0, 3))
    def count(self, i: int) -> None:
        self.balance.count(self.backends[i])
        self.counts[self.backends[i]] += 1

    @precondition(lambda self: any(self.counts.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        backend = data.draw(st.sampled_from([b for b in self.backends if self.counts[b]]))
        self.balance.release(backend)
        self.counts[backend] -= 1

    @rule(limit=st.integers(1, 4))
    def change_limit(self, limit: int) -> None:
        self.balance.limit = limit

    @invariant()
    def counts_are_exact(self) -> None:
        assert {b: b.in_flight for b in self.backends} == self.counts
        assert self.balance.in_flight == sum(self.counts.values())
        assert len(self.balance) == len(self.opened())
        assert set(self.balance) == set(self.opened())
        assert not self.opened() or any(backend.ranked for backend in self.opened())
        assert all(backend.open for backend in self.backends if backend.ranked)


TestBalance = BalanceMachine.TestCase
