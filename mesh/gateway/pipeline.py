"""The way of a request through the gateway: route, admission, replica, answer.

Owns the routing state made from the last snapshot. Speaks neither HTTP nor gRPC itself. Called by
the fronts; snapshots come from `discovery`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from mesh.clock import Clock
from mesh.credentials import Credentials
from mesh.errors import NotFound, Unavailable
from mesh.gateway.cors import Cors
from mesh.gateway.exchange import Exchanges
from mesh.gateway.interfaces import Interfaces
from mesh.gateway.rest_table import RestTable
from mesh.gateway.routes import RouteTable
from mesh.gateway.services import Served, ServiceTable
from mesh.lifecycle import Tasks
from mesh.model import Generation
from mesh.pipe.dispatch import Dispatcher, Limits
from mesh.settings import GatewaySettings
from mesh.telemetry import SNAPSHOT_GENERATION
from mesh.transcode.schema import Schema
from mesh.v1 import discovery_service_pb2 as pb

log = logging.getLogger("mesh.gateway")


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests of one application go."""

    application: str
    prefix: str
    """Route prefix without a slash at its end; "" for the root."""
    dispatcher: Dispatcher
    timeout_s: float
    rest: RestTable | None = None
    """The methods of its services, by path; None without services."""
    grpc_only: bool = False
    """It has no HTTP handler: what `rest` does not know is not found."""


class Pipeline:
    """Routes and dispatchers as the last snapshot wants them."""

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        """Raises InvalidConfig if credentials cannot be used."""
        self.settings = settings
        self.clock = clock
        self.credentials = Credentials(settings.security)
        self.generation = Generation()
        self.draining = False
        """It is about to end: not ready, but it serves on."""
        self.closed = False
        """It takes nothing new."""
        self.entered = 0
        """Requests that ever came in."""
        self.tasks = Tasks()
        self.exchanges = Exchanges(settings, clock, self.tasks)
        self.services: ServiceTable[Route] = ServiceTable()
        """Who serves which gRPC service."""
        self.cors: Cors | None = None
        """What pages of other origins may do; None: nothing."""
        self._interfaces = Interfaces()
        self._routes: RouteTable[Route] = RouteTable({})
        self._applications: dict[str, Route] = {}
        self._dispatchers: dict[tuple[str, str], Dispatcher] = {}
        self._exchanges = 0
        self._idle: asyncio.Future[None] | None = None

    def route(self, raw_path: bytes) -> Route:
        """Return the route of a path. Raises NotFound, or Unavailable before the first snapshot."""
        if (route := self._routes.match(raw_path)) is not None:
            return route
        self.require_snapshot()
        path = raw_path.decode("utf-8", "replace")[:200]
        raise NotFound(f"no application serves {path!r}", hint="/-/routes lists the routes")

    def application(self, name: str) -> Route:
        """Return the route of an application by name. Raises NotFound, or Unavailable before the first snapshot."""
        if (route := self._applications.get(name)) is not None:
            return route
        self.require_snapshot()
        raise NotFound(f"there is no application {name!r}", hint="/-/routes lists the applications")

    def entries(self) -> list[Route]:
        """Return the routes of all applications that are reachable over HTTP."""
        return list(self._routes.entries())

    def routes(self) -> dict[str, str]:
        """Return route prefix → application."""
        return {route.prefix or "/": route.application for route in self._routes.entries()}

    def serving(self, application: str) -> bool:
        """Whether requests of an application reach a replica right now."""
        route = self._applications.get(application)
        return route is not None and route.dispatcher.ready_replicas > 0

    def knows(self, application: str) -> bool:
        """Whether the last snapshot has an application, be it ready or not."""
        return application in self._applications

    def schemas(self, application: str | None = None) -> list[Schema]:
        """Return the schemas of one application, or of all that is deployed."""
        return [each.schema for each in self.services.served if application is None or each.application == application]

    def not_ready(self) -> str:
        """Return why this gateway should get no traffic, or ""."""
        if self.draining:
            return "draining"
        return "" if self.generation.epoch else "no snapshot from a control plane yet"

    def require_snapshot(self) -> None:
        """Raise Unavailable before the first snapshot."""
        if not self.generation.epoch:
            raise Unavailable("this gateway has not heard from a control plane yet", hint="try again in a moment")

    def apply(self, snapshot: pb.Snapshot) -> bool:
        """Serve from `snapshot`. False, and nothing is changed, if it is older than what is served from."""
        generation = Generation(snapshot.generation.epoch, snapshot.generation.number)
        if generation < self.generation:
            return False
        by_prefix: dict[str, Route] = {}
        by_name: dict[str, Route] = {}
        wanted: dict[tuple[str, str], Dispatcher] = {}
        served: list[Served[Route]] = []
        self._interfaces.keep(snapshot.applications)
        for application in snapshot.applications:
            prefix = application.route_prefix.rstrip("/")
            for deployment in application.deployments:
                if deployment.internal:  # others call it by handles; a pipe to it would stand idle
                    continue
                key = (application.name, deployment.name)
                dispatcher = wanted[key] = self._dispatcher(key, application, deployment)
                if (schema := self._interfaces.schema(deployment)) is not None:
                    timeout_s = self._timeout_s(snapshot, deployment.request_timeout_s)
                    of_service = Route(application.name, prefix, dispatcher, timeout_s)
                    served.append(Served(application.name, schema, of_service))
            ingress = next((d for d in application.deployments if d.name == application.ingress), None)
            if ingress is None:
                dispatcher = wanted[application.name, ""] = self._unbuilt(application)
                route = Route(application.name, prefix, dispatcher, self._timeout_s(snapshot, 0.0))
            else:
                timeout_s = self._timeout_s(snapshot, ingress.request_timeout_s)
                table = self._interfaces.table(ingress, prefix)
                dispatcher, grpc_only = wanted[application.name, ingress.name], ingress.interface.grpc_only
                route = Route(application.name, prefix, dispatcher, timeout_s, table, grpc_only)
            by_name[application.name] = route
            if application.route_prefix:
                by_prefix[application.route_prefix] = route
        gone = {key: old for key, old in self._dispatchers.items() if wanted.get(key) is not old}
        self._routes, self._applications, self._dispatchers = RouteTable(by_prefix), by_name, wanted
        before, self.services = self.services, ServiceTable(served)
        self.cors = _cors(snapshot)
        self.generation = generation
        SNAPSHOT_GENERATION.set(generation.number)
        for (application_name, _), dispatcher in gone.items():
            successor = self._successor(application_name, dispatcher, before)
            dispatcher.retire(f"application {application_name!r} no longer has this deployment", successor)
            self.tasks.spawn(_bury(dispatcher), name="retired-deployment")
        return True

    def enter(self) -> None:
        """Count a request in. Raises Unavailable once closed. Pair with `leave`."""
        if self.closed:
            raise Unavailable("this gateway is shutting down", hint="send the request again")
        self.entered += 1
        self._exchanges += 1

    def leave(self) -> None:
        """Count a request out."""
        self._exchanges -= 1
        if self._idle is not None and not self._exchanges:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None

    async def idle(self) -> None:
        """Return when no request runs or waits."""
        while self._exchanges:
            self._idle = self._idle or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    async def close(self) -> None:
        """End everything now."""
        self.draining = self.closed = True
        for dispatcher in self._dispatchers.values():
            await dispatcher.close("this gateway is shutting down")
        await self.tasks.cancel()

    def _timeout_s(self, snapshot: pb.Snapshot, own_s: float) -> float:
        return own_s or snapshot.request_timeout_s or self.settings.request_timeout_s

    def _dispatcher(
        self, key: tuple[str, str], application: pb.RoutedApplication, deployment: pb.RoutedDeployment
    ) -> Dispatcher:
        limits = Limits(deployment.max_ongoing_requests, deployment.max_queued_requests, application.failure)
        dispatcher = self._dispatchers.get(key)
        if dispatcher is None and deployment.name == application.ingress:
            # Whoever waited for the first build is served by what it made.
            dispatcher = self._dispatchers.pop((application.name, ""), None)
            if dispatcher is not None:
                dispatcher.rename(deployment.name)
        dispatcher = dispatcher or Dispatcher(*key, limits, self.credentials, self.clock)
        dispatcher.update(limits, ((e.replica_id, e.address) for e in deployment.endpoints))
        return dispatcher

    def _successor(self, application: str, gone: Dispatcher, before: ServiceTable[Route]) -> Dispatcher | None:
        """Return who serves what waits for a deployment that is gone: who has its services now, else the ingress."""
        services = {s for each in before.served if each.route.dispatcher is gone for s in each.schema.services}
        for each in self.services.served:
            if each.application == application and not services.isdisjoint(each.schema.services):
                return each.route.dispatcher
        ingress = self._applications.get(application)
        return ingress.dispatcher if ingress is not None else None

    def _unbuilt(self, application: pb.RoutedApplication) -> Dispatcher:
        """Stand in for an application whose first build has not ended: requests wait, or learn why it failed."""
        limits = Limits(1, 100, application.failure)
        dispatcher = self._dispatchers.get((application.name, "")) or Dispatcher(
            application.name, "", limits, self.credentials, self.clock
        )
        dispatcher.update(limits, ())
        return dispatcher


def _cors(snapshot: pb.Snapshot) -> Cors | None:
    if not snapshot.cors.allow_origins:
        return None
    given = snapshot.cors
    return Cors(given.allow_origins, given.allow_headers, given.max_age_s, allow_credentials=given.allow_credentials)


async def _bury(dispatcher: Dispatcher) -> None:
    try:
        await dispatcher.drain()
    finally:
        await dispatcher.close("this gateway is shutting down")
