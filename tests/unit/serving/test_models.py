"""Which models are held, loaded and unloaded: by hand, and for every interleaving that hypothesis finds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.serving.models import Models


class World:
    """Plays the shell: does what a step says, and keeps what came of it. Loads and unloads end when told to."""

    def __init__(self, limit: int | None) -> None:
        self.core: Models[int] = Models(limit)
        self.tickets = itertools.count()
        self.loading: set[str] = set()
        self.unloading: set[str] = set()
        self.given: dict[int, Any] = {}
        self.failed: list[int] = []
        self.unloads: Callable[[str], object] = lambda _: None

    def ask(self, model_id: str, holder: str | None = None) -> int:
        ticket = next(self.tickets)
        self.core.ask(ticket, model_id, holder)
        self.step()
        return ticket

    def step(self) -> None:
        step = self.core.step()
        for ticket, model in step.given:
            assert ticket not in self.given
            self.given[ticket] = model
        for model_id, model in step.unload:
            assert model == model_id.upper()
            self.unloading.add(model_id)
            self.unloads(model_id)
        for model_id, _ in step.load:
            assert model_id not in self.loading and model_id not in self.unloading
            self.loading.add(model_id)

    def loaded(self, model_id: str) -> None:
        self.loading.remove(model_id)
        self.core.loaded(model_id, model_id.upper())
        self.step()

    def fail(self, model_id: str) -> None:
        self.loading.remove(model_id)
        self.failed += self.core.failed(model_id)
        self.step()

    def unloaded(self, model_id: str) -> None:
        self.unloading.remove(model_id)
        self.core.unloaded(model_id)
        self.step()

    def release(self, holder: str) -> None:
        self.core.release(holder)
        self.step()

    def have(self, *model_ids: str) -> None:
        """Load models that nobody uses."""
        for model_id in model_ids:
            self.ask(model_id)
            self.loaded(model_id)


def test_one_load_for_all_who_ask() -> None:
    world = World(2)
    tickets = [world.ask("a"), world.ask("a")]
    assert world.loading == {"a"} and not world.given
    world.loaded("a")
    assert [world.given[ticket] for ticket in tickets] == ["A", "A"]
    assert world.given[world.ask("a")] == "A" and not world.loading


def test_the_one_used_longest_ago_makes_room() -> None:
    world = World(2)
    world.have("a", "b")
    world.ask("a")
    assert world.core.model_ids == ("b", "a")
    ticket = world.ask("c")
    assert world.unloading == {"b"} and not world.loading, "the room first"
    world.unloaded("b")
    assert world.loading == {"c"}
    world.loaded("c")
    assert world.given[ticket] == "C" and world.core.model_ids == ("a", "c")


def test_a_failed_load_is_not_kept() -> None:
    world = World(1)
    tickets = [world.ask("a"), world.ask("a"), world.ask("b")]
    world.fail("a")
    assert world.failed == tickets[:2] and world.loading == {"b"}


def test_whoever_leaves_ends_no_load() -> None:
    world = World(1)
    world.core.abandon(world.ask("a"))
    world.loaded("a")
    assert not world.given and world.core.model_ids == ("a",)


def test_a_model_in_use_stays_and_nobody_new_gets_it_before_who_waits() -> None:
    world = World(1)
    first = world.ask("a", "one")
    world.loaded("a")
    other, again = world.ask("b", "two"), world.ask("a", "three")
    assert set(world.given) == {first} and not world.unloading and world.core.model_ids == ()
    world.release("one")
    assert world.unloading == {"a"}
    world.unloaded("a")
    world.loaded("b")
    assert other in world.given and again not in world.given
    world.release("two")
    world.unloaded("b")
    world.loaded("a")
    assert again in world.given


def test_a_model_that_was_to_leave_stays_if_nobody_wants_its_room_any_more() -> None:
    world = World(1)
    world.ask("a", "one")
    world.loaded("a")
    other, again = world.ask("b", "two"), world.ask("a", "three")
    world.core.abandon(other)
    world.step()
    assert world.given[again] == "A" and world.core.model_ids == ("a",)


def test_a_request_that_wants_more_at_once_than_there_is_room_for_lets_go_of_its_own() -> None:
    world = World(1)
    world.ask("a", "one")
    world.loaded("a")
    ticket = world.ask("b", "one")
    assert world.unloading == {"a"}
    world.unloaded("a")
    world.loaded("b")
    assert world.given[ticket] == "B"


def test_requests_that_wait_for_each_other_are_let_go_on() -> None:
    world = World(2)
    world.ask("a", "one")
    world.ask("b", "two")
    world.loaded("a")
    world.loaded("b")
    tickets = [world.ask("c", "one"), world.ask("d", "two")]
    assert world.unloading == {"a"}, "the first in the line gives its own"
    world.unloaded("a")
    world.loaded("c")
    assert tickets[0] in world.given and not world.unloading
    world.release("one")
    assert world.unloading == {"c"}
    world.unloaded("c")
    world.loaded("d")
    assert tickets[1] in world.given


def test_a_request_that_is_over_holds_nothing_it_is_given_later() -> None:
    world = World(1)
    world.ask("a", "one")
    world.release("one")
    world.loaded("a")
    world.ask("b")
    assert world.unloading == {"a"}


def test_without_a_limit_nothing_goes() -> None:
    world = World(None)
    world.have(*"abcdefgh")
    assert len(world.core.model_ids) == 8 and not world.unloading


class AnyInterleaving(RuleBasedStateMachine):
    """Requests that ask, leave and end, loads and unloads that take their time, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 2
        self.world = World(self.limit)
        self.asked: dict[int, tuple[str, str]] = {}
        """By ticket: model and holder."""
        self.gone: set[int] = set()
        self.over: set[str] = set()
        self.world.unloads = self.is_unloaded
        self.lost: set[int] = set()
        """Tickets whose models went while their requests waited for others."""

    def is_unloaded(self, model_id: str) -> None:
        """A model that a request uses goes only if that request waits for another one."""
        waiting = {self.asked[ticket][1] for ticket in self.open}
        for ticket in self.world.given:
            asked_id, holder = self.asked.get(ticket, ("", ""))
            if asked_id == model_id and holder not in self.over and ticket not in self.lost:
                assert holder in waiting
                self.lost.add(ticket)

    @property
    def open(self) -> list[int]:
        """Tickets that wait."""
        answered = self.world.given.keys() | set(self.world.failed) | self.gone
        return [ticket for ticket in self.asked if ticket not in answered]

    @rule(model_id=st.sampled_from("abcd"), holder=st.sampled_from("123456"))
    def ask(self, model_id: str, holder: str) -> None:
        holder = f"{holder}.{sum(each.startswith(holder) for each in self.over)}"
        self.asked[len(self.asked)] = (model_id, holder)
        assert self.world.ask(model_id, holder) == len(self.asked) - 1

    @precondition(lambda self: len(self.open) > 0)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.open))
        self.world.core.abandon(ticket)
        self.gone.add(ticket)
        self.world.step()

    @precondition(lambda self: len(self.world.loading) > 0)
    @rule(data=st.data(), fails=st.booleans())
    def end_load(self, data: st.DataObject, fails: bool) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.world.loading)))
        if fails:
            self.world.fail(model_id)
        else:
            self.world.loaded(model_id)

    @precondition(lambda self: len(self.world.unloading) > 0)
    @rule(data=st.data())
    def end_unload(self, data: st.DataObject) -> None:
        self.world.unloaded(data.draw(st.sampled_from(sorted(self.world.unloading))))

    @precondition(lambda self: len(set(self.holders()) - self.over) > 0)
    @rule(data=st.data())
    def end_request(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(sorted(set(self.holders()) - self.over))))

    def end(self, holder: str) -> None:
        for ticket in self.open:
            if self.asked[ticket][1] == holder:
                self.world.core.abandon(ticket)
                self.gone.add(ticket)
        self.over.add(holder)
        self.world.release(holder)

    def holders(self) -> list[str]:
        return [holder for _, holder in self.asked.values()]

    @invariant()
    def no_more_than_may(self) -> None:
        core = self.world.core
        assert len(core._loaded) + len(self.world.loading) + len(self.world.unloading) <= self.limit

    @invariant()
    def what_was_given_is_what_was_asked_for(self) -> None:
        assert all(model == self.asked[ticket][0].upper() for ticket, model in self.world.given.items())

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Somebody waits only while a load, an unload or a request is under way that will change that."""
        waiting = {self.asked[ticket][1] for ticket in self.open}
        running = {holder for ticket, (_, holder) in self.asked.items() if ticket in self.world.given} - self.over
        assert not self.open or self.world.loading or self.world.unloading or running - waiting

    def teardown(self) -> None:
        """Whoever waits is served in the end, if loads, unloads and requests end."""
        for _ in range(10 * len(self.asked) + 10):
            for model_id in list(self.world.unloading):
                self.world.unloaded(model_id)
            for model_id in list(self.world.loading):
                self.world.loaded(model_id)
            waiting = {self.asked[ticket][1] for ticket in self.open}
            for holder in sorted(set(self.holders()) - self.over - waiting):
                self.end(holder)
        assert not self.open


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
