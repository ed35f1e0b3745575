"""`grpc.health.v1` on the gRPC port: of the gateway itself (""), and of each service that is deployed.

Owns when a service counts as serving: when some ready replica is connected. Called by `grpc_front`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from mesh.gateway.pipeline import Pipeline
from mesh.lifecycle import Tasks

LOOK_S = 0.25
"""Seconds until watchers hear of a change."""
_OWN = ("", "mesh.v1.IngressService")
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(aio.HealthServicer):  # type: ignore[misc]
    """Answers Check from the state of that moment, and tells watchers soon."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self._pipeline = pipeline
        self._told: dict[str, Any] = {}
        self._tasks = Tasks()

    async def start(self) -> None:
        """Begin to tell."""
        await self._look()
        self._tasks.spawn(self._watch(), name="grpc-health")

    async def stop(self) -> None:
        """Tell nothing more."""
        await self._tasks.cancel()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: D102
        await self._look()
        return await super().Check(request, context)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look()

    async def _look(self) -> None:
        wanted = dict.fromkeys(_OWN, _SERVING)
        for served in self._pipeline.services.served:
            ready = served.route.dispatcher.ready_replicas > 0
            for name in served.schema.services:
                if ready or wanted.get(name) != _SERVING:
                    wanted[name] = _SERVING if ready else _NOT_SERVING
        for name in self._told:
            wanted.setdefault(name, _UNKNOWN)
        for name, status in wanted.items():
            if self._told.get(name) != status:
                self._told[name] = status
                await self.set(name, status)
