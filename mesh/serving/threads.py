"""Sync user code beside an event loop: run in threads, and calling from them what runs on the loop.

Owns both ways. A thread cannot be interrupted: who runs something in one waits until it has returned. Used by
batching and multiplexing; the replica's own threads are of the same kind.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mesh.serving import current_request

_END = object()


class Threads(ThreadPoolExecutor):
    """An executor whose size follows a limit."""

    @property
    def size(self) -> int:
        """How many calls may run at once."""
        return self._max_workers

    def resize(self, count: int) -> None:
        """Let as many calls run at once. Threads that are there already stay."""
        # The pool starts threads on demand up to this number; it has no public way to change it.
        self._max_workers = count

    def close(self) -> None:
        """Take no more work; threads that run are left to end by themselves."""
        self.shutdown(wait=False, cancel_futures=True)


class Raised:
    """What sync code raised, as a value: a future cannot carry StopIteration, nor SystemExit in peace."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def caught(work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Return what `work` returns, or what it raised as a `Raised`. For code that runs in a thread."""
    try:
        return work(*args, **kwargs)
    except BaseException as error:
        return Raised(error)


async def in_thread(threads: ThreadPoolExecutor, work: Callable[[], Any]) -> Any:
    """Run `work` in a thread, with the context of the caller, and return what it returns, or raise it.

    Cancelled, it waits until the thread is back.
    """
    context = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(threads, context.run, caught, work)
    cancelled = False
    while True:
        try:
            outcome = await asyncio.shield(future)
            break
        except asyncio.CancelledError:
            if future.cancelled():  # the pool was closed before it began
                raise
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    if isinstance(outcome, Raised):
        raise outcome.error
    return outcome


async def steps_in_thread(threads: ThreadPoolExecutor, generator: Any) -> AsyncGenerator[Any, None]:
    """Yield what a sync generator yields, each step of it in a thread."""
    try:
        while (step := await in_thread(threads, lambda: next(generator, _END))) is not _END:
            yield step
    finally:
        await in_thread(threads, generator.close)


def from_thread(work: Any, name: str) -> Any:
    """Return `work`, a coroutine or async generator, for async code; from a thread of sync code, what it gives.

    Raises RuntimeError where there is no event loop to run it.
    """
    try:
        asyncio.get_running_loop()
        return work
    except RuntimeError:
        request = current_request.current()
    loop = request.place.loop if request is not None else None
    if loop is None or not loop.is_running():
        if inspect.iscoroutine(work):
            work.close()
        raise RuntimeError(f"{name} is called where no request is served: await it, or call it from a handler")
    if isinstance(work, AsyncGenerator):
        return _steps_from_thread(work, loop)
    return _wait(work, loop)


def _steps_from_thread(steps: AsyncGenerator[Any, None], loop: Any) -> Iterator[Any]:
    try:
        while (step := _wait(_step(steps), loop)) is not _END:
            yield step
    finally:
        _wait(steps.aclose(), loop)


async def _step(steps: AsyncGenerator[Any, None]) -> Any:
    return await anext(steps, _END)


def _wait(work: Any, loop: Any) -> Any:
    try:
        return asyncio.run_coroutine_threadsafe(work, loop).result()
    except concurrent.futures.CancelledError:
        raise RuntimeError("the replica is ending") from None
