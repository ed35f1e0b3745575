"""One caller's item in a batch, and the way its results come to it.

Owns the future or the stream of one item. A stream holds a few results at most: the generator waits for its slowest
reader. Made by `batch_queue`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mesh.errors import DeadlineExceeded
from mesh.serving import current_request

if TYPE_CHECKING:
    from mesh.serving.batch_queue import Running

STREAM_RESULTS_MAX = 16
"""Results that wait for one reader of a stream."""


class Item:
    """What one caller gave, and what it gets."""

    __slots__ = ("_error", "_results", "_streams", "_waiter", "function", "over", "request", "running", "values")

    def __init__(self, function: Callable[..., Any], values: tuple[Any, ...], *, streams: bool) -> None:
        self.function = function
        self.values = values
        self.request = current_request.current()
        self.running: Running | None = None
        """The batch that it is in."""
        self.over = False
        """It gets nothing more, or nobody wants it."""
        self._streams = streams
        self._results: deque[Any] = deque()
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        """The reader that waits for results, or the generator that waits for the reader."""

    # What the batch says.

    def settle(self, result: Any) -> None:
        """Give the caller its one result."""
        self.put(result)
        self.finish()

    def put(self, result: Any) -> None:
        """Give the caller one result: an exception ends it, and StopIteration ends its stream without one."""
        if self.over:
            return
        stops = result in _STOPS if isinstance(result, type) else isinstance(result, _STOPS)
        if self._streams and stops:
            self.finish()
        elif isinstance(result, BaseException):
            self.fail(sound(result, "a result"))
        else:
            self._results.append(result)
            self.heard()

    def finish(self) -> None:
        """There are no more results."""
        if not self.over:
            self.over = True
            self.heard()

    def fail(self, error: BaseException) -> None:
        """Let the caller see an error, after what it was given."""
        if not self.over:
            self._error = error
            self.finish()

    def late(self) -> None:
        """Its time was over before its batch went."""
        self.fail(DeadlineExceeded("the request's time was over before its batch could go"))

    async def room(self) -> None:
        """Wait until the reader has taken enough."""
        while not self.over and len(self._results) >= STREAM_RESULTS_MAX:
            await self._wait()

    def heard(self) -> None:
        """Wake who waits for this item."""
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None

    # What the caller does.

    async def result(self) -> Any:
        """Wait for the one result. Raises what the item failed with."""
        await self.more()
        return self._results.popleft()

    async def more(self) -> bool:
        """Wait until there is a result to take, False at the end. Raises what the item failed with."""
        while not self._results:
            if self._error is not None:
                raise self._error
            if self.over:
                return False
            await self._wait()
        return True

    def take(self) -> Any:
        """Return the next result."""
        result = self._results.popleft()
        self.heard()
        return result

    async def _wait(self) -> None:
        # One of the two waits at a time: the reader for an empty deque, the generator for a full one.
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter


_STOPS = (StopIteration, StopAsyncIteration)


def sound(error: BaseException, name: str) -> Exception:
    """Return an error that can pass through tasks and futures: what ends a loop or an iteration is told as text."""
    if isinstance(error, Exception) and not isinstance(error, _STOPS):
        return error
    if isinstance(error, asyncio.CancelledError):
        return RuntimeError(f"{name} was cancelled")
    told = RuntimeError(f"{name} raised {type(error).__name__}: {error}")
    told.__cause__ = error
    return told
