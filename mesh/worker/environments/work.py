"""One piece of work in a thread that can be stopped, says what it does, and may ask the event loop for help.

Owns the way back from the thread to the loop. Called by all that fetches or builds.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

_LOOK_S = 0.1
_T = TypeVar("_T")


class Stopped(Exception):
    """Nobody wants the result any more."""


class Told(Protocol):
    """Who is told what goes on; called in the loop's thread."""

    def doing(self, text: str, /) -> None:
        """A step begins."""

    def printed(self, line: str, /) -> None:
        """A tool printed a line."""

    def warned(self, text: str, /) -> None:
        """Something is worth to be mended."""


class Work:
    """Made in the loop's thread, used in another."""

    def __init__(self, told: Told) -> None:
        self._loop = asyncio.get_running_loop()
        self._told = told
        self._stop = threading.Event()
        self._calls: list[Callable[[], None]] = []

    def stop(self) -> None:
        """Ask the thread to come to an end."""
        self._stop.set()
        for call in tuple(self._calls):
            call()

    def stopped(self) -> bool:
        """Whether it was asked to."""
        return self._stop.is_set()

    @contextlib.contextmanager
    def stopping(self, call: Callable[[], None]) -> Iterator[None]:
        """Within the block `call` is called, in another thread, when this is stopped: to end a wait for somebody."""
        self._calls.append(call)
        try:
            self.check()
            yield
        finally:
            self._calls.remove(call)

    def check(self) -> None:
        """Raise Stopped if it was asked to."""
        if self._stop.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until it is stopped. Raises Stopped."""
        if self._stop.wait(seconds):
            raise Stopped

    def say(self, text: str) -> None:
        """Tell people what goes on, in one line."""
        self._tell(self._told.doing, text)

    def printed(self, line: str) -> None:
        """Pass on a line that a tool printed."""
        self._tell(self._told.printed, line)

    def warn(self, text: str) -> None:
        """Tell people what they should mend."""
        self._tell(self._told.warned, text)

    def wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` on the loop and return its result; it is cancelled when this is stopped. Raises Stopped."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        while True:
            try:
                return running.result(_LOOK_S)
            except TimeoutError:
                if running.done():
                    raise
            if self._stop.is_set():
                running.cancel()
                raise Stopped

    def _tell(self, tell: Callable[[str], None], text: str) -> None:
        self._loop.call_soon_threadsafe(tell, text)
