"""Slots: never more than the limit, one offer for each refusal, first refused first offered."""

from __future__ import annotations

from collections import Counter, deque

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.pipe.slots import Slots

CALLERS = st.sampled_from("abc")


def test_calls_up_to_the_limit_run_and_the_rest_is_refused() -> None:
    slots = Slots(2)
    assert [slots.take("a", offered=False) for _ in range(4)] == [True, True, False, False]
    assert slots.ongoing == 2 and slots.free == 0


def test_a_freed_slot_is_offered_to_the_first_that_was_refused() -> None:
    slots = Slots(1)
    slots.take("a", offered=False)
    slots.take("b", offered=False)
    slots.take("c", offered=False)
    assert slots.release() == ["b"]
    assert slots.take("b", offered=True)
    assert slots.release() == ["c"]


def test_an_offered_slot_is_nobody_elses() -> None:
    slots = Slots(1)
    slots.take("a", offered=False)
    slots.take("b", offered=False)
    slots.release()
    assert not slots.take("c", offered=False)
    assert not slots.take("c", offered=True), "an offer that c was never made"
    assert slots.take("b", offered=True)


def test_a_declined_offer_goes_to_the_next() -> None:
    slots = Slots(1)
    slots.take("a", offered=False)
    slots.take("b", offered=False)
    slots.take("c", offered=False)
    assert slots.release() == ["b"]
    assert slots.decline("b") == ["c"]
    assert slots.decline("b") == [], "declining twice frees nothing"
    assert slots.free == 0


def test_an_open_after_its_offer_ran_out_is_like_any_other() -> None:
    slots = Slots(1)
    slots.take("a", offered=False)
    slots.take("b", offered=False)
    slots.release()
    slots.decline("b")
    assert slots.take("b", offered=True), "the slot is free"
    assert not slots.take("b", offered=True), "now it is not"
    assert slots.release() == ["b"], "and this one was remembered"


def test_a_lost_caller_frees_what_was_reserved_for_it_and_is_not_offered_more() -> None:
    slots = Slots(1)
    slots.take("a", offered=False)
    for caller in ("b", "b", "c"):
        slots.take(caller, offered=False)
    assert slots.release() == ["b"]
    assert slots.forget("b") == ["c"]
    assert slots.take("c", offered=True)
    assert slots.release() == []


def test_a_higher_limit_is_offered_at_once_and_a_lower_one_lets_running_calls_be() -> None:
    slots = Slots(1)
    slots.take("a", offered=False)
    for caller in ("b", "c", "d"):
        slots.take(caller, offered=False)
    assert slots.resize(3) == ["b", "c"]
    assert slots.resize(1) == []
    assert slots.free == -2
    assert slots.take("b", offered=True) and slots.take("c", offered=True)
    assert [slots.release(), slots.release()] == [[], []]
    assert slots.release() == ["d"]


class SlotsMachine(RuleBasedStateMachine):
    """Callers that do what they like; a plain model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(2)
        self.highest = 2
        self.ongoing = 0
        self.refused: deque[str] = deque()
        self.reserved: Counter[str] = Counter()

    def offers(self, offered: list[str]) -> None:
        """Offers go to the refused in their order, no more than there is room for, no fewer either."""
        for caller in offered:
            assert caller == self.refused.popleft()
            self.reserved[caller] += 1
        used = self.ongoing + self.reserved.total()
        assert not self.refused or used >= self.slots.limit, "a slot is free and somebody waits for it"

    @rule(caller=CALLERS, offered=st.booleans())
    def take(self, caller: str, offered: bool) -> None:
        had_room = self.ongoing + self.reserved.total() < self.slots.limit
        if self.slots.take(caller, offered=offered):
            if offered and self.reserved[caller]:
                self.reserved[caller] -= 1
            else:
                assert had_room and not self.refused, "a newcomer passed somebody"
            self.ongoing += 1
        else:
            assert not (offered and self.reserved[caller]), "a reserved slot was refused"
            self.refused.append(caller)

    @precondition(lambda self: self.ongoing)
    @rule()
    def release(self) -> None:
        self.ongoing -= 1
        self.offers(self.slots.release())  # type: ignore[arg-type]

    @rule(caller=CALLERS)
    def decline(self, caller: str) -> None:
        if self.reserved[caller]:
            self.reserved[caller] -= 1
        self.offers(self.slots.decline(caller))  # type: ignore[arg-type]

    @rule(caller=CALLERS)
    def forget(self, caller: str) -> None:
        self.reserved[caller] = 0
        self.refused = deque(other for other in self.refused if other != caller)
        self.offers(self.slots.forget(caller))  # type: ignore[arg-type]

    @rule(limit=st.integers(1, 4))
    def resize(self, limit: int) -> None:
        self.highest = max(self.highest, limit)
        self.offers(self.slots.resize(limit))  # type: ignore[arg-type]

    @invariant()
    def the_books_agree(self) -> None:
        used = self.ongoing + self.reserved.total()
        assert self.slots.ongoing == self.ongoing
        assert self.slots.limit - self.slots.free == used
        assert used <= self.highest

    def teardown(self) -> None:
        """Everybody ends: each refusal that is left leads to one offer, and nothing stays taken."""
        while self.ongoing or self.reserved.total():
            for caller in [*self.reserved.elements()]:
                assert self.slots.take(caller, offered=True)
                self.reserved[caller] -= 1
                self.ongoing += 1
            self.release()
        assert not self.refused
        assert self.slots.free == self.slots.limit


TestSlots = SlotsMachine.TestCase
