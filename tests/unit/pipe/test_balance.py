"""Balance always picks a backend with the fewest calls, below the limit, and its counts are exact."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.pipe.balance import Balance


class Backend:
    def __init__(self, name: str = "") -> None:
        self.name = name
        self.in_flight = 0
        self.open = False

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
        least = min((self.counts[backend] for backend in self.opened()), default=None)
        backend = self.balance.acquire()
        if least is None or least >= self.balance.limit:
            assert backend is None
        else:
            assert backend is not None and backend.open and self.counts[backend] == least
            self.counts[backend] += 1

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


TestBalance = BalanceMachine.TestCase
