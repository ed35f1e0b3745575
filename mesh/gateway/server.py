"""Puts a gateway together: discovery, pipeline, the HTTP and the gRPC front."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

from mesh.clock import Clock
from mesh.gateway.discovery import Discovery
from mesh.gateway.grpc_front import GrpcFront
from mesh.gateway.http_front import HttpFront
from mesh.gateway.http_server import HttpServer
from mesh.gateway.pipeline import Pipeline
from mesh.lifecycle import Tasks, deadline, tune_collector
from mesh.settings import GatewaySettings
from mesh.v1 import discovery_service_pb2 as pb


class Gateway:
    """One gateway process's work, as a `lifecycle.Server`."""

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        gateway_id = settings.gateway_id or f"gateway-{clock.token(8)}"
        self.settings = dataclasses.replace(settings, gateway_id=gateway_id)
        self.pipeline = Pipeline(self.settings, clock)
        self._discovery = Discovery(self.settings, self.pipeline.credentials, clock, self._apply)
        self._http = HttpServer(HttpFront(self.pipeline), self.settings)
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
        tune_collector()

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
        """Refuse new requests and finish those that run, within the drain time-out."""
        await self._grpc.drain()
        async with deadline(self.settings.drain_timeout_s, "running requests"):
            await self.pipeline.drain()

    async def stop(self) -> None:
        """End at once and free everything."""
        await self._tasks.cancel()
        # First, so that whoever still waits is answered and the listeners have nobody to wait for.
        await self.pipeline.close()
        await self._http.stop()
        await self._grpc.stop()
        await self.pipeline.tasks.cancel()
