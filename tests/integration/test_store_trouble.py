"""The control plane while its store fails: a real store behind one that loses answers on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest

from mesh.clock import SYSTEM
from mesh.controlplane.availability import Availability
from mesh.controlplane.execute import Executor
from mesh.controlplane.follower import Follower
from mesh.controlplane.goal import ATTEMPTS_MAX, GoalState
from mesh.controlplane.leader import Leadership
from mesh.controlplane.loop import Loop
from mesh.controlplane.mirror import Mirror
from mesh.controlplane.package_store import PackageStore
from mesh.controlplane.records import HISTORY, application_key, decode_application, encode_application
from mesh.controlplane.sqlite_store import open_sqlite
from mesh.controlplane.store import (
    Batch,
    Compare,
    Item,
    Listing,
    OutcomeUnknown,
    Put,
    Remove,
    Store,
    StoreUnreachable,
)
from mesh.controlplane.term import Term
from mesh.errors import Conflict, InvalidConfig, NotFound, Unreachable
from mesh.lifecycle import Tasks
from mesh.model import ApplicationState, Change
from mesh.settings import ControlPlaneSettings
from mesh.v1 import deployment_pb2
from mesh.v1.deployment_service_pb2 import ApplyRequest

WAIT_S = 20.0


class TroubledStore:
    """Passes everything on, and fails commits of goal state as often as it is told to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ttl_s = 0.0
        self.lost_answers = 0
        """Commits that happen and whose answer is lost."""
        self.lost_requests = 0
        """Commits that never happen and of which nobody knows that."""
        self.refused = 0
        """Commits that find the store unreachable."""
        self.overtaken = 0
        """Commits before which somebody else changes the same keys."""
        self.commits = 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        """What somebody else does, once, while a history is read."""
        self.away = False
        """Nothing is answered, and no lease ends: as etcd prolongs them all when it comes back."""

    def _check(self) -> None:
        if self.away:
            raise StoreUnreachable("the store is away")

    async def get(self, key: str) -> Item | None:
        self._check()
        if key.startswith(HISTORY) and (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            await meanwhile()
        return await self._store.get(key)

    async def list(self, prefix: str, *, revision: int = 0) -> Listing:
        self._check()
        return await self._store.list(prefix, revision=revision)

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Put | Remove]) -> int:
        self._check()
        if not any(operation.key.startswith(("applications/", "replicas/", "options")) for operation in operations):
            return await self._store.commit(compares, operations)
        self.commits += 1
        if self.refused:
            self.refused -= 1
            raise Unreachable("the store does not answer")
        if self.lost_requests:
            self.lost_requests -= 1
            raise OutcomeUnknown("no answer")
        if self.overtaken:
            self.overtaken -= 1
            for operation in operations:
                if (item := await self._store.get(operation.key)) is not None:
                    await self._store.commit((), (Put(item.key, item.value),))
        revision = await self._store.commit(compares, operations)
        if self.lost_answers:
            self.lost_answers -= 1
            raise OutcomeUnknown("no answer")
        return revision

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[Batch, None]:
        return self._store.watch(prefix, after=after)

    async def grant(self, ttl_s: float) -> int:
        self._check()
        self._ttl_s = ttl_s
        return await self._store.grant(3600.0)

    async def keep_alive(self, lease: int) -> float:
        self._check()
        return min(self._ttl_s, await self._store.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        self._check()
        await self._store.revoke(lease)

    async def close(self) -> None:
        await self._store.close()


class Instance:
    """One leading instance without its server."""

    def __init__(self, store: TroubledStore, loop: Loop, leadership: Leadership, goal: GoalState) -> None:
        self.store = store
        self.loop = loop
        self.leadership = leadership
        self.goal = goal

    @property
    def term(self) -> Term:
        assert self.loop.term is not None
        return self.loop.term

    async def apply(self, *names: str, code: str = "m:app", keep_others: bool = False) -> dict[str, tuple[int, Change]]:
        applications = [
            deployment_pb2.ApplicationConfig(name=name, route_prefix=f"/{name}", import_path=code) for name in names
        ]
        config = deployment_pb2.Config(applications=applications)
        request = ApplyRequest(config=config, keep_others=keep_others, supersede=True)
        applied = await self.goal.apply(self.term, request)
        return {a.name: (a.revision, a.change) for a in applied}

    async def names(self) -> list[str]:
        return [application.name for application in (await self.goal.config("")).applications]


@pytest.fixture
async def instance() -> AsyncIterator[Instance]:
    store = TroubledStore(await open_sqlite(":memory:"))
    packages = PackageStore(await open_sqlite(":memory:", bulk=True), SYSTEM, 0)
    leadership = Leadership(store, "127.0.0.1:1")
    loop = Loop(store, leadership, ControlPlaneSettings(), SYSTEM)
    tasks = Tasks()
    tasks.spawn(leadership.run(), name="leadership")
    tasks.spawn(loop.run(), name="loop")
    state = leadership.state
    while not state.is_leader:
        state = await leadership.changed(state)
    assert await loop.acting(20.0) is not None
    try:
        yield Instance(store, loop, leadership, GoalState(store, leadership, packages, SYSTEM))
    finally:
        await tasks.cancel()
        await packages.close()
        await store.close()


async def test_an_apply_whose_answer_was_lost_is_answered_as_what_it_was(instance: Instance) -> None:
    instance.store.lost_answers = 1
    assert await instance.apply("a", "b") == {"a": (1, Change.CREATED), "b": (1, Change.CREATED)}
    assert await instance.names() == ["a", "b"]


async def test_an_apply_whose_request_was_lost_is_repeated(instance: Instance) -> None:
    instance.store.lost_requests = 2
    assert await instance.apply("a") == {"a": (1, Change.CREATED)}
    assert await instance.names() == ["a"]


async def test_an_outcome_that_stays_unknown_is_told(instance: Instance) -> None:
    instance.store.lost_requests = ATTEMPTS_MAX
    with pytest.raises(OutcomeUnknown):
        await instance.apply("a")


async def test_an_apply_that_was_overtaken_looks_again(instance: Instance) -> None:
    await instance.apply("a")
    instance.store.overtaken = 2
    assert await instance.apply("a", code="m:new") == {"a": (2, Change.UPDATED)}
    instance.store.overtaken = 1000
    with pytest.raises(Conflict, match="kept changing"):
        await instance.apply("a", code="m:third")
    instance.store.overtaken = 0


async def test_what_the_leader_itself_stores_between_decision_and_commit_is_not_lost(instance: Instance) -> None:
    """Its mirror knows of it at once; the apply was decided on what was there before."""
    await instance.apply("a")
    term, key = instance.term, application_key("a")
    executor = Executor(instance.store, instance.leadership.fence(), term, 1.0)

    async def pause() -> None:
        value = encode_application(replace(term.mirror.applications["a"], paused=True))
        await executor._commit({key: value}, {key: term.mirror.revision_of(key)})

    instance.store.meanwhile = pause
    assert await instance.apply("a", code="m:new") == {"a": (2, Change.UPDATED)}
    assert instance.store.meanwhile is None
    stored = await instance.store.get(key)
    assert stored is not None
    assert decode_application(key, stored.value).paused


async def test_a_listing_asked_for_before_an_outcome_was_unknown_does_not_settle_it(instance: Instance) -> None:
    listing = await instance.store.list("")
    mirror = Mirror(listing)

    class Late(TroubledStore):
        """While it lists, the answer to a commit is lost."""

        async def list(self, prefix: str, *, revision: int = 0) -> Listing:
            if self.lost_answers:
                self.lost_answers -= 1
                mirror.unknown_outcomes += 1
            return listing

    store = Late(instance.store)
    store.lost_answers = 1
    follower = Follower(store, SYSTEM)
    await follower.read_again(mirror)
    assert mirror.is_behind
    await follower.read_again(mirror)
    assert not mirror.is_behind


async def test_a_store_that_does_not_answer_is_told_and_changes_nothing(instance: Instance) -> None:
    instance.store.refused = 1
    with pytest.raises(Unreachable):
        await instance.apply("a")
    assert await instance.names() == []


async def test_who_lost_leadership_changes_nothing(instance: Instance) -> None:
    await instance.apply("a")
    term = instance.term
    await instance.leadership.resign()
    with pytest.raises(Unreachable, match="leadership moved"):
        await instance.goal.apply(term, ApplyRequest(supersede=True))
    assert await instance.names() == ["a"]
    assert instance.loop.term is None
    assert term.mirror.applications["a"].revision == 1


async def test_delete_and_shutdown_name_what_there_is(instance: Instance) -> None:
    with pytest.raises(NotFound, match="there is none"):
        await instance.goal.delete(instance.term, "a")
    await instance.apply(*(f"a{i}" for i in range(40)))
    await instance.apply(*(f"b{i}" for i in range(40)), keep_others=True)
    await instance.apply(*(f"c{i}" for i in range(40)), keep_others=True)
    with pytest.raises(InvalidConfig, match="120 applications would be deleted"):
        await instance.apply()
    await instance.goal.shutdown(instance.term)
    assert await instance.names() == []


async def test_the_loop_goes_on_when_the_store_comes_back(instance: Instance) -> None:
    """Deleting an application without replicas is one write of the loop."""
    await instance.apply("a")
    instance.store.refused, instance.store.lost_requests = 0, 0
    await instance.goal.delete(instance.term, "a")
    instance.store.refused, instance.store.lost_answers = 2, 1
    term = instance.term
    while True:
        ticket = term.reported.ticket()
        applications = term.status("", now=0.0, wall=0.0).applications
        if not applications:
            break
        assert applications[0].state is ApplicationState.DELETING
        await ticket.wait()
    assert (await instance.store.list("applications/")).items == ()


async def test_who_led_leads_again_as_soon_as_the_store_is_back() -> None:
    """Its own old lease, which it could not end while the store was away, is not waited for."""
    store = TroubledStore(await open_sqlite(":memory:"))
    leadership = Leadership(store, "127.0.0.1:1", ttl_s=0.6)
    tasks = Tasks()
    tasks.spawn(leadership.run(), name="leadership")
    try:
        async with asyncio.timeout(WAIT_S):
            for led in (True, False, True):
                store.away = not led
                while leadership.state.is_leader is not led:
                    await leadership.changed(leadership.state)
    finally:
        await tasks.cancel()
        await store.close()


async def test_whether_the_store_answers_is_known_without_anybody_asking_it() -> None:
    store = TroubledStore(await open_sqlite(":memory:"))
    availability = Availability(store, SYSTEM)
    tasks = Tasks()
    tasks.spawn(availability.run(), name="look-at-store")
    try:
        async with asyncio.timeout(WAIT_S):
            for away in (True, False):
                store.away = away
                while bool(availability.trouble) is not away:
                    await asyncio.sleep(0.01)
                with pytest.raises(StoreUnreachable, match="the store is away") if away else nullcontext():
                    availability.check()
    finally:
        await tasks.cancel()
        await store.close()


async def test_a_mirror_of_a_real_listing_and_watch_agrees_with_the_store(instance: Instance) -> None:
    for i in range(5):
        await instance.apply(f"a{i}", keep_others=True)
    await instance.goal.delete(instance.term, "a3")
    term = instance.term
    while "a3" in term.mirror.applications:
        ticket = term.reported.ticket()
        if "a3" in term.mirror.applications:
            await ticket.wait()
    fresh = Mirror(await instance.store.list(""))
    assert fresh.applications == term.mirror.applications
    assert {key: fresh.revision_of(key) for key in ("applications/a0", "applications/a3")} == {
        key: term.mirror.revision_of(key) for key in ("applications/a0", "applications/a3")
    }
