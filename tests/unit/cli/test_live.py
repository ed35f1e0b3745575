"""The view that stays on the terminal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mesh.cli.live import Live
from mesh.errors import NotFound


class Screen:
    """What was drawn, and a way to wait for it."""

    def __init__(self) -> None:
        self.frames: list[str] = []
        self._news = asyncio.Event()

    def write(self, text: str) -> None:
        self.frames.append(text)
        self._news.set()

    async def until(self, part: str) -> None:
        async with asyncio.timeout(10):
            while not any(part in frame for frame in self.frames):
                self._news.clear()
                await self._news.wait()


async def test_it_draws_each_change_and_what_stands_in_the_way() -> None:
    screen, steps = Screen(), asyncio.Queue[str]()
    live = Live[str](lambda value: f"{value}\n", screen.write)

    async def values() -> AsyncIterator[str]:
        while (value := await steps.get()) != "end":
            yield value

    async with asyncio.TaskGroup() as group:
        group.create_task(live.run(values()))
        steps.put_nowait("one")
        await screen.until("one")
        live.note("no answer")
        await screen.until("no answer")
        assert "one" in screen.frames[-1], "what was seen last stays"
        steps.put_nowait("two")
        await screen.until("two")
        assert "no answer" not in screen.frames[-1]
        steps.put_nowait("end")
    assert all(frame.startswith("\x1b[H") and frame.endswith("\x1b[J") for frame in screen.frames)


async def test_it_is_drawn_again_as_time_goes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.cli.live.REDRAW_S", 0.01)
    screen, ages = Screen(), iter(range(1000))
    live = Live[str](lambda value: f"{value} {next(ages)}\n", screen.write)

    async def values() -> AsyncIterator[str]:
        yield "age"
        await screen.until("age 3")

    await live.run(values())


async def test_what_the_stream_raises_is_raised() -> None:
    screen = Screen()

    async def values() -> AsyncIterator[str]:
        yield "one"
        raise NotFound("there is no application")

    with pytest.raises(NotFound):
        await Live[str](str, screen.write).run(values())
    assert "one" in screen.frames[-1]
