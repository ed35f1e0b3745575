"""The control plane as one server that a process hosts.

Owns the order in which its parts start and stop. Holds no policy. Called by the CLI through `lifecycle.Server`.
"""

from __future__ import annotations

import errno
import logging
import socket

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh.clock import Clock
from mesh.connection import bind
from mesh.connection import server as new_server
from mesh.controlplane.api import Deployments
from mesh.controlplane.at_leader import AtLeader
from mesh.controlplane.availability import Availability
from mesh.controlplane.bell import wait_until
from mesh.controlplane.collector import Collector
from mesh.controlplane.discovery import Discovery
from mesh.controlplane.event_api import Events
from mesh.controlplane.forward import Forwarder
from mesh.controlplane.goal import GoalState
from mesh.controlplane.leader import Leadership
from mesh.controlplane.log_reads import LogReads
from mesh.controlplane.logs import Logs
from mesh.controlplane.loop import Loop
from mesh.controlplane.opening import open_store
from mesh.controlplane.package_service import Packages
from mesh.controlplane.package_store import PackageStore
from mesh.controlplane.revise import Revising
from mesh.controlplane.revisions import Revisions
from mesh.controlplane.sessions import Sessions
from mesh.controlplane.store import Store
from mesh.controlplane.worker_goals import WorkerGoals
from mesh.credentials import Credentials
from mesh.errors import Conflict, InvalidConfig, Problem
from mesh.lifecycle import Tasks, deadline
from mesh.liveness import TAKE_OFFICE_S, pings_served
from mesh.security import check_listener
from mesh.settings import MESSAGE_BYTES_MAX, ControlPlaneSettings
from mesh.telemetry import LEADER
from mesh.v1 import (
    deployment_service_pb2_grpc,
    discovery_service_pb2_grpc,
    event_service_pb2_grpc,
    log_service_pb2_grpc,
    package_service_pb2_grpc,
    revision_service_pb2_grpc,
    worker_service_pb2_grpc,
)

FIRST_LEADER_WAIT_S = TAKE_OFFICE_S
"""Seconds that `start` waits for somebody to lead; without one it goes on unready."""
RESIGN_S_MAX = 3.0
STORE_S_MAX = 1.0
"""Seconds in which what workers told is stored, before another instance leads."""
STOP_GRACE_S = 2.0
SERVICES = (
    "",
    "mesh.v1.DeploymentService",
    "mesh.v1.EventService",
    "mesh.v1.RevisionService",
    "mesh.v1.WorkerService",
    "mesh.v1.DiscoveryService",
    "mesh.v1.PackageService",
    "mesh.v1.LogService",
)
OPTIONS = (
    # Two servers on one port would each get some of the connections; a port in use must be an error.
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    *pings_served(),
)
_WILDCARDS = ("", "0.0.0.0", "::", "[::]")

log = logging.getLogger("mesh.controlplane")


class ControlPlane:
    """One instance of the control plane. `address` is its host:port once it has started."""

    def __init__(self, settings: ControlPlaneSettings, clock: Clock) -> None:
        """Raises InvalidConfig if it would be open to others, or credentials cannot be used."""
        check_listener("the control plane", settings.host, settings.security)
        self._credentials = Credentials(settings.security)
        self._settings = settings
        self._clock = clock
        self.address = ""
        self._server: grpc.aio.Server | None = None
        self._store: Store | None = None
        self._package_store: PackageStore | None = None
        self._packages: Packages | None = None
        self._leadership: Leadership | None = None
        self._loop: Loop | None = None
        self._availability: Availability | None = None
        self._health: health.aio.HealthServicer | None = None
        self._forwarder = Forwarder(self._credentials)
        self._log_reads = LogReads(clock)
        self._tasks = Tasks()
        self._failed = ""

    async def start(self) -> None:
        """Bind, open the store, take part in the election and serve.

        Raises Conflict (port or store in use), InvalidConfig (store setting), Unreachable (store).
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings, clock = self._settings, self._clock
        # The store first: a server that has a port keeps it until it has run and stopped.
        store = self._store = await open_store(settings, clock)
        opened = await open_store(settings, clock, packages=True)
        packages = self._package_store = PackageStore(opened, clock, settings.package_quota_bytes)
        server = self._server = new_server(self._credentials, OPTIONS)
        self.address = _bind(server, settings.host, settings.port, self._credentials)
        leadership = self._leadership = Leadership(store, _advertised(settings, self.address), clock=clock)
        loop = self._loop = Loop(store, leadership, settings, clock)
        goal = GoalState(store, leadership, packages, clock)
        availability = self._availability = Availability(store, clock)
        at_leader = AtLeader(loop, leadership, self._forwarder, availability, clock)
        servicer = self._packages = Packages(packages)
        deployments = Deployments(at_leader, leadership, goal, WorkerGoals(store, leadership, clock), clock)
        revisions = Revisions(at_leader, Revising(goal, clock))
        logs = Logs(at_leader, self._log_reads)
        sessions = Sessions(loop, leadership, self._log_reads, settings.heartbeat_interval_s, clock)
        discovery = Discovery(loop, leadership, settings.heartbeat_interval_s)
        self._health = health.aio.HealthServicer()
        deployment_service_pb2_grpc.add_DeploymentServiceServicer_to_server(deployments, server)
        event_service_pb2_grpc.add_EventServiceServicer_to_server(Events(at_leader), server)
        revision_service_pb2_grpc.add_RevisionServiceServicer_to_server(revisions, server)
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(sessions, server)
        discovery_service_pb2_grpc.add_DiscoveryServiceServicer_to_server(discovery, server)
        package_service_pb2_grpc.add_PackageServiceServicer_to_server(servicer, server)
        log_service_pb2_grpc.add_LogServiceServicer_to_server(logs, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self._tasks = Tasks(on_failure=self._on_failure)
        self._tasks.spawn(leadership.run(), name="leadership")
        self._tasks.spawn(loop.run(), name="control-loop")
        self._tasks.spawn(self._show_leadership(leadership), name="show-leadership")
        self._tasks.spawn(availability.run(), name="look-at-store")
        self._tasks.spawn(Collector(store, packages, clock).run(loop), name="collect-packages")
        await server.start()
        await self._first_leader(loop, leadership)
        for service in SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        log.info("control plane listens", extra={"address": self.address})

    def not_ready(self) -> str:
        """Return "" while the store answers and this instance acts or knows who does, else the reason why not."""
        loop, leadership, availability = self._loop, self._leadership, self._availability
        if self._failed:
            return self._failed
        if loop is None or leadership is None or self._server is None:
            return "not started"
        if availability is not None and (trouble := availability.trouble):
            return trouble
        if leadership.is_leader:
            return "" if loop.term is not None else "taking office"
        return "" if leadership.leader_address else "no control plane leads now"

    async def drain(self) -> None:
        """Give leadership up, so that another instance takes over at once; streams end and look for it."""
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        if self._loop is not None:
            async with deadline(STORE_S_MAX, "storing what workers told"):
                await self._loop.stored()
        if self._leadership is not None and len(self._tasks):
            async with deadline(RESIGN_S_MAX, "giving up leadership"):
                await self._leadership.resign()

    async def stop(self) -> None:
        """End at once and free everything. Also right after a failed start, and twice."""
        if self._leadership is not None and self._leadership.is_leader:
            async with deadline(RESIGN_S_MAX, "giving up leadership"):
                await self._leadership.resign()
        self._leadership = None
        server, self._server = self._server, None
        if server is not None:
            await server.stop(STOP_GRACE_S if self._loop is not None else None)
        await self._tasks.cancel()
        self._loop = None
        await self._forwarder.close()
        if self._packages is not None:
            await self._packages.close()
        package_store, self._package_store = self._package_store, None
        if package_store is not None:
            await package_store.close()
        store, self._store = self._store, None
        if store is not None:
            await store.close()
        LEADER.set(0)

    async def _first_leader(self, loop: Loop, leadership: Leadership) -> None:
        """Wait until calls can be answered, so that whoever comes right after the ready line is served."""
        ends = self._clock.monotonic() + FIRST_LEADER_WAIT_S
        while self.not_ready() and (left_s := ends - self._clock.monotonic()) > 0:
            ticket, state = loop.changed.ticket(), leadership.state
            if state.is_leader:
                await wait_until(ticket, left_s)
                continue
            async with deadline(left_s, "the election of a leader"):
                await leadership.changed(state)

    async def _show_leadership(self, leadership: Leadership) -> None:
        state = leadership.state
        while True:
            LEADER.set(1 if state.is_leader else 0)
            state = await leadership.changed(state)

    def _on_failure(self, error: BaseException) -> None:
        self._failed = f"a part of the control plane failed: {error}"


def _bind(server: grpc.aio.Server, host: str, port: int, credentials: Credentials) -> str:
    """Listen and return host:port. Raises Conflict (port in use) or InvalidConfig (no such address)."""
    bare = host.strip("[]")
    name = f"[{bare}]" if ":" in bare else bare
    taken = f"the control plane cannot listen on {name}:{port}"
    hint = "choose another with --control-port (0: a free one), or end the process that has it"
    try:
        # Asked of the system first: grpc says neither why it fails nor says so without noise.
        socket.create_server((bare, port), family=socket.AF_INET6 if ":" in bare else socket.AF_INET).close()
    except OSError as error:
        why = f"{taken}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            raise Conflict(why, hint=hint) from error
        raise InvalidConfig((Problem("host", why, "name an address of this machine and a port it may use"),)) from error
    try:
        bound = bind(server, f"{name}:{port}", credentials)
    except RuntimeError as error:
        raise Conflict(taken, hint=hint) from error
    return f"{name}:{bound}"


def _advertised(settings: ControlPlaneSettings, address: str) -> str:
    """Return where other processes reach this one."""
    if settings.advertise:
        return settings.advertise
    host, _, port = address.rpartition(":")
    return f"{socket.gethostname()}:{port}" if host in _WILDCARDS else address
