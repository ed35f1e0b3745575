"""One child process of the worker, a replica or a build, from launch to the end of its process group.

Owns its pipes, its exit and its group. Decides nothing. Every child leads a process group of its own; when the child
exits, for whatever reason, its group is killed before its number can be given to another. Started from the event loop's
thread only: the kernel ends a child with the thread that started it. Called by the supervisor and the builds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import cast

from mesh.errors import DeployFailed, InvalidConfig
from mesh.lifecycle import Tasks
from mesh.worker.ahead import Ahead
from mesh.worker.failures import directory_problem
from mesh.worker.spawn import Launch, Program, Spawned
from mesh.worker.watchdog import Watchdog

_READ_TIMEOUT_S = 1.0
_WINDOW_S = 0.1
_WINDOW_BYTES_MAX = 1024 * 1024
"""Bytes read from one pipe in a window of that length."""


class Child:
    """A child process. Whoever starts one closes it."""

    def __init__(
        self,
        launch: Launch | Program,
        watchdog: Watchdog,
        ahead: Ahead | None = None,
        *,
        on_output: Callable[[bytes], None],
        on_status: Callable[[bytes], None],
    ) -> None:
        """Start the process, or take one that was launched `ahead`; what it prints and says goes to the callbacks.

        Raises InvalidConfig if its working directory cannot be used, else DeployFailed.
        """
        self._loop = asyncio.get_running_loop()
        self._watchdog = watchdog
        self._lock = threading.Lock()
        self._gone: asyncio.Future[int] = self._loop.create_future()
        self._tasks = Tasks()
        self._lifeline: asyncio.WriteTransport | None = None
        self._transports: list[asyncio.ReadTransport] = []
        self._readers: list[_Reader] = []
        spawned = (ahead.take(launch) if ahead is not None and isinstance(launch, Launch) else None) or _spawned(launch)
        self._process, self._pipes = spawned.process, spawned
        # A module of mesh runs nothing of the user's before it has its payload; by then its group is guarded.
        watchdog.guard(self.pid)
        threading.Thread(target=self._reap, name=f"reap-{self.pid}", daemon=True).start()
        connect = self._connect(launch.messages() if isinstance(launch, Launch) else b"", on_output, on_status)
        self._connecting = self._tasks.spawn(connect, name=f"pipes-{self.pid}")

    @property
    def pid(self) -> int:
        """Process id, which is also the number of its group."""
        return self._process.pid

    def terminate(self) -> None:
        """Ask the process to end."""
        self._signal(lambda: os.kill(self.pid, signal.SIGTERM))

    def kill(self) -> None:
        """Kill the process and its group now."""
        self._signal(lambda: os.killpg(self.pid, signal.SIGKILL))

    async def wait(self) -> str:
        """Wait until process and group are gone and what they wrote was read. Returns how it ended, in words."""
        code = await asyncio.shield(self._gone)
        await asyncio.shield(self._connecting)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READ_TIMEOUT_S):
                # A process that left the group may hold the pipes open; what it writes is its own affair.
                await asyncio.gather(*(reader.ended for reader in self._readers))
        return _ending(code)

    async def close(self) -> None:
        """Kill what is left of it, and free its pipes."""
        self.kill()
        await asyncio.shield(self._gone)
        await asyncio.shield(self._connecting)
        if self._lifeline is not None and not self._lifeline.is_closing():
            self._lifeline.abort()
        for transport in self._transports:
            if not transport.is_closing():
                transport.close()

    async def _connect(
        self, payload: bytes, on_output: Callable[[bytes], None], on_status: Callable[[bytes], None]
    ) -> None:
        stdin = os.fdopen(self._pipes.stdin, "wb", 0)
        self._lifeline, _ = await self._loop.connect_write_pipe(asyncio.BaseProtocol, stdin)
        if payload:
            self._lifeline.write(payload)
        else:
            self._lifeline.close()
        for fd, read in ((self._pipes.output, on_output), (self._pipes.status, on_status)):
            reader = _Reader(self._loop, read)
            transport, _ = await self._loop.connect_read_pipe(partial(_same, reader), os.fdopen(fd, "rb", 0))
            self._transports.append(transport)
            self._readers.append(reader)

    def _signal(self, send: Callable[[], None]) -> None:
        with self._lock:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    send()

    def _reap(self) -> None:
        """Run in a thread of its own: wait for the exit, kill what is left of the group, and only then reap."""
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self.kill()
            with self._lock:
                code = self._process.wait()
        else:
            code = self._process.wait()
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._reaped, code)

    def _reaped(self, code: int) -> None:
        self._watchdog.release(self.pid)
        if not self._gone.done():
            self._gone.set_result(code)


class _Reader(asyncio.Protocol):
    """Hands on what comes out of a pipe, no faster than a bound: a child that floods it waits, not the worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, read: Callable[[bytes], None]) -> None:
        self.ended: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._read = read
        self._transport: asyncio.ReadTransport | None = None
        self._window_ends = 0.0
        self._window_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what paces the pipe."""
        # Not isinstance: uvloop's transports are not asyncio's.
        self._transport = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand it on, and pause when it was much."""
        self._read(data)
        if (now := self._loop.time()) >= self._window_ends:
            self._window_ends, self._window_bytes = now + _WINDOW_S, 0
        self._window_bytes += len(data)
        if self._window_bytes >= _WINDOW_BYTES_MAX and self._transport is not None:
            self._transport.pause_reading()
            self._loop.call_at(self._window_ends, self._resume)

    def connection_lost(self, exc: Exception | None) -> None:
        """All was read."""
        self._transport = None
        if not self.ended.done():
            self.ended.set_result(None)

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()


def _spawned(launch: Launch | Program) -> Spawned:
    try:
        return Spawned(launch)
    except (OSError, ValueError) as error:
        why = str(getattr(error, "strerror", None) or error)
        place = launch.working_dir if isinstance(launch, Launch) else ""
        if place and getattr(error, "filename", None) == place:
            raise InvalidConfig((directory_problem("runtime_env.working_dir", place, why),)) from error
        raise DeployFailed(f"cannot start a process: {why}") from error


def _same(reader: _Reader) -> _Reader:
    return reader


EXITED_WELL = "exited with code 0"


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
