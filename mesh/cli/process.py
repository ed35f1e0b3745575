"""Hosts servers in this process: start, ready lines, drain, stop.

Owns the order of things and the admin listener. Knows roles only as names. Called by the commands that serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from mesh.cli.terminal import say
from mesh.errors import MeshError
from mesh.lifecycle import Measured, Server, Stop, Tasks, deadline
from mesh.telemetry import AdminListener, own_metrics

STOP_SECONDS = 15.0
"""Seconds that one server's stop may take before the process goes on without it."""
_T = TypeVar("_T")

log = logging.getLogger("mesh.cli.process")


class Host:
    """The servers of this process, in the order in which they started."""

    def __init__(self, roles: Sequence[str], admin_host: str, admin_port: int) -> None:
        self._servers: dict[str, Server] = {}
        self._draining = False
        self._metrics: Callable[[], bytes] = own_metrics
        ready = {role: lambda role=role: self.not_ready(role) for role in roles}
        self._admin = AdminListener(admin_host, admin_port, ready, lambda: self._metrics())
        self.admin_url = f"http://{self._admin.address}"

    def not_ready(self, role: str) -> str:
        """Return why a role cannot do its work now, or "". Called from any thread."""
        if self._draining:
            return "draining"
        server = self._servers.get(role)
        return "starting" if server is None else server.not_ready()

    async def start(self, role: str, server: Server) -> None:
        """Start a server. Raises what its start raises, and then nothing of it is left."""
        try:
            await server.start()
        except BaseException:
            await server.stop()
            raise
        self._servers[role] = server
        if isinstance(server, Measured):
            self._metrics = server.metrics

    async def drain(self) -> None:
        """Drain all, the last started first: what takes requests in before what serves them."""
        self._draining = True
        if self._servers:
            _tell("draining; press Ctrl-C again to end at once")
        for server in reversed(self._servers.values()):
            await server.drain()

    async def stop(self) -> None:
        """Stop all, the last started first, and the admin listener."""
        self._draining = True
        # The listener notices its end only at its next look, so it is told while the servers stop.
        await asyncio.gather(asyncio.to_thread(self._admin.stop), self._stop_servers())

    async def _stop_servers(self) -> None:
        for role, server in reversed(self._servers.items()):
            try:
                async with deadline(STOP_SECONDS, f"stop of the {role}"):
                    await server.stop()
            except Exception as error:
                # The others must be stopped all the same; their children depend on it.
                log.error("the %s did not stop cleanly: %s: %s", role, type(error).__name__, error)
        self._servers.clear()


@contextlib.asynccontextmanager
async def hosted(roles: Sequence[str], admin_host: str, admin_port: int) -> AsyncIterator[Host]:
    """Yield a host for servers. On leaving they are drained and stopped; after an error only stopped.

    Raises Conflict if the admin port is taken.
    """
    host = Host(roles, admin_host, admin_port)
    try:
        yield host
        await host.drain()
    finally:
        await host.stop()


async def unless_stopped(work: Coroutine[Any, Any, _T], stop: Stop) -> _T | None:
    """Return the result of `work`, or None if the process was asked to end first; then `work` is cancelled.

    Raises the MeshError that `work` raises.
    """
    tasks = Tasks()
    doing = tasks.spawn(_caught(work), name="command")
    asked = tasks.spawn(stop.wait(), name="stop")
    try:
        await asyncio.wait({doing, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            return None
        result: _T | MeshError = doing.result()
    finally:
        await tasks.cancel()
    if isinstance(result, MeshError):
        raise result
    return result


def _tell(line: str) -> None:
    """Write a line to stderr: plain for people, else in the form of the log, which is there too."""
    if sys.stderr.isatty():
        say(line)
    else:
        log.info("%s", line)


async def _caught(work: Coroutine[Any, Any, _T]) -> _T | MeshError:
    """Return the error instead of raising it: it is for the user, not for the log of failed tasks."""
    try:
        return await work
    except MeshError as error:
        return error
