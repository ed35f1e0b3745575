"""A view that stays on the terminal and follows what it shows.

Owns when it is drawn: after each change, and each second, for what it says of ages. Never draws more than fits. Called
by `watching`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

from mesh.cli.output_status import frame
from mesh.lifecycle import Tasks

REDRAW_S = 1.0

_T = TypeVar("_T")


class Live(Generic[_T]):
    """Draws the newest value of a stream, by `render`, through `write`."""

    def __init__(self, render: Callable[[_T], str], write: Callable[[str], None]) -> None:
        self._render = render
        self._write = write
        self._latest: list[_T] = []
        self._note = ""
        self._news = asyncio.Event()

    def note(self, text: str) -> None:
        """Show a line below the view until the next change: why there is none."""
        self._note = text
        self._news.set()

    async def run(self, values: AsyncIterator[_T]) -> None:
        """Follow until the stream ends. Raises what it raises."""
        tasks = Tasks()
        reading = tasks.spawn(self._read(values), name="live-values")
        try:
            while not reading.done():
                self._news.clear()
                self._draw()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REDRAW_S):
                        await self._news.wait()
            self._draw()
            await reading
        finally:
            await tasks.cancel()

    async def _read(self, values: AsyncIterator[_T]) -> None:
        try:
            async for value in values:
                self._latest, self._note = [value], ""
                self._news.set()
        finally:
            self._news.set()

    def _draw(self) -> None:
        if not self._latest and not self._note:
            return
        size = shutil.get_terminal_size()
        text = "".join(self._render(value) for value in self._latest)
        self._write(frame(f"{text}{self._note}", size.columns, size.lines))
