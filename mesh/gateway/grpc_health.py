"""`grpc.health.v1` on the gRPC port: of the gateway itself (""), and of each service that is deployed.

Owns when a service counts as serving: when some ready replica is connected, and not while the gateway drains. Called
by `grpc_front`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.gateway.pipeline import Pipeline
from mesh.lifecycle import Tasks

LOOK_S = 0.25
"""Seconds until watchers hear of a change."""
_OWN = ("", "mesh.v1.IngressService")
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers Check from the state of that moment, and tells watchers soon. No watcher can hold up anybody else."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._draining = False
        self._statuses: dict[str, Any] = {}
        self._news: asyncio.Future[None] | None = None
        self._tasks = Tasks()

    async def start(self) -> None:
        """Begin to tell."""
        self._look()
        self._tasks.spawn(self._keep_looking(), name="grpc-health")

    async def stop(self) -> None:
        """Tell nothing more."""
        await self._tasks.cancel()

    def drain(self) -> None:
        """Tell everybody to go elsewhere, now and for good."""
        self._draining = True
        self._look()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: D102
        self._look()
        if (status := self._statuses.get(request.service)) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: D102
        told = None
        self._look()
        while True:
            news = self._next()
            if (status := self._statuses.get(request.service, _UNKNOWN)) != told:
                told = status
                try:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                except grpc.aio.BaseError:
                    # The watcher is gone, and grpc is about to cancel this; it could not send a status for a return.
                    await asyncio.Event().wait()
            await asyncio.shield(news)

    def _next(self) -> asyncio.Future[None]:
        """Return what is done when a status changes."""
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        return self._news

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._look()

    def _look(self) -> None:
        statuses = dict.fromkeys(_OWN, _SERVING)
        for served in self._pipeline.services.served:
            ready = served.route.dispatcher.ready_replicas > 0
            for name in served.schema.services:
                if ready or statuses.get(name) != _SERVING:
                    statuses[name] = _SERVING if ready else _NOT_SERVING
        if self._draining:
            statuses = dict.fromkeys(statuses, _NOT_SERVING)
        if statuses != self._statuses:
            self._statuses = statuses
            if self._news is not None:
                self._news.set_result(None)
                self._news = None
