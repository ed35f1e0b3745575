"""Puts a gateway together: discovery, pipeline, the HTTP and the gRPC front."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable

from mesh import access_log
from mesh.clock import Clock
from mesh.gateway.grpc_front import GrpcFront
from mesh.gateway.http_front import HttpFront
from mesh.gateway.http_server import HttpServer
from mesh.gateway.pipeline import Pipeline
from mesh.lifecycle import Tasks, deadline, tune_memory
from mesh.pipe.discovery import Discovery
from mesh.settings import GatewaySettings
from mesh.v1 import discovery_service_pb2 as pb

WATCHERS_S = 0.5
"""Seconds for those who watch health to go by themselves once nothing else runs."""
POLITE_S = 1.0
"""Seconds for busy clients to be told that they are to connect elsewhere, before idle connections are closed."""
SOCKETS_S = 1.0
"""Seconds before the end of the drain at which WebSockets that are open still are closed."""
QUIET_S = 0.25
"""Seconds without a request after which they are all idle."""
AGE_JITTER = 1.15
"""gRPC lets connections get a tenth older or younger than they should."""


class Gateway:
    """One gateway process's work, as a `lifecycle.Server`."""

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        gateway_id = settings.gateway_id or f"gateway-{clock.token(8)}"
        self.settings = dataclasses.replace(settings, gateway_id=gateway_id)
        self.pipeline = Pipeline(self.settings, clock)
        self._discovery = Discovery(settings.control, self._says, self.pipeline.credentials, clock, self._apply)
        self._front = HttpFront(self.pipeline)
        self._http = HttpServer(self._front, self.settings)
        self._grpc = GrpcFront(self.pipeline)
        self._tasks = Tasks()
        self._told = asyncio.Event()

    @property
    def http_address(self) -> str:
        """host:port of the HTTP listener."""
        return self._http.address

    @property
    def grpc_address(self) -> str:
        """host:port of the gRPC listener."""
        return self._grpc.address

    async def start(self) -> None:
        """Take both ports and follow the control plane. Raises Conflict when a port is taken.

        Whoever connects waits until a snapshot says what to serve, for `open_timeout_s` at most.
        """
        self._http.listen()
        self._grpc.listen()
        self._tasks.spawn(self._discovery.run(), name="discovery")
        self._tasks.spawn(self._open(), name="open")
        tune_memory()

    def _says(self) -> pb.StreamSnapshotsRequest:
        return pb.StreamSnapshotsRequest(gateway_id=self.settings.gateway_id)

    def _apply(self, snapshot: pb.Snapshot) -> bool:
        applied = self.pipeline.apply(snapshot)
        if not self._told.is_set() and all(map(self.pipeline.knows, self.settings.opens_with)):
            self._told.set()
        return applied

    async def _open(self) -> None:
        """Let the listeners answer once there is something to say, or when it has taken too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.open_timeout_s):
                await self._told.wait()
        await self._http.serve()
        await self._grpc.serve()

    def not_ready(self) -> str:
        """Return why this gateway should get no traffic, or ""."""
        return self.pipeline.not_ready()

    def serving(self, application: str) -> bool:
        """Whether requests of an application reach a replica right now."""
        return self.pipeline.serving(application)

    async def drain(self) -> None:
        """Let clients go elsewhere and finish what runs and waits, within the drain delay and the drain time-out.

        Whatever still comes is served: a request is never refused because it came at the wrong moment.
        """
        self.pipeline.draining = True
        self._grpc.lame()
        await asyncio.sleep(self.settings.drain_delay_s)
        async with deadline(self.settings.drain_timeout_s, "running requests"):
            http = self._tasks.spawn(self._end_http(), name="end-http")
            grpc = self._tasks.spawn(self._end_grpc(), name="end-grpc")
            await asyncio.wait((http, grpc))
            await self.pipeline.idle()

    async def _end_http(self) -> None:
        """Close connections as their clients expect it: after an answer that said so, else while they are idle."""
        clock = asyncio.get_running_loop().time
        ends = clock() + self.settings.drain_timeout_s
        self._front.last = True
        await self._quiet(lambda: self._front.entered, POLITE_S)
        await self._front.sockets.over(ends - clock() - SOCKETS_S)
        # Not earlier: the server drops open sockets when it stops.
        await self._http.drain()

    async def _end_grpc(self) -> None:
        """Let connections reach their age, where they have one: gRPC cancels calls that cross the word of its end."""
        self._grpc.close_listener()
        limit_s = max(POLITE_S, self.settings.grpc_connection_age_s * AGE_JITTER)
        await self._quiet(lambda: self.pipeline.entered - self._front.entered, limit_s)
        ending = self._tasks.spawn(self._grpc.drain(self.settings.drain_timeout_s), name="end-grpc-calls")
        await self.pipeline.idle()
        # What is left runs nowhere: those who watch health, and may read nothing at all.
        await asyncio.wait((ending,), timeout=WATCHERS_S)

    async def _quiet(self, count: Callable[[], int], limit_s: float) -> None:
        """Return when nothing was counted for some time, or nothing ever, or after `limit_s` seconds."""
        if not (seen := count()):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while True:
                    await asyncio.sleep(QUIET_S)
                    if seen == (seen := count()):
                        return

    async def stop(self) -> None:
        """End at once and free everything."""
        await self._tasks.cancel()
        # First, so that whoever still waits is answered and the listeners have nobody to wait for.
        await self.pipeline.close()
        await self._http.stop()
        await self._grpc.stop()
        await self.pipeline.tasks.cancel()
        if access_log.current is not None:
            access_log.current.flush()
