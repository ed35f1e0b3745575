"""How processes of mesh start, wait and end.

Owns signals, background tasks, the event loop's choice and the bond between parent and child processes. Knows
nothing of roles. Called by the servers, the CLI and the replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol, runtime_checkable

EXIT_INTERRUPTED = 130
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""As in glibc's malloc.h."""
_MAPPED_FROM_BYTES = 4 * 1024 * 1024
"""Larger blocks have a mapping of their own; no message of a pipe is larger."""
_KEPT_FREE_BYTES = 16 * 1024 * 1024
"""Free memory at the end of the heap that is kept."""

log = logging.getLogger("mesh.lifecycle")


class Tasks:
    """Background tasks with one owner. A task that fails is logged and reported; none outlives `cancel`."""

    def __init__(self, on_failure: Callable[[BaseException], None] | None = None) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_failure = on_failure

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Start `work` now; it is cancelled when the owner cancels."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def cancel(self) -> None:
        """Cancel all tasks and wait until each has ended."""
        while tasks := [task for task in self._tasks if task is not asyncio.current_task()]:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("task %s failed: %s", task.get_name(), error, exc_info=error)
        if self._on_failure is not None:
            self._on_failure(error)


class Stop:
    """The process's wish to end. The first signal drains, the second exits at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason = ""

    def set(self, reason: str) -> None:
        """Ask the process to drain and end. Repeating it changes nothing."""
        if not self._event.is_set():
            self.reason = reason
            self._event.set()

    def is_set(self) -> bool:
        """Whether the process was asked to end."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return when the process is asked to end."""
        await self._event.wait()


class Server(Protocol):
    """A role that a process hosts. Started once, then drained, then stopped."""

    async def start(self) -> None:
        """Bind and begin. Raises a MeshError (a port in use: Conflict) and leaves nothing behind."""
        ...

    def not_ready(self) -> str:
        """Return "" when it can do its work, else the reason why not. Called from any thread."""
        ...

    async def drain(self) -> None:
        """Take nothing new and finish what runs, within the grace its settings give."""
        ...

    async def stop(self) -> None:
        """End at once and free everything. Also right after a failed start, and twice."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A server whose metrics are kept elsewhere than in this process."""

    def metrics(self) -> bytes:
        """Return them as a page of Prometheus text. Called from any thread."""
        ...


def run(main: Callable[[Stop], Coroutine[Any, Any, int]]) -> int:
    """Run a process's main coroutine on uvloop (asyncio where there is none) and return its exit code.

    SIGINT and SIGTERM set the `Stop` that `main` is given; a second one ends the process at once with
    code 130. Child processes started with `bind_to_parent` end with it either way.
    """
    # What is loaded stays: the garbage collector need not look at it again and again.
    gc.freeze()

    async def guarded() -> int:
        with signals() as stop:
            return await main(stop)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(guarded())


@contextlib.contextmanager
def signals() -> Any:
    """Yield a `Stop` that SIGINT and SIGTERM set; the second signal exits."""
    stop = Stop()
    loop = asyncio.get_running_loop()

    def received(name: str) -> None:
        if stop.is_set():
            # Not sys.exit: a second signal means now, whatever still runs. Children die with this process.
            os._exit(EXIT_INTERRUPTED)
        stop.set(f"signal {name}")

    watched = (signal.SIGINT, signal.SIGTERM)
    for number in watched:
        loop.add_signal_handler(number, received, number.name)
    try:
        yield stop
    finally:
        for number in watched:
            loop.remove_signal_handler(number)


def tune_memory() -> None:
    """Set the garbage collector and the C library's allocator up for many requests. Call it once ready to serve.

    The collector is spared the objects of start-up, and looks for cycles less often: with the defaults a gateway spends
    a fifth of its time looking, for each batch of requests makes more objects than the first generation holds.

    The allocator keeps what was freed, within bounds, rather than give it back to the kernel at once. By default each
    message of some 100 KB is fresh memory, and a page fault for each 4 KB of it costs ten times what copying it does.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:  # glibc's; others do as they do
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE_BYTES)


def bind_to_parent(parent_pid: int, lifeline_fd: int) -> None:
    """Make this process, and its process group, end when its parent ends, even by kill -9.

    Two bonds: the kernel kills this process when the parent's thread is gone (Linux), and a thread that
    reads `lifeline_fd`, whose other end only the parent holds, kills the whole group at end of file. The
    process must lead a group of its own. Exits at once if the parent is gone already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(lifeline_fd, 4096):
                pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


@contextlib.asynccontextmanager
async def deadline(seconds: float, what: str) -> AsyncIterator[None]:
    """Bound a step of a shutdown: past `seconds` it is given up and logged, not raised."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        log.warning("%s did not end within %.1f s; going on", what, seconds)


def _all_at_once(poller: socket.socket, handle: Callable[..., object]) -> Callable[..., None]:
    """Return grpc.aio's reader of its `poller`, made to leave nothing that would call it again for nothing.

    The poller writes a byte for each event; its reader takes one byte, but all events.
    """
    receive, peek = poller.recv, socket.MSG_PEEK

    def read(*args: object) -> None:
        if (count := len(receive(256, peek))) > 1:
            receive(count - 1)
        handle(*args)

    return read


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop of a process of mesh; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None

    class Loop(uvloop.Loop):
        """Goes round once for all events that grpc.aio's poller has, not once for each."""

        def add_reader(self, fd: Any, callback: Any, *args: Any) -> Any:  # type: ignore[override]
            if isinstance(fd, socket.socket) and getattr(callback, "__name__", "") == "_handle_events":
                callback = _all_at_once(fd, callback)
            return super().add_reader(fd, callback, *args)

    return Loop
