"""The outbox keeps order, batches what gathers while a write runs, and closes messages before they are too large."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.pipe.outbox import FRAMES_MAX, HEARD_TURNS, HOLD_S, MESSAGE_BYTES, Outbox


class Wire:
    """Takes messages; each write returns when the test says so."""

    def __init__(self) -> None:
        self.messages: list[list[int]] = []
        self.go = asyncio.Semaphore(0)
        self.outbox: Outbox[int] = Outbox(self.write)

    async def write(self, frames: list[int]) -> None:
        self.messages.append(frames)
        await self.go.acquire()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    wire = Wire()
    task = asyncio.ensure_future(wire.outbox.run())
    await asyncio.sleep(0)
    yield wire
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_frame_leaves_at_once_and_the_next_ones_leave_together(wire: Wire) -> None:
    wire.outbox.put(1)
    await turn()
    assert wire.messages == [[1]]
    wire.outbox.put(2)
    wire.outbox.put_data(3, 10)
    await turn()
    assert wire.messages == [[1]], "a message is being written"
    wire.go.release()
    await turn()
    assert wire.messages == [[1], [2, 3]]


async def test_nothing_is_written_when_there_is_nothing(wire: Wire) -> None:
    wire.outbox.wake()
    await turn()
    wire.outbox.wake()
    await turn()
    assert wire.messages == []


async def test_what_follows_a_question_leaves_together_once_the_peer_has_spoken(wire: Wire) -> None:
    wire.go.release()
    wire.outbox.put(1)
    wire.outbox.hold()
    await turn()
    wire.outbox.put(2)
    await turn()
    wire.outbox.put(3)
    assert wire.messages == [[1]], "the peer has not spoken yet"
    wire.outbox.heard()
    wire.outbox.put(4)
    for _ in range(HEARD_TURNS):
        await turn()
    assert wire.messages == [[1], [2, 3, 4]]


async def test_a_peer_that_spoke_already_holds_nothing_back(wire: Wire) -> None:
    wire.go.release()
    wire.outbox.put(1)
    wire.outbox.hold()
    await turn()
    wire.outbox.heard()
    wire.outbox.put(2)
    await turn()
    assert wire.messages == [[1], [2]]


async def test_a_silent_peer_holds_messages_back_for_a_moment_only(wire: Wire) -> None:
    wire.go.release()
    wire.outbox.put(1)
    wire.outbox.hold()
    await turn()
    wire.outbox.put(2)
    async with asyncio.timeout(10):
        while wire.messages != [[1], [2]]:
            await asyncio.sleep(HOLD_S)


async def test_a_full_message_is_not_held_back(wire: Wire) -> None:
    wire.go.release()
    wire.outbox.put(0)
    wire.outbox.hold()
    await turn()
    for number in range(FRAMES_MAX):
        wire.outbox.put(number)
    await turn()
    assert [len(message) for message in wire.messages] == [1, FRAMES_MAX]


async def test_before_write_may_add_frames() -> None:
    wire = Wire()
    more = [7]

    def before_write() -> None:
        if more:
            wire.outbox.put(more.pop())

    task = asyncio.ensure_future(wire.outbox.run(before_write))
    await turn()
    assert wire.messages == [[7]]
    task.cancel()


async def test_a_failed_write_ends_the_run() -> None:
    async def broken(frames: list[int]) -> None:
        raise OSError("gone")

    outbox: Outbox[int] = Outbox(broken)
    outbox.put(1)
    with pytest.raises(OSError):
        await outbox.run()


@given(st.lists(st.one_of(st.none(), st.integers(1, 2 * MESSAGE_BYTES)), max_size=400))
def test_messages_keep_the_order_and_their_bounds(sizes: list[int | None]) -> None:
    async def nothing(frames: list[int]) -> None:
        raise AssertionError

    outbox: Outbox[int] = Outbox(nothing)
    for number, size in enumerate(sizes):
        if size is None:
            outbox.put(number)
        else:
            outbox.put_data(number, size)
    batches = []
    while outbox._frames:
        batches.append(outbox._batch())
    assert [number for batch in batches for number in batch] == list(range(len(sizes)))
    assert outbox._sizes == []
    for batch in batches:
        assert 0 < len(batch) <= FRAMES_MAX
        # Only the last frame of a message may take it over the size.
        assert sum(sizes[number] or 0 for number in batch[:-1]) < MESSAGE_BYTES
    for batch in batches[:-1]:
        assert len(batch) == FRAMES_MAX or sum(sizes[number] or 0 for number in batch) >= MESSAGE_BYTES
