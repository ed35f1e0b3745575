"""Leadership on both stores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mesh.clock import SYSTEM
from mesh.controlplane.dead_leader import own_mark
from mesh.controlplane.leader import KEY, MARK_KEY, Leadership, LeaderState
from mesh.controlplane.store import Compare, Put, Remove, Store
from mesh.errors import Conflict, Unreachable
from mesh.lifecycle import Tasks

TTL_S = 2.0
LONG_S = 60.0


async def until(leadership: Leadership, wanted: Callable[[LeaderState], bool]) -> LeaderState:
    state = leadership.state
    while not wanted(state):
        state = await leadership.changed(state)
    return state


def leads(state: LeaderState) -> bool:
    return state.is_leader


def follows(state: LeaderState) -> bool:
    return not state.is_leader and state.leader_address != ""


@pytest.fixture
async def tasks() -> Any:
    owner = Tasks()
    yield owner
    await owner.cancel()


class Cut:
    """A store whose connection can be cut: renewals and revocations then fail, all else goes on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.cut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def keep_alive(self, lease: int) -> float:
        if self.cut:
            raise Unreachable("cut")
        return await self._store.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        if self.cut:
            raise Unreachable("cut")
        await self._store.revoke(lease)

    async def grant(self, ttl_s: float) -> int:
        if self.cut:
            raise Unreachable("cut")
        return await self._store.grant(ttl_s)


async def test_one_of_several_leads_and_all_know_who(store: Store, tasks: Tasks) -> None:
    contenders = [Leadership(store, f"host{number}:7070", ttl_s=TTL_S) for number in range(3)]
    assert [one.leader_address for one in contenders] == ["", "", ""]
    for one in contenders:
        tasks.spawn(one.run(), name="contender")
    states = [await until(one, lambda state: state.leader_address != "") for one in contenders]
    assert sum(state.is_leader for state in states) == 1
    (leader,) = [one for one in contenders if one.is_leader]
    assert {one.leader_address for one in contenders} == {leader.leader_address}
    item = await store.get(KEY)
    assert item is not None
    assert leader.fence() == Compare(KEY, item.revision) == Compare(KEY, leader.term)
    for one in contenders:
        if one is not leader:
            assert one.term == 0
            with pytest.raises(Conflict):
                one.fence()


async def test_a_leader_that_resigns_hands_over_at_once(store: Store, tasks: Tasks) -> None:
    first, second = (Leadership(store, f"host{number}:7070", ttl_s=LONG_S) for number in range(2))
    run = tasks.spawn(first.run(), name="first")
    term = (await until(first, leads)).term
    tasks.spawn(second.run(), name="second")
    assert (await until(second, follows)).leader_address == "host0:7070"
    await first.resign()
    assert not first.is_leader
    assert first.state == LeaderState(False, 0, first.leader_address)
    await run
    # Its lease would have lasted a minute, longer than a test may.
    assert (await until(second, leads)).term > term
    await second.resign()
    assert await store.get(KEY) is None


async def test_a_follower_that_resigns_changes_nothing(store: Store, tasks: Tasks) -> None:
    first, second = (Leadership(store, f"host{number}:7070", ttl_s=LONG_S) for number in range(2))
    tasks.spawn(first.run(), name="first")
    state = await until(first, leads)
    run = tasks.spawn(second.run(), name="second")
    await until(second, follows)
    await second.resign()
    await run
    assert first.state == state


async def test_a_leader_keeps_its_term_beyond_its_lease(store: Store, tasks: Tasks) -> None:
    ttl_s = 3.0
    leader = Leadership(store, "host:7070", ttl_s=ttl_s)
    tasks.spawn(leader.run(), name="leader")
    state = await until(leader, leads)
    changed = asyncio.ensure_future(leader.changed(state))
    done, _ = await asyncio.wait({changed}, timeout=1.2 * ttl_s)
    assert not done
    assert leader.state == state
    changed.cancel()


async def test_a_leader_that_cannot_renew_stops_before_another_starts(store: Store, tasks: Tasks) -> None:
    cut = Cut(store)
    first, second = Leadership(cut, "host0:7070", ttl_s=TTL_S), Leadership(store, "host1:7070", ttl_s=TTL_S)
    tasks.spawn(first.run(), name="first")
    old = await until(first, leads)
    tasks.spawn(second.run(), name="second")
    await until(second, follows)
    cut.cut = True
    ended = asyncio.ensure_future(until(first, lambda state: not state.is_leader))
    new = await until(second, leads)
    assert ended.done()
    assert not first.is_leader
    assert new.term > old.term
    cut.cut = False
    await until(first, lambda state: state.leader_address == "host1:7070")


async def test_a_stale_leaders_write_is_refused(store: Store, tasks: Tasks) -> None:
    first, second = (Leadership(store, f"host{number}:7070", ttl_s=LONG_S) for number in range(2))
    tasks.spawn(first.run(), name="first")
    await until(first, leads)
    stale = first.fence()
    await store.commit((stale,), (Put("goal", b"first"),))
    tasks.spawn(second.run(), name="second")
    await until(second, follows)
    await first.resign()
    await until(second, leads)
    with pytest.raises(Conflict):
        await store.commit((stale,), (Put("goal", b"stale"),))
    await store.commit((second.fence(),), (Put("goal", b"second"),))
    item = await store.get("goal")
    assert item is not None
    assert item.value == b"second"


async def test_a_leader_whose_key_is_taken_away_stops_and_campaigns_again(store: Store, tasks: Tasks) -> None:
    leader = Leadership(store, "host:7070", ttl_s=LONG_S)
    tasks.spawn(leader.run(), name="leader")
    old = await until(leader, leads)
    await store.commit((), (Put(KEY, b"usurper:7070"),))
    assert (await until(leader, lambda state: not state.is_leader)).term == 0
    await until(leader, lambda state: state.leader_address == "usurper:7070")
    item = await store.get(KEY)
    assert item is not None
    await store.commit((), (Put("leaderboard", b"none of its business"),))
    await store.commit((), (Remove(KEY),))
    assert (await until(leader, leads)).term > old.term


async def test_trust_ends_at_two_thirds_of_the_lease(store: Store, tasks: Tasks) -> None:
    cut = Cut(store)
    cut.cut = False
    leader = Leadership(cut, "host:7070", ttl_s=TTL_S)
    asked: list[float] = []
    grant = store.grant

    async def timed(ttl_s: float) -> int:
        asked.append(SYSTEM.monotonic())
        cut.cut = True
        return await grant(ttl_s)

    cut.grant = timed  # type: ignore[method-assign]
    tasks.spawn(leader.run(), name="leader")
    await until(leader, leads)
    await until(leader, lambda state: not state.is_leader)
    assert SYSTEM.monotonic() >= asked[0] + TTL_S * 2 / 3 - 0.01


def test_needs_no_store_to_say_that_it_does_not_lead() -> None:
    async def check() -> Sequence[object]:
        leadership = Leadership(Cut(None), "host:7070")  # type: ignore[arg-type]
        await leadership.resign()
        return leadership.is_leader, leadership.term, leadership.leader_address

    assert asyncio.run(check()) == (False, 0, "")


async def led_before(store: Store, mark: str) -> tuple[int, int]:
    """Somebody led. Returns term and lease."""
    lease = await store.grant(LONG_S)
    puts = (Put(KEY, b"host:7070", lease), Put(MARK_KEY, mark.encode(), lease))
    return await store.commit((Compare(KEY, 0),), puts), lease


async def test_a_leader_whose_process_is_gone_is_not_waited_for(store: Store, tasks: Tasks) -> None:
    boot, namespace, pid, started = own_mark().split()
    term, lease = await led_before(store, f"{boot} {namespace} {pid} {int(started) - 1}")
    leader = Leadership(store, "host:7070", ttl_s=TTL_S)
    tasks.spawn(leader.run(), name="contender")
    assert (await until(leader, leads)).term > term
    with pytest.raises(Conflict):
        await store.commit((Compare(KEY, term),), (Put("late", b""),))
    await store.revoke(lease)
    assert leader.is_leader, "its keys hang on a lease of its own"
    mark = await store.get(MARK_KEY)
    assert mark is not None and mark.value.decode() == own_mark()
    await leader.resign()
    assert (await store.get(KEY), await store.get(MARK_KEY)) == (None, None)


@pytest.mark.parametrize("mark", ["its own", "", "a b 1 2"])
async def test_one_whose_process_may_live_is(store: Store, tasks: Tasks, mark: str) -> None:
    _, lease = await led_before(store, own_mark() if mark == "its own" else mark)
    other = Leadership(store, "other:7070", ttl_s=TTL_S)
    tasks.spawn(other.run(), name="contender")
    assert (await until(other, follows)).leader_address == "host:7070"
    item = await store.get(KEY)
    assert item is not None and item.value == b"host:7070"
    await store.revoke(lease)
    await until(other, leads)
