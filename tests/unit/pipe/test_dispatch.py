"""Where each call goes: at once, later, elsewhere or not at all; slots are counted exactly through every turn of it.

The links are real, but their replica never speaks (a listener that takes connections and says nothing): the test plays
its part by calling what the link would call.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from mesh.clock import Clock
from mesh.credentials import OPEN
from mesh.errors import HandlerFailed, MeshError, Overloaded, ReplicaLost, Unavailable
from mesh.pipe.balance import SUSPECT_AFTER
from mesh.pipe.call import Call
from mesh.pipe.dispatch import Dispatcher, Limits
from mesh.pipe.link import Link
from mesh.pipe.retry import LOSSES_MAX
from mesh.v1 import replica_service_pb2 as pb
from tests.support.pipes import turns


class Played:
    """A dispatcher and the replicas that the test plays."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.dispatcher = Dispatcher("default", "Test", Limits(1, 2), OPEN, Clock())

    def replicas(self, *names: str, limits: Limits | None = None) -> list[Link]:
        """Put a snapshot with these replicas in force and let each connect."""
        self.dispatcher.update(limits or Limits(1, 2), [(name, self.address) for name in names])
        links = [self.dispatcher._links[name] for name in names]
        for link in links:
            self.dispatcher.connected(link)
        return links

    def submit(self, *, method: str = "GET", body_follows: bool = False, model_id: str = "") -> Call:
        """Submit a call."""
        frame = pb.RequestFrame(open=pb.Open(method=method, end=not body_follows))
        call = Call(frame, asyncio.get_running_loop(), idempotent=method == "GET", body_follows=body_follows)
        if model_id:
            call.for_model(model_id)
        self.dispatcher.submit(call, "id")
        return call

    def sent(self, link: Link) -> list[Call]:
        """Return the calls on a link."""
        return list(link._calls.values())

    def reject(self, call: Call, refusal: int = pb.REFUSAL_FULL) -> None:
        """Refuse a call, as its replica."""
        assert call.link is not None
        del call.link._calls[call.number]
        self.dispatcher.rejected(call.link, call, refusal)

    def answer(self, call: Call) -> None:
        """Answer a call and end it, as its replica."""
        assert call.link is not None
        call.answer(pb.Head(status=200, end=True))
        del call.link._calls[call.number]
        self.dispatcher.done(call.link, call)

    def lose(self, link: Link) -> None:
        """Break the pipe."""
        calls = self.sent(link)
        link._calls.clear()
        self.dispatcher.lost(link, calls)


@pytest.fixture
async def played() -> AsyncIterator[Played]:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        played = Played(f"127.0.0.1:{silent.getsockname()[1]}")
        yield played
        await played.dispatcher.close("the test is over")
        assert played.dispatcher.in_flight == 0 and played.dispatcher.queued == 0


def failure(call: Call) -> BaseException | None:
    return call.head.exception() if call.head.done() else None


async def test_one_runs_two_wait_the_rest_is_shed_and_all_in_order(played: Played) -> None:
    (link,) = played.replicas("a")
    calls = [played.submit() for _ in range(3)]
    for _ in range(3):
        with pytest.raises(Overloaded, match=r"num_queued_requests=2, max_queued_requests=2"):
            played.submit()
    for call in calls:
        assert played.sent(link) == [call]
        played.answer(call)
    assert played.dispatcher.in_flight == 0


async def test_who_waits_before_there_is_a_replica_is_served_by_the_first(played: Played) -> None:
    first, second = played.submit(), played.submit()
    (link,) = played.replicas("a")
    assert played.sent(link) == [first]
    played.answer(first)
    assert played.sent(link) == [second]


async def test_a_refused_call_takes_its_old_place_and_the_first_offer(played: Played) -> None:
    (link,) = played.replicas("a")
    first, second = played.submit(), played.submit()
    played.reject(first)
    assert (played.dispatcher.in_flight, played.dispatcher.queued) == (0, 2)
    played.dispatcher.offered(link)
    assert played.sent(link) == [first] and first.offered
    played.answer(first)
    assert played.sent(link) == [second] and not second.offered


async def test_an_offer_for_nobody_is_given_back_and_the_replica_is_used_again(played: Played) -> None:
    (link,) = played.replicas("a")
    call = played.submit()
    played.reject(call)
    played.dispatcher.cancel(call)
    played.dispatcher.offered(link)
    assert played.dispatcher.in_flight == 0
    assert played.sent(link) == []
    assert played.sent(link) == [] and played.submit() in played.sent(link)


async def test_a_draining_replica_gets_nothing_more(played: Played) -> None:
    one, two = played.replicas("a", "b")
    call = played.submit()
    assert played.sent(one) == [call]
    played.reject(call, pb.REFUSAL_DRAINING)
    assert played.sent(two) == [call]
    waiting = played.submit()
    played.answer(call)
    assert played.sent(two) == [waiting] and played.sent(one) == []


async def test_a_call_that_is_given_up_between_its_slot_and_its_body_is_not_sent(played: Played) -> None:
    (link,) = played.replicas("a")
    call = played.submit(method="POST", body_follows=True)
    assert played.dispatcher.in_flight == 1
    played.dispatcher.cancel(call)
    call.fail(Unavailable("given up"))
    assert played.dispatcher.in_flight == 0
    for end in (True, False):
        with pytest.raises(Unavailable):
            played.dispatcher.open(call, b"body", end=end)
    assert played.sent(link) == [] and played.dispatcher.in_flight == 0


async def test_a_slot_that_is_lost_before_the_body_came_is_found_again_elsewhere(played: Played) -> None:
    one, two = played.replicas("a", "b")
    call = played.submit(method="POST", body_follows=True)
    assert one.held == {call}
    blocker = played.submit()
    played.lose(one)
    assert (played.dispatcher.in_flight, played.dispatcher.queued) == (1, 1)
    played.dispatcher.open(call, b"body", end=True)
    assert played.sent(two) == [blocker]
    played.answer(blocker)
    assert played.sent(two) == [call] and call.frame.open.data == b"body"


async def test_a_lost_replica_idempotent_calls_are_repeated_once_others_fail(played: Played) -> None:
    one, two = played.replicas("a", "b", limits=Limits(2, 9))
    get, post = played.submit(), played.submit(method="POST")
    both = {id(get): one, id(post): two}
    for call, link in ((get, one), (post, two)):
        assert call.link is link and both[id(call)] is link
        call.accept()
    played.lose(two)
    assert isinstance(failure(post), ReplicaLost)
    played.dispatcher.connected(two)
    played.lose(one)
    assert played.sent(two) == [get], "repeated"
    get.accept()
    played.lose(two)
    assert isinstance(failure(get), ReplicaLost), "once"


async def test_a_call_that_was_not_accepted_goes_elsewhere_but_not_for_ever(played: Played) -> None:
    (link,) = played.replicas("a")
    call = played.submit(method="POST")
    for _ in range(LOSSES_MAX):
        played.lose(link)
        assert failure(call) is None and played.dispatcher.queued == 1
        played.dispatcher.connected(link)
        assert played.sent(link) == [call]
    played.lose(link)
    assert isinstance(failure(call), ReplicaLost)


async def test_an_idempotent_call_that_was_not_accepted_may_have_run_and_is_repeated_once(played: Played) -> None:
    (link,) = played.replicas("a")
    call = played.submit()
    assert call.frame.open.idempotent
    played.lose(link)
    played.dispatcher.connected(link)
    assert played.sent(link) == [call]
    played.lose(link)
    assert isinstance(failure(call), ReplicaLost)


async def test_an_upload_whose_replica_is_lost_just_ends(played: Played) -> None:
    (link,) = played.replicas("a")
    call = played.submit(method="POST", body_follows=True)
    played.dispatcher.open(call, b"", end=False)
    call.accept()
    assert await call.write(b"x", end=False)
    played.lose(link)
    assert not await call.write(b"x", end=False)
    assert not await call.write(b"", end=True)


async def test_a_cancelled_call_keeps_its_slot_until_it_is_done(played: Played) -> None:
    (link,) = played.replicas("a")
    call, waiting = played.submit(), played.submit()
    played.dispatcher.cancel(call)
    played.dispatcher.cancel(call)
    assert played.dispatcher.in_flight == 1 and played.sent(link) == [call]
    del link._calls[call.number]
    played.dispatcher.done(link, call)
    assert played.sent(link) == [waiting]


async def test_a_call_that_ends_without_a_whole_answer_fails(played: Played) -> None:
    (link,) = played.replicas("a")
    for prepare in (lambda call: None, lambda call: call.answer(pb.Head(status=200))):
        call = played.submit()
        prepare(call)
        del link._calls[call.number]
        played.dispatcher.done(link, call)
        assert isinstance(failure(call), ReplicaLost) or call.head.result().status == 200
        with pytest.raises(ReplicaLost):
            await call.read()


async def test_what_the_handler_raised_ends_the_call_and_done_frees_the_slot(played: Played) -> None:
    (link,) = played.replicas("a")
    call = played.submit()
    played.dispatcher.failed(link, call, pb.Failed(message="ValueError"))
    assert isinstance(failure(call), HandlerFailed) and played.dispatcher.in_flight == 1
    del link._calls[call.number]
    played.dispatcher.done(link, call)
    assert played.dispatcher.in_flight == 0


def by_retiring(played: Played) -> None:
    played.dispatcher.retire("gone")


def by_failing(played: Played) -> None:
    played.dispatcher.update(Limits(1, 2, "failed to deploy"), ())


@pytest.mark.parametrize("end", [by_retiring, by_failing])
async def test_without_a_replica_ever_again_whoever_waits_or_comes_back_is_told(
    played: Played, end: Callable[[Played], None]
) -> None:
    (link,) = played.replicas("a")
    running, waiting = played.submit(), played.submit()
    end(played)
    assert isinstance(failure(waiting), Unavailable)
    assert failure(running) is None, "what runs may end"
    played.reject(running, pb.REFUSAL_DRAINING)
    assert isinstance(failure(running), Unavailable), "it never ran, and never will"
    assert played.dispatcher.in_flight == 0 and link not in played.dispatcher._links.running
    with pytest.raises(Unavailable):
        played.submit()


async def test_replicas_that_run_out_take_calls_until_they_drain_or_are_lost(played: Played) -> None:
    one, two = played.replicas("a", "b")
    played.dispatcher.run_out("gone")
    first, second = played.submit(method="POST"), played.submit(method="POST")
    assert (played.sent(one), played.sent(two)) == ([first], [second])
    waiting = played.submit(method="POST")
    played.reject(second, pb.REFUSAL_DRAINING)
    assert played.dispatcher.queued == 2 and two not in played.dispatcher._links.running
    played.answer(first)
    assert played.sent(one) == [second] and played.dispatcher.queued == 1
    second.accept()
    played.lose(one)
    assert isinstance(failure(second), ReplicaLost), "it may have run"
    assert isinstance(failure(waiting), Unavailable), "nobody is left"
    with pytest.raises(Unavailable, match="gone"):
        played.submit()
    (again,) = played.replicas("a")
    played.answer(played.submit())
    played.lose(again)
    assert played.dispatcher._links == {"a": again}, "what is in a snapshot comes back"


async def test_a_replica_that_drains_when_there_will_be_no_others_is_not_waited_for(played: Played) -> None:
    (link,) = played.replicas("a")
    call = played.submit()
    played.reject(call, pb.REFUSAL_DRAINING)
    assert played.dispatcher.queued == 1
    played.dispatcher.run_out("gone")
    assert isinstance(failure(call), Unavailable)
    played.lose(link)


async def test_who_waits_for_a_deployment_that_goes_is_served_by_its_successor(played: Played) -> None:
    (link,) = played.replicas("a")
    running, held, gone = played.submit(), played.submit(method="POST", body_follows=True), played.submit()
    old, played.dispatcher = played.dispatcher, Dispatcher("default", "New", Limits(1, 0), OPEN, Clock())
    (new,) = played.replicas("b", limits=Limits(1, 0))
    own = played.submit()
    old.retire("gone", played.dispatcher)
    assert (old.queued, played.dispatcher.queued) == (0, 2), "admitted once, they are not shed"
    assert failure(held) is None and failure(gone) is None and failure(running) is None
    old.cancel(gone)
    assert gone.ended and played.dispatcher.queued == 1, "given up where it was submitted"
    played.answer(own)
    assert held.link is new
    await held.granted()
    old.open(held, b"body", end=True)
    assert played.sent(new) == [held]
    del link._calls[running.number]
    old.rejected(link, running, pb.REFUSAL_DRAINING)
    assert played.dispatcher.queued == 1 and old.in_flight == 0, "it never ran: it waits there too"
    played.answer(held)
    assert played.sent(new) == [running]
    old.cancel(running)
    played.answer(running)
    await old.drain()
    await old.close("the test is over")


async def test_drain_ends_with_the_last_call(played: Played) -> None:
    (link,) = played.replicas("a")
    first, second = played.submit(), played.submit()
    drained = asyncio.ensure_future(played.dispatcher.drain())
    played.answer(first)
    await asyncio.sleep(0)
    assert not drained.done()
    played.answer(second)
    await drained
    assert played.sent(link) == []


async def test_a_drain_that_was_given_up_does_no_harm_later(played: Played) -> None:
    played.replicas("a")
    call = played.submit()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await played.dispatcher.drain()
    played.answer(call)


async def test_close_answers_everybody(played: Played) -> None:
    one, _ = played.replicas("a", "b")
    await turns()  # the links are under way
    sent, held, waiting = played.submit(), played.submit(method="POST", body_follows=True), played.submit()
    assert sent.link is one
    await played.dispatcher.close("closing")
    for call in (sent, held, waiting):
        assert isinstance(failure(call), Unavailable | ReplicaLost), call
    with pytest.raises(MeshError):
        await held.granted()
    assert played.dispatcher.queued == 0


async def test_a_raised_limit_lets_more_run_at_once(played: Played) -> None:
    (link,) = played.replicas("a")
    calls = [played.submit() for _ in range(3)]
    played.dispatcher.update(Limits(3, 2), [("a", played.address)])
    assert played.sent(link) == calls
    played.dispatcher.update(Limits(1, 2), [("a", played.address)])
    waiting = played.submit()
    for call in calls:
        assert waiting not in played.sent(link)
        played.answer(call)
    assert played.sent(link) == [waiting]


async def test_calls_come_in_order_through_refusals_and_losses(played: Played) -> None:
    one, two = played.replicas("a", "b", limits=Limits(2, 99))
    calls = [played.submit() for _ in range(8)]
    for call in (calls[1], calls[0]):
        played.reject(call)
    played.lose(two if calls[2].link is two else one)
    for link in (one, two):
        played.dispatcher.connected(link)
    order: list[Call] = []
    while len(order) < len(calls):
        sent = sorted(played.sent(one) + played.sent(two), key=lambda call: call.order)
        order.append(sent[0])
        played.answer(sent[0])
    assert order == calls


async def test_a_call_goes_where_its_model_is_if_that_replica_has_a_slot(played: Played) -> None:
    first, second = played.replicas("a", "b", limits=Limits(1, 9))
    played.dispatcher.models(second, ["m"])
    call = played.submit(model_id="m")
    assert call.link is second and call.frame.open.model_id == "m"
    elsewhere, waits = played.submit(model_id="m"), played.submit(model_id="m")
    assert elsewhere.link is first and waits.link is None
    played.answer(elsewhere)
    assert waits.link is first, "no call waits for a particular replica"
    played.answer(waits)
    played.answer(call)


async def test_a_model_is_expected_where_a_call_for_it_went_and_the_rest_goes_where_fewest_are(played: Played) -> None:
    first, second = played.replicas("a", "b", limits=Limits(4, 9))
    links = {}
    for model_id in "wxyz":
        call = played.submit(model_id=model_id)
        links[model_id] = call.link
        played.answer(call)
    assert sorted(link.replica_id for link in links.values() if link is not None) == ["a", "a", "b", "b"]
    for model_id in "zyxw":
        call = played.submit(model_id=model_id)
        assert call.link is links[model_id]
        played.answer(call)
    played.lose(first)
    played.dispatcher.connected(first)
    call = played.submit(model_id=next(each for each, link in links.items() if link is first))
    assert call.link is first, "it lost its models, and has the fewest"
    played.answer(call)
    assert second.in_flight == 0


async def test_slots_of_a_replica_whose_pipe_is_on_its_way_count(played: Played) -> None:
    """One runs, as soon as the pipe stands, and two wait: neither fewer nor more are let in before that."""
    played.dispatcher.update(Limits(1, 2), [("a", played.address)])
    calls = [played.submit() for _ in range(3)]
    with pytest.raises(Overloaded):
        played.submit()
    (link,) = played.replicas("a")
    assert calls[0].link is link and played.dispatcher.queued == 2
    with pytest.raises(Overloaded):
        played.submit()


async def test_slots_of_a_replica_that_could_not_be_reached_do_not_count(played: Played) -> None:
    (link,) = played.replicas("a")
    played.lose(link)
    for _ in range(2):
        played.submit()
    with pytest.raises(Overloaded):
        played.submit()


async def test_a_call_goes_to_a_replica_that_fails_rather_than_wait_for_long_or_be_shed(played: Played) -> None:
    busy, failing = played.replicas("busy", "failing", limits=Limits(1, 1))
    first = played.submit()
    assert first.link is busy

    def fail(call: Call) -> None:
        assert call.link is failing
        del failing._calls[call.number]
        played.dispatcher.failed(failing, call, pb.Failed(message="no"))
        played.dispatcher.done(failing, call)

    for _ in range(SUSPECT_AFTER):
        fail(played.submit())
    at_once = played.submit()
    fail(at_once)
    waits = played.submit()
    assert waits.link is None and played.dispatcher.queued == 1
    async with asyncio.timeout(10):
        while waits.link is None:
            await asyncio.sleep(0.01)
    played.answer(waits)
    played.answer(first)


async def test_what_another_deployment_refused_is_no_fault_of_the_replica_that_asked_it(played: Played) -> None:
    (one, other) = played.replicas("one", "other", limits=Limits(1, 1))
    for _ in range(SUSPECT_AFTER):
        call = played.submit()
        link = call.link
        assert link is not None
        del link._calls[call.number]
        played.dispatcher.failed(link, call, pb.Failed(kind=pb.FAILURE_KIND_OVERLOADED, detail="full"))
        played.dispatcher.done(link, call)
    assert one.failures == other.failures == 0
