"""What every store promises, tried on each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest

from mesh.controlplane.store import (
    COMMIT_BYTES_MAX,
    OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    Batch,
    Compacted,
    Compare,
    Event,
    Item,
    Listing,
    Put,
    Remove,
    Store,
)
from mesh.errors import Conflict, NotFound, Unreachable


def watching(store: Store, prefix: str, after: int) -> aclosing[AsyncGenerator[Batch, None]]:
    return aclosing(store.watch(prefix, after=after))


async def take(store: Store, prefix: str, after: int, count: int) -> list[Batch]:
    async with watching(store, prefix, after) as changes:
        return [await anext(changes) for _ in range(count)]


async def now(store: Store) -> int:
    return (await store.list("")).revision


async def test_an_item_is_created_read_updated_and_removed(store: Store) -> None:
    assert await store.get("applications/default") is None
    created = await store.commit((Compare("applications/default", 0),), (Put("applications/default", b"one"),))
    assert await store.get("applications/default") == Item("applications/default", b"one", created)
    updated = await store.commit((Compare("applications/default", created),), (Put("applications/default", b""),))
    assert updated > created
    assert await store.get("applications/default") == Item("applications/default", b"", updated)
    await store.commit((Compare("applications/default", updated),), (Remove("applications/default"),))
    assert await store.get("applications/default") is None


async def test_a_compare_that_does_not_hold_is_a_conflict_and_changes_nothing(store: Store) -> None:
    first = await store.commit((), (Put("a", b"1"), Put("b", b"1")))
    second = await store.commit((), (Put("b", b"2"),))
    for compares in ((Compare("a", 0),), (Compare("c", first),), (Compare("a", first), Compare("b", first))):
        with pytest.raises(Conflict):
            await store.commit(compares, (Put("a", b"x"), Remove("b"), Put("c", b"x")))
    listing = await store.list("")
    assert listing == Listing(second, (Item("a", b"1", first), Item("b", b"2", second)))


async def test_all_operations_of_a_commit_have_one_revision(store: Store) -> None:
    await store.commit((), (Put("gone", b""),))
    revision = await store.commit((), (Put("b", b"2"), Remove("gone"), Put("a", b"1"), Remove("never there")))
    assert await store.list("") == Listing(revision, (Item("a", b"1", revision), Item("b", b"2", revision)))


async def test_a_commit_that_changes_nothing_returns_the_current_revision(store: Store) -> None:
    revision = await store.commit((), (Put("a", b"1"),))
    assert await store.commit((Compare("a", revision),), ()) == revision
    assert await store.commit((), (Remove("b"),)) == revision
    with pytest.raises(Conflict):
        await store.commit((Compare("a", 0),), ())


async def test_a_prefix_is_text_and_not_a_path(store: Store) -> None:
    keys = ["a", "a/", "a/b", "a/ü", "ab", "b", "ü", "ü/1", "\U0010ffff"]
    for key in keys:
        await store.commit((), (Put(key, key.encode()),))

    async def under(prefix: str) -> list[str]:
        return [item.key for item in (await store.list(prefix)).items]

    assert await under("a") == ["a", "a/", "a/b", "a/ü", "ab"]
    assert await under("a/") == ["a/", "a/b", "a/ü"]
    assert await under("ü") == ["ü", "ü/1"]
    assert await under("\U0010ffff") == ["\U0010ffff"]
    assert await under("none") == []
    assert await under("") == sorted(keys)


async def test_more_items_than_one_page_are_listed_at_one_revision(store: Store) -> None:
    keys = [f"k/{number:04}" for number in range(350)]
    for start in range(0, len(keys), OPERATIONS_MAX):
        revision = await store.commit((), [Put(key, b"v") for key in keys[start : start + OPERATIONS_MAX]])
    listing = await store.list("k/")
    assert listing.revision == revision
    assert [item.key for item in listing.items] == keys


async def test_the_past_can_be_listed(store: Store) -> None:
    first = await store.commit((), (Put("a", b"1"), Put("b", b"1")))
    second = await store.commit((), (Put("a", b"2"), Remove("b"), Put("c", b"2")))
    third = await store.commit((), (Remove("c"),))
    assert await store.list("", revision=first) == Listing(first, (Item("a", b"1", first), Item("b", b"1", first)))
    assert await store.list("", revision=second) == Listing(second, (Item("a", b"2", second), Item("c", b"2", second)))
    assert await store.list("", revision=third) == Listing(third, (Item("a", b"2", second),))
    with pytest.raises(Compacted):
        await store.list("", revision=third + 1000)


async def test_a_watch_yields_each_commit_whole_and_in_order(store: Store) -> None:
    start = await now(store)
    async with watching(store, "w/", start) as changes:
        first = await store.commit((), (Put("w/b", b"1"), Put("other", b""), Put("w/a", b"1")))
        await store.commit((), (Put("other", b"2"),))
        last = await store.commit((), (Remove("w/b"), Put("w/a", b"2"), Remove("w/never")))
        assert await anext(changes) == Batch(first, (Event("w/b", b"1", first), Event("w/a", b"1", first)))
        assert await anext(changes) == Batch(last, (Event("w/b", None, last), Event("w/a", b"2", last)))
        waiting = asyncio.ensure_future(anext(changes))
        later = await store.commit((), (Put("w/c", b"3"),))
        assert await waiting == Batch(later, (Event("w/c", b"3", later),))


async def test_a_watch_goes_on_from_any_revision(store: Store) -> None:
    revisions = [await store.commit((), (Put(f"w/{number % 3}", str(number).encode()),)) for number in range(20)]
    for position in (0, 7, 18):
        seen = await take(store, "w/", revisions[position], 19 - position)
        assert [batch.revision for batch in seen] == revisions[position + 1 :]
    ahead = revisions[-1] + 2
    async with watching(store, "w/", ahead) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        made = [await store.commit((), (Put("w/x", b""),)) for _ in range(3)]
        assert (await waiting).revision == min(revision for revision in made if revision > ahead)


async def test_concurrent_commits_are_seen_by_all_watchers_alike(store: Store) -> None:
    start = await now(store)
    watchers = [asyncio.ensure_future(take(store, "n/", start, 150)) for _ in range(4)]

    async def write(writer: int) -> list[int]:
        return [await store.commit((), (Put(f"n/{writer}", str(i).encode()),)) for i in range(15)]

    made = await asyncio.gather(*(write(writer) for writer in range(10)))
    expected = sorted(revision for revisions in made for revision in revisions)
    assert len(set(expected)) == 150
    for seen in await asyncio.gather(*watchers):
        assert [batch.revision for batch in seen] == expected


async def test_of_concurrent_creators_one_wins(store: Store) -> None:
    async def create(number: int) -> int:
        try:
            await store.commit((Compare("one", 0),), (Put("one", str(number).encode()),))
        except Conflict:
            return 0
        return 1

    assert sum(await asyncio.gather(*(create(number) for number in range(40)))) == 1


async def test_a_counter_loses_no_increment(store: Store) -> None:
    async def increment() -> None:
        while True:
            item = await store.get("counter")
            value = int(item.value) if item else 0
            try:
                compare = Compare("counter", item.revision if item else 0)
                await store.commit((compare,), (Put("counter", str(value + 1).encode()),))
            except Conflict:
                continue
            return

    await asyncio.gather(*(increment() for _ in range(25)))
    item = await store.get("counter")
    assert item is not None
    assert item.value == b"25"


async def test_a_lease_that_ends_takes_its_keys_along(store: Store) -> None:
    lease = await store.grant(1.0)
    revision = await store.commit((), (Put("l/a", b"", lease), Put("l/b", b"", lease), Put("l/stays", b"")))
    (ended,) = await take(store, "l/", revision, 1)
    assert sorted(ended.events, key=lambda event: event.key) == [
        Event("l/a", None, ended.revision),
        Event("l/b", None, ended.revision),
    ]
    assert [item.key for item in (await store.list("l/")).items] == ["l/stays"]
    with pytest.raises(NotFound):
        await store.keep_alive(lease)
    with pytest.raises(NotFound):
        await store.commit((), (Put("l/c", b"", lease),))
    assert await store.get("l/c") is None


async def test_a_lease_lives_as_long_as_it_is_kept_alive(store: Store) -> None:
    kept, other = await store.grant(2.0), await store.grant(2.0)
    assert kept != other
    revision = await store.commit((), (Put("kept", b"", kept), Put("other", b"", other)))
    waiting = asyncio.ensure_future(take(store, "other", revision, 1))
    while not waiting.done():
        assert 0 < await store.keep_alive(kept) <= 5
        await asyncio.wait({waiting}, timeout=0.5)
    assert await store.get("kept") is not None
    await store.revoke(kept)


async def test_a_revoked_lease_takes_its_keys_along_at_once(store: Store) -> None:
    lease = await store.grant(60.0)
    await store.commit((), (Put("a", b"", lease), Put("detached", b"", lease), Put("moved", b"", lease)))
    other = await store.grant(60.0)
    await store.commit((), (Put("detached", b"2"), Put("moved", b"2", other)))
    await store.revoke(lease)
    assert [item.key for item in (await store.list("")).items] == ["detached", "moved"]
    await store.revoke(lease)
    with pytest.raises(NotFound):
        await store.keep_alive(lease)
    await store.revoke(other)


async def test_what_is_too_large_is_refused(store: Store) -> None:
    await store.commit((), [Put(str(number), b"") for number in range(OPERATIONS_MAX)])
    await store.commit((), (Put("large", b"x" * VALUE_BYTES_MAX),))
    revision = await now(store)
    half = b"x" * (COMMIT_BYTES_MAX // 2)
    for compares, operations in (
        ((), [Put(str(number), b"") for number in range(OPERATIONS_MAX + 1)]),
        ([Compare(str(number), 0) for number in range(OPERATIONS_MAX + 1)], ()),
        ((), (Put("a", b"x" * (VALUE_BYTES_MAX + 1)),)),
        ((), (Put("a", half), Put("b", half))),
        ((), (Put("a", b"1"), Put("a", b"2"))),
        ((), (Put("a", b"1"), Remove("a"))),
        ((), (Put("", b"1"),)),
    ):
        with pytest.raises(ValueError):
            await store.commit(compares, operations)
    with pytest.raises(ValueError):
        await store.grant(0.0)
    assert await now(store) == revision
    item = await store.get("large")
    assert item is not None
    assert len(item.value) == VALUE_BYTES_MAX


async def test_a_large_history_reaches_a_late_watcher(store: Store) -> None:
    start = await now(store)
    made = [await store.commit((), (Put("big", bytes([number]) * 700_000),)) for number in range(6)]
    seen = await take(store, "big", start, 6)
    assert [batch.revision for batch in seen] == made
    assert [batch.events[0].value == bytes([number]) * 700_000 for number, batch in enumerate(seen)] == [True] * 6


async def test_forgotten_history_is_said_to_be_gone_and_a_new_listing_helps(
    forgetful: tuple[Store, Callable[[], Awaitable[int]]],
) -> None:
    store, forget = forgetful
    first = await store.commit((), (Put("f/old", b"1"), Put("f/gone", b"1")))
    await store.commit((), (Put("f/new", b"1"), Remove("f/gone")))
    kept = await forget()
    with pytest.raises(Compacted):
        await store.list("f/", revision=first)
    with pytest.raises(Compacted):
        await take(store, "f/", first, 1)
    listing = await store.list("f/")
    assert [item.key for item in listing.items] == ["f/new", "f/old"]
    assert (await store.list("f/", revision=kept)).items == listing.items
    made = await store.commit((), (Put("f/new", b"2"),))
    assert [batch.revision for batch in await take(store, "f/", listing.revision, 1)] == [made]


async def test_a_watch_that_waits_is_not_harmed_by_forgetting(
    forgetful: tuple[Store, Callable[[], Awaitable[int]]],
) -> None:
    store, forget = forgetful
    async with watching(store, "quiet/", await now(store)) as changes:
        for _ in range(3):
            made = await store.commit((), (Put("quiet/a", b""),))
            assert (await anext(changes)).revision == made
            waiting = asyncio.ensure_future(anext(changes))
            await store.commit((), (Put("loud/a", b""),))
            await forget()
            assert not waiting.done()
            last = await store.commit((), (Put("quiet/a", b"2"),))
            assert (await waiting).revision == last


async def test_closing_a_watch_leaves_the_store_usable(store: Store) -> None:
    async with watching(store, "", 0) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await store.commit((), (Put("a", b"1"),))
    assert await store.get("a") is not None


async def test_closing_the_store_ends_its_watches_and_calls(store: Store) -> None:
    start = await now(store)

    async def collect() -> list[int]:
        return [batch.revision async for batch in store.watch("c/", after=start)]

    watchers = [asyncio.ensure_future(collect()) for _ in range(3)]
    made = await store.commit((), (Put("c/a", b""),))
    await take(store, "c/", start, 1)
    await store.close()
    for revisions in await asyncio.gather(*watchers):
        assert revisions in ([], [made])
    for call in (store.get("c/a"), store.list(""), store.commit((), (Put("b", b""),)), store.keep_alive(1)):
        with pytest.raises(Unreachable):
            await call
    await store.close()
