"""Flow control: windows bound what is outstanding, credits give it back, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.errors import ReplicaLost
from mesh.pipe.flow import CHARGE_MIN, CHUNK_BYTES, WINDOW_BYTES, Inbound, Outbound, chunks


async def settled(task: asyncio.Task[object]) -> bool:
    """Whether a task has ended once everything that is ready has run."""
    for _ in range(5):
        await asyncio.sleep(0)
    return task.done()


async def test_chunks_are_read_in_order_and_the_end_is_empty() -> None:
    body = Inbound()
    body.feed(b"a", False)
    body.feed(b"b", True)
    assert [await body.read(), body.pending, await body.read(), body.pending] == [b"a", True, b"b", False]
    assert [await body.read(), await body.read()] == [b"", b""]


async def test_a_reader_that_waits_is_woken_by_data_and_by_the_end() -> None:
    body = Inbound()
    task = asyncio.ensure_future(body.read())
    assert not await settled(task)
    body.feed(b"", False)
    assert not await settled(task), "an empty chunk is not the end"
    body.feed(b"x", False)
    assert await task == b"x"
    task = asyncio.ensure_future(body.read())
    await asyncio.sleep(0)
    body.feed(b"", True)
    assert await task == b""


async def test_an_error_comes_after_what_arrived_and_the_first_one_stays() -> None:
    body = Inbound()
    body.feed(b"x", False)
    body.fail(ReplicaLost("one"))
    body.fail(ReplicaLost("two"))
    assert await body.read() == b"x"
    for _ in range(2):
        with pytest.raises(ReplicaLost, match="one"):
            await body.read()


async def test_an_error_wakes_the_reader_and_does_not_spoil_a_whole_body() -> None:
    body = Inbound()
    task = asyncio.ensure_future(body.read())
    await asyncio.sleep(0)
    body.fail(ReplicaLost("gone"))
    with pytest.raises(ReplicaLost):
        await task
    whole = Inbound()
    whole.feed(b"x", True)
    whole.fail(ReplicaLost("gone"))
    assert [await whole.read(), await whole.read()] == [b"x", b""]


async def test_whole_means_all_is_here_in_one_chunk() -> None:
    body = Inbound()
    assert not body.whole
    body.feed(b"x", False)
    assert not body.whole
    body.feed(b"", True)
    assert body.whole
    two = Inbound()
    two.feed(b"x", False)
    two.feed(b"y", True)
    assert not two.whole
    await two.read()
    assert two.whole


async def test_a_sender_that_overruns_its_window_is_seen() -> None:
    body = Inbound()
    for _ in range(WINDOW_BYTES // CHUNK_BYTES):
        assert body.feed(bytes(CHUNK_BYTES), False)
    assert not body.feed(b"x", False)


async def test_credit_is_given_in_lots_for_what_was_read_and_not_after_the_end() -> None:
    body = Inbound()
    credited = 0
    for _ in range(8):
        body.feed(bytes(CHUNK_BYTES), False)
        await body.read()
        credit = body.credit()
        assert credit in (0, WINDOW_BYTES // 2)
        credited += credit
    assert credited == 8 * CHUNK_BYTES
    body.feed(bytes(CHUNK_BYTES), False)
    body.feed(bytes(CHUNK_BYTES), True)
    await body.read()
    await body.read()
    assert body.credit() == 0


async def test_a_window_holds_the_sender_until_credit_comes() -> None:
    window = Outbound()
    for _ in range(WINDOW_BYTES // CHUNK_BYTES):
        assert window.take_nowait(CHUNK_BYTES)
    assert not window.take_nowait(1)
    task = asyncio.ensure_future(window.take(CHUNK_BYTES))
    window.add(CHUNK_BYTES - 1)
    assert not await settled(task)
    window.add(1)
    assert await task is True


async def test_closing_wakes_the_sender_and_lets_nobody_send_again() -> None:
    window = Outbound()
    while window.take_nowait(CHUNK_BYTES):
        pass
    task = asyncio.ensure_future(window.take(1))
    await asyncio.sleep(0)
    window.close()
    assert await task is False
    assert await window.take(1) is False


async def test_a_cancelled_waiter_does_not_stop_the_next() -> None:
    window = Outbound()
    while window.take_nowait(CHUNK_BYTES):
        pass
    first = asyncio.ensure_future(window.take(1))
    await asyncio.sleep(0)
    first.cancel()
    second = asyncio.ensure_future(window.take(1))
    await asyncio.sleep(0)
    window.add(CHARGE_MIN)
    assert await second is True
    assert first.cancelled()


async def test_small_chunks_count_for_what_they_cost_at_both_ends() -> None:
    window, body = Outbound(), Inbound()
    sent = 0
    while window.take_nowait(1):
        assert body.feed(b"x", False)
        sent += 1
    assert sent == WINDOW_BYTES // CHARGE_MIN
    assert not body.feed(b"x", False)
    for _ in range(sent // 2):
        assert await body.read() == b"x"
    window.add(body.credit())
    assert sum(iter(lambda: window.take_nowait(1), False)) == sent // 2


def test_credit_never_makes_a_window_larger_than_it_was() -> None:
    window = Outbound()
    window.add(1 << 30)
    taken = 0
    while window.take_nowait(CHUNK_BYTES):
        taken += CHUNK_BYTES
    assert taken == WINDOW_BYTES


@given(st.integers(0, 3 * CHUNK_BYTES))
def test_chunks_are_whole_and_none_is_too_large(size: int) -> None:
    data = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    pieces = chunks(data[:size])
    assert b"".join(pieces) == data[:size]
    assert all(len(piece) <= CHUNK_BYTES for piece in pieces)
    assert len(pieces) == max(1, -(-size // CHUNK_BYTES))


@given(st.lists(st.integers(0, 700), min_size=1, max_size=40))
async def test_pieces_that_join_a_chunk_count_for_the_same_at_both_ends(sizes: list[int]) -> None:
    window, body, size = Outbound(), Inbound(), sizes[0]
    assert window.take_nowait(size)
    for more in sizes[1:]:
        assert window.grow(size, more)
        size += more
    body.feed(bytes(size), False)
    if size:
        await body.read()
    window.add(body._consumed)
    assert window._window == WINDOW_BYTES


def test_nothing_joins_a_chunk_beyond_the_window_or_once_nobody_reads() -> None:
    window = Outbound()
    while window.take_nowait(CHARGE_MIN):
        pass
    assert window.grow(1, CHARGE_MIN - 1), "it counted for that much already"
    assert not window.grow(CHARGE_MIN, 1)
    window.close()
    assert not window.grow(1, 1)


async def test_what_is_here_is_read_at_once_up_to_a_bound() -> None:
    body = Inbound()
    for each in (b"a", b"bc", b"def", b"g"):
        body.feed(each, False)
    assert body.read_on(await body.read(), 3) == b"abc"
    assert body.read_on(await body.read(), 2) == b"def", "what was read is never cut"
    body.feed(b"", True)
    assert (body.read_on(await body.read(), 100), body.pending, await body.read()) == (b"g", False, b"")
    assert (body._buffered, body._consumed) == (0, 4 * CHARGE_MIN)
