"""The worker as a server: its parts, their order at start, drain and stop.

Owns assembly only. Called by the CLI.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket

import mesh
from mesh import model
from mesh.clock import Clock
from mesh.credentials import Credentials
from mesh.errors import InvalidConfig, Problem
from mesh.lifecycle import Tasks, deadline
from mesh.security import check_listener
from mesh.settings import WorkerSettings
from mesh.worker.agent import Agent, Identity
from mesh.worker.ahead import UNUSED_S, Ahead
from mesh.worker.builds import Builds
from mesh.worker.environments.assembly import environments
from mesh.worker.listening import check_here, check_one_address
from mesh.worker.logs.keeper import Keeper
from mesh.worker.logs.sender import LogSender
from mesh.worker.running import Shared
from mesh.worker.stream import Duties
from mesh.worker.supervisor import Supervisor
from mesh.worker.watchdog import Watchdog

_HOST_CHARS_MAX = 50
START_ALLOWANCE_S = 30.0
"""Seconds for replicas to start on other workers, beyond those for running requests to end."""


class Worker:
    """One worker (a `lifecycle.Server`). Start it from the thread that is to outlive its replicas: the main thread."""

    def __init__(self, settings: WorkerSettings, clock: Clock, ahead: Ahead | None = None) -> None:
        """`ahead`: processes that wait for something to run; they end within a time, or with this worker.

        Raises InvalidConfig: no control plane to look for, replicas open to others, a host that stands for every
        address, unusable credentials.
        """
        if not settings.control:
            raise InvalidConfig((Problem("control", "no address of a control plane", "give host:port"),))
        check_listener("each replica", settings.host, settings.security)
        check_one_address(settings.host)
        credentials = Credentials(settings.security)
        self.worker_id = settings.worker_id or f"{_host_name()}-{clock.token(6)}"
        identity = Identity(
            worker_id=self.worker_id,
            incarnation=clock.token(16),
            started_at=clock.wall(),
            host=settings.host,
            resources=_resources(settings.max_replicas),
            version=mesh.__version__,
        )
        self._host = settings.host
        self._ahead = ahead
        self._watchdog = Watchdog()
        self._environments = environments(settings, credentials, self._watchdog, clock)
        self._keeper = Keeper(settings.log_dir, clock)
        self._log_sender = LogSender(self._keeper)
        shared = Shared(self._watchdog, self._environments, self._keeper, settings.control, ahead)
        self._supervisor = Supervisor(settings.host, credentials, clock, shared, self._changed)
        builds = Builds(self._environments, self._watchdog, clock, ahead)
        duties = Duties(self._supervisor, builds, self._log_sender)
        self._agent = Agent(identity, settings.control, credentials, duties, clock)
        self._tasks = Tasks()
        self._drain_timeout_s = settings.drain_timeout_s
        self._draining = False

    @property
    def replicas(self) -> tuple[model.ReplicaStatus, ...]:
        """How each replica is doing."""
        return self._supervisor.statuses()

    def output(self, replica_id: str) -> tuple[str, ...]:
        """Return the last lines that a replica printed, those of its earlier processes included."""
        return self._supervisor.output(replica_id)

    async def start(self) -> None:
        """Begin to look for the control plane; it need not be there yet. Raises InvalidConfig: `host` is not here."""
        await asyncio.to_thread(check_here, self._host)
        self._watchdog.start()
        self._environments.start()
        self._keeper.start()
        self._supervisor.start()
        self._tasks.spawn(self._agent.run(), name="agent")
        if self._ahead is not None:
            self._tasks.spawn(self._end_unused(self._ahead), name="ahead")

    def not_ready(self) -> str:
        """Return "" once a control plane has taken this worker, else the reason why not."""
        if self._draining:
            return "draining"
        return "" if self._agent.welcomed else "no control plane has taken this worker yet"

    async def drain(self) -> None:
        """Take leave of the control plane: have the replicas replaced elsewhere, as far as there is room.

        What is left within the drain time-out is stopped, each replica within the time its settings give.
        """
        self._draining = True
        limit_s = self._drain_timeout_s
        if limit_s is None:
            limit_s = self._supervisor.drain_s + START_ALLOWANCE_S
        if limit_s:
            async with deadline(limit_s, "replacing its replicas on other workers"):
                await self._agent.empty()
        else:
            self._agent.announce_drain()
        await self._supervisor.drain()
        await self._agent.leave()

    async def stop(self) -> None:
        """Kill all replicas and builds and free everything."""
        self._draining = True
        await self._tasks.cancel()
        if self._ahead is not None:
            self._ahead.close()
        await self._supervisor.stop()
        await self._environments.close()
        self._log_sender.close()
        await asyncio.to_thread(self._keeper.close)
        self._watchdog.stop()

    async def _end_unused(self, ahead: Ahead) -> None:
        await asyncio.sleep(UNUSED_S)
        ahead.close()

    def _changed(self) -> None:
        self._agent.changed()


def _host_name() -> str:
    """Return the host's name, made fit for a worker's name."""
    fit = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname().partition(".")[0])[:_HOST_CHARS_MAX].strip("-")
    return fit or "worker"


def _resources(max_replicas: int) -> model.Resources:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return model.Resources(cpus=cpus, memory_bytes=memory_bytes, max_replicas=max_replicas)
