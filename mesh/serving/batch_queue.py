"""Runs the batches of one function: items wait here, go together, and get what is theirs of the result.

Owns the waiting callers, the timer and the tasks of running batches; decides nothing itself (`batching`). One for each
instance, on one event loop. Called by `batch`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from mesh.clock import SYSTEM
from mesh.lifecycle import Tasks
from mesh.serving import current_request
from mesh.serving.batch_items import Item, sound
from mesh.serving.batching import Batch, Batching, BatchLimits, results_of
from mesh.serving.current_request import CurrentRequest, Place
from mesh.serving.threads import Threads, from_thread, in_thread, steps_in_thread
from mesh.telemetry import BATCH_SECONDS, BATCH_SIZE, BATCH_WAIT, BATCHES_RUNNING

if TYPE_CHECKING:
    from mesh.serving.batch import Batched

_NOWHERE = Place("", "")


class Running:
    """A batch that runs. `live` are those of its items that somebody waits for."""

    def __init__(self, batch: Batch[Item], request: CurrentRequest) -> None:
        self.items = batch.items
        self.request = request
        self.live = set(batch.items)
        self.task: asyncio.Task[None] | None = None
        self.started = SYSTEM.monotonic()
        self.took_s: float | None = None

    def took(self) -> None:
        """It has proven how long it takes; said again, that changes nothing."""
        if self.took_s is None:
            self.took_s = SYSTEM.monotonic() - self.started


class BatchQueue:
    """All that waits and runs of one function and instance."""

    def __init__(self, batched: Batched) -> None:
        self._batched = batched
        self._core: Batching[Item] = Batching(batched.limits)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks = Tasks()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._threads: Threads | None = None
        self._metrics = functools.cache(partial(_Metrics, batched.name))

    @property
    def limits(self) -> BatchLimits:
        """The limits in force."""
        return self._core.limits

    def change(self, **limits: Any) -> None:
        """Put other limits in force, for what waits as well. From any thread. Raises InvalidConfig."""
        self._core.limits = dataclasses.replace(self._core.limits, **limits)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pump)

    def call(self, function: Callable[..., Any], values: tuple[Any, ...]) -> Any:
        """Let an item wait: return what is awaited or iterated over, or from a thread of sync code the result."""
        ask = self._stream if self._batched.streams else self._ask
        return from_thread(ask(function, values), self._batched.name)

    async def _ask(self, function: Callable[..., Any], values: tuple[Any, ...]) -> Any:
        item = Item(function, values, streams=False)
        self._add(item)
        try:
            return await item.result()
        finally:
            self._leave(item)

    async def _stream(self, function: Callable[..., Any], values: tuple[Any, ...]) -> AsyncIterator[Any]:
        item = Item(function, values, streams=True)
        self._add(item)
        try:
            while await item.more():
                yield item.take()
        finally:
            self._leave(item)

    def _add(self, item: Item) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._move(loop)
        request = item.request
        key, deadline = (request.model_id, request.deadline) if request is not None else ("", None)
        self._core.add(item, SYSTEM.monotonic(), key=key, deadline=deadline)
        self._pump()

    def _move(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve another event loop; what an earlier one left is gone with it."""
        if self._loop is not None:
            if not self._loop.is_closed() and (len(self._core) or self._core.running):
                raise RuntimeError(f"{self._batched.name} is used on two event loops at once")
            self._core, self._tasks, self._timer = Batching(self._core.limits), Tasks(), None
        self._loop = loop

    def _leave(self, item: Item) -> None:
        """The caller needs nothing more: drop the item, and the batch if nobody is left in it."""
        if item.over or self._core.discard(item):
            return
        item.over = True
        running = item.running
        if running is not None:
            running.live.discard(item)
            item.heard()
            if not running.live and running.task is not None:
                running.task.cancel()

    def _pump(self) -> None:
        """Start the batches that go now and see to it that this is looked at in time again."""
        now = SYSTEM.monotonic()
        for item in self._core.drop_late(now):
            item.late()
        while (batch := self._core.take(now)) is not None:
            self._start(batch)
        at = self._core.wake_at()
        if self._timer is not None:
            if at is not None and self._timer_at <= at:
                return  # it looks early enough
            self._timer.cancel()
            self._timer = None
        if at is not None and self._loop is not None:
            self._timer_at = at
            self._timer = self._loop.call_later(max(at - now, 0.0), self._look)

    def _look(self) -> None:
        self._timer = None
        self._pump()

    def _start(self, batch: Batch[Item]) -> None:
        running = Running(batch, _request_of(batch))
        for item in batch.items:
            item.running = running
        place = running.request.place
        told = self._metrics(place.application, place.deployment)
        told.size.observe(len(batch.items))
        told.wait.observe(batch.waited_s)
        told.running.inc()
        context = self._batched.context.copy()
        context.run(current_request.enter, running.request)
        running.task = context.run(partial(self._tasks.spawn, self._run(running), name="batch"))
        running.task.add_done_callback(lambda _: self._ended(running, told))

    def _ended(self, running: Running, told: _Metrics) -> None:
        for item in running.items:  # those of a batch that was cancelled before its first step
            item.fail(RuntimeError(f"{self._batched.name} ended without a result"))
        if len(running.items) > 1:
            running.request.end()
        told.running.dec()
        if running.took_s is not None:
            told.duration.observe(SYSTEM.monotonic() - running.started)
        self._core.ended(running.took_s)
        self._pump()

    async def _run(self, running: Running) -> None:
        items, name = running.items, self._batched.name
        columns = [list(column) for column in zip(*(item.values for item in items), strict=True)]
        try:
            if self._batched.streams:
                await self._steps(running, columns)
            else:
                results = results_of(await self._returned(items[0].function, columns), len(items), name)
                for item, result in zip(items, results, strict=True):
                    item.settle(result)
                running.took()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._fail(running, RuntimeError(f"what {name} waited for was cancelled"))
        except BaseException as error:  # each caller gets it; none of it may leave the event loop
            self._fail(running, sound(error, name))

    def _fail(self, running: Running, error: Exception) -> None:
        for item in running.items:
            item.fail(error)

    async def _returned(self, function: Callable[..., Any], columns: list[list[Any]]) -> Any:
        if self._batched.is_async:
            return await function(*columns)
        return await in_thread(self._executor(), partial(function, *columns))

    async def _steps(self, running: Running, columns: list[list[Any]]) -> None:
        """Give each caller its part of what a generator yields, as fast as the slowest of them takes it."""
        items, name = running.items, self._batched.name
        steps = items[0].function(*columns)
        if not self._batched.is_async:
            steps = steps_in_thread(self._executor(), steps)
        try:
            async for step in steps:
                for item, result in zip(items, results_of(step, len(items), name), strict=True):
                    item.put(result)
                    if item.over:
                        running.live.discard(item)
                running.took()
                if not running.live:
                    break
                for item in items:
                    await item.room()
        finally:
            await steps.aclose()
        for item in items:
            item.finish()

    def _executor(self) -> ThreadPoolExecutor:
        count = self._core.limits.max_concurrent_batches
        if self._threads is None:
            self._threads = Threads(count, thread_name_prefix=self._batched.name)
        self._threads.resize(count)
        return self._threads


class _BatchRequest(CurrentRequest):
    """What the callers in a batch have in common. It is over with the batch."""

    __slots__ = ()

    def watch_end(self) -> bool:
        return True


class _Metrics:
    """What is counted of one function in one deployment."""

    def __init__(self, function: str, application: str, deployment: str) -> None:
        labels = (application, deployment, function)
        self.size = BATCH_SIZE.labels(*labels)
        self.wait = BATCH_WAIT.labels(*labels)
        self.duration = BATCH_SECONDS.labels(*labels)
        self.running = BATCHES_RUNNING.labels(*labels)


def _request_of(batch: Batch[Item]) -> CurrentRequest:
    """Return what the function is told of the request that it serves: the one of the only item, or what all share."""
    first = batch.items[0].request
    if first is None:
        return CurrentRequest(_NOWHERE)
    if len(batch.items) == 1:
        return first
    return _BatchRequest(first.place, "", str(batch.key), batch.deadline)
