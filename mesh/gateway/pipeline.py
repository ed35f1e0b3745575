"""The way of a request through the gateway: route, admission, replica, answer.

Owns the routing state made from the last snapshot, and the one `Exchange` that both fronts use. Speaks neither
HTTP nor gRPC itself. Called by the fronts; snapshots come from `discovery`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mesh.clock import Clock
from mesh.errors import DeadlineExceeded, MeshError, NotFound, Unavailable
from mesh.gateway.answer import ClientGone
from mesh.gateway.routes import RouteTable
from mesh.lifecycle import Tasks
from mesh.model import Generation
from mesh.pipe.call import Call
from mesh.pipe.dispatch import Dispatcher, Limits
from mesh.settings import GatewaySettings
from mesh.telemetry import SNAPSHOT_GENERATION
from mesh.v1 import discovery_service_pb2 as pb

WATCH_AFTER_S = 0.02
"""Seconds after which a request is slow: from then on its client is watched."""

log = logging.getLogger("mesh.gateway")


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests of one application go."""

    application: str
    prefix: str
    """Route prefix without a slash at its end; "" for the root."""
    dispatcher: Dispatcher
    timeout_s: float


class Pipeline:
    """Routes and dispatchers as the last snapshot wants them."""

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.generation = Generation()
        self.draining = False
        self.tasks = Tasks()
        self._routes: RouteTable[Route] = RouteTable({})
        self._applications: dict[str, Route] = {}
        self._dispatchers: dict[tuple[str, str], Dispatcher] = {}
        self._exchanges = 0
        self._young: deque[Exchange] = deque()
        self._idle: asyncio.Future[None] | None = None

    def route(self, raw_path: bytes) -> Route:
        """Return the route of a path. Raises NotFound, or Unavailable before the first snapshot."""
        if (route := self._routes.match(raw_path)) is not None:
            return route
        self._require_snapshot()
        path = raw_path.decode("utf-8", "replace")[:200]
        raise NotFound(f"no application serves {path!r}", hint="/-/routes lists the routes")

    def application(self, name: str) -> Route:
        """Return the route of an application by name. Raises NotFound, or Unavailable before the first snapshot."""
        if (route := self._applications.get(name)) is not None:
            return route
        self._require_snapshot()
        raise NotFound(f"there is no application {name!r}", hint="/-/routes lists the applications")

    def routes(self) -> dict[str, str]:
        """Return route prefix → application."""
        return {route.prefix or "/": route.application for route in self._routes.entries()}

    def serving(self, application: str) -> bool:
        """Whether requests of an application reach a replica right now."""
        route = self._applications.get(application)
        return route is not None and route.dispatcher.ready_replicas > 0

    def not_ready(self) -> str:
        """Return why this gateway should get no traffic, or ""."""
        if self.draining:
            return "draining"
        return "" if self.generation.epoch else "no snapshot from a control plane yet"

    def apply(self, snapshot: pb.Snapshot) -> bool:
        """Serve from `snapshot`. False, and nothing is changed, if it is older than what is served from."""
        generation = Generation(snapshot.generation.epoch, snapshot.generation.number)
        if generation < self.generation:
            return False
        by_prefix: dict[str, Route] = {}
        by_name: dict[str, Route] = {}
        wanted: dict[tuple[str, str], Dispatcher] = {}
        for application in snapshot.applications:
            for deployment in application.deployments:
                key = (application.name, deployment.name)
                wanted[key] = self._dispatcher(key, application, deployment)
            ingress = next((d for d in application.deployments if d.name == application.ingress), None)
            if ingress is None:
                dispatcher = wanted[application.name, ""] = self._unbuilt(application)
                timeout_s = 0.0
            else:
                dispatcher, timeout_s = wanted[application.name, ingress.name], ingress.request_timeout_s
            timeout_s = timeout_s or snapshot.request_timeout_s or self.settings.request_timeout_s
            route = Route(application.name, application.route_prefix.rstrip("/"), dispatcher, timeout_s)
            by_name[application.name] = route
            if application.route_prefix:
                by_prefix[application.route_prefix] = route
        gone = {key: old for key, old in self._dispatchers.items() if wanted.get(key) is not old}
        self._routes, self._applications, self._dispatchers = RouteTable(by_prefix), by_name, wanted
        self.generation = generation
        SNAPSHOT_GENERATION.set(generation.number)
        for (application_name, _), dispatcher in gone.items():
            dispatcher.retire(f"application {application_name!r} no longer has this deployment")
            self.tasks.spawn(_bury(dispatcher), name="retired-deployment")
        return True

    def enter(self) -> None:
        """Count a request in. Raises Unavailable while draining. Pair with `leave`."""
        if self.draining:
            raise Unavailable("this gateway is shutting down", hint="send the request again")
        self._exchanges += 1

    def leave(self) -> None:
        """Count a request out."""
        self._exchanges -= 1
        if self._idle is not None and not self._exchanges:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None

    def look_later(self, exchange: Exchange) -> None:
        """Look at an exchange again in WATCH_AFTER_S: if it still runs, it is slow. One timer serves them all."""
        self._young.append(exchange)
        if len(self._young) == 1:
            asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._look)

    def _look(self) -> None:
        young, due = self._young, self.clock.monotonic() - WATCH_AFTER_S
        while young and young[0].started <= due:
            young.popleft().slow()
        if young:
            wait_s = max(0.001, young[0].started - due)
            asyncio.get_running_loop().call_later(wait_s, self._look)

    async def drain(self) -> None:
        """Refuse new requests and return when the last one is answered."""
        self.draining = True
        if self._exchanges:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    async def close(self) -> None:
        """End everything now."""
        self.draining = True
        for dispatcher in self._dispatchers.values():
            await dispatcher.close("this gateway is shutting down")
        await self.tasks.cancel()

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
        dispatcher = dispatcher or Dispatcher(*key, limits, self.clock)
        dispatcher.update(limits, ((e.replica_id, e.address) for e in deployment.endpoints))
        return dispatcher

    def _unbuilt(self, application: pb.RoutedApplication) -> Dispatcher:
        """Stand in for an application whose first build has not ended: requests wait, or learn why it failed."""
        limits = Limits(1, 100, application.failure)
        dispatcher = self._dispatchers.get((application.name, "")) or Dispatcher(
            application.name, "", limits, self.clock
        )
        dispatcher.update(limits, ())
        return dispatcher

    def _require_snapshot(self) -> None:
        if not self.generation.epoch:
            raise Unavailable("this gateway has not heard from a control plane yet", hint="try again in a moment")


async def _bury(dispatcher: Dispatcher) -> None:
    try:
        await dispatcher.drain()
    finally:
        await dispatcher.close("this gateway is shutting down")


class Exchange:
    """One call with its deadline and its watch for a client that leaves.

    Timer and watch start when the call is slow: a fast call costs no task and no wake-up beyond its answer.
    """

    __slots__ = (
        "_deadline",
        "_dispatcher",
        "_is_slow",
        "_limit",
        "_loop",
        "_over",
        "_pipeline",
        "_progress",
        "_timer",
        "_watch",
        "_watching",
        "call",
        "error",
        "started",
    )

    def __init__(self, pipeline: Pipeline, route: Route, call: Call, timeout_s: float) -> None:
        self.call = call
        self.error: MeshError | None = None
        """Why the call was given up."""
        self._limit: asyncio.Timeout | None = None
        self._is_slow = False
        self._pipeline = pipeline
        self._dispatcher = route.dispatcher
        self._loop = route.dispatcher.loop
        self._deadline = timeout_s
        self._watch: Callable[[], Awaitable[None]] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._progress = self.started = pipeline.clock.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        if timeout_s > WATCH_AFTER_S:
            pipeline.look_later(self)
        else:
            self._timer = self._loop.call_later(timeout_s, self._expire)

    def watch(self, watch: Callable[[], Awaitable[None]] | None) -> None:
        """Watch for the client's leave by awaiting `watch`, once the call is slow. A watch that began lasts."""
        self._watch = watch
        if self._is_slow:
            self._start_watch()

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self.started + self._deadline - self._pipeline.clock.monotonic())

    def give_up(self, error: MeshError) -> None:
        """End the call with `error`: whoever waits for it sees that, and the replica is told to stop."""
        self.error = self.error or error
        if not self.call.ended or not self.call.body.ended:
            self._dispatcher.cancel(self.call)
            self.call.fail(error)
        if self._limit is not None:  # the client may be what is waited for
            self._limit.reschedule(0.0)
            self._limit = None

    def streaming(self, limit: asyncio.Timeout) -> None:
        """The answer began: from now on only progress is bounded, not the whole. `limit` ends what waits for it."""
        self._limit = limit
        if self._timer is not None:
            self._timer.cancel()
        idle_s = self._pipeline.settings.stream_idle_timeout_s
        self._progress = self._pipeline.clock.monotonic()
        self._timer = self._loop.call_later(idle_s, self._idle)
        self._is_slow = True
        self._start_watch()

    def progressed(self) -> None:
        """A chunk of the answer was taken by the client."""
        self._progress = self._pipeline.clock.monotonic()

    def end(self) -> None:
        """Free the timers, and the call if it is not over."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        # A whole answer needs no cancel: what the handler does after it (a background task) may end.
        if not self.call.ended and not self.call.complete:
            self._dispatcher.cancel(self.call)

    def slow(self) -> None:
        """It was not over when the pipeline looked: from now on it has a timer and a watch of its own."""
        if self._over or self._is_slow:
            return
        self._is_slow = True
        self._start_watch()
        self._timer = self._loop.call_later(self.left_s(), self._expire)

    def _expire(self) -> None:
        self.give_up(DeadlineExceeded(f"the request took longer than {self._deadline:g} s"))

    def _idle(self) -> None:
        idle_s = self._pipeline.settings.stream_idle_timeout_s
        left = self._progress + idle_s - self._pipeline.clock.monotonic()
        if left <= 0:
            self.give_up(DeadlineExceeded(f"no progress for {idle_s:g} s"))
        else:
            self._timer = self._loop.call_later(left, self._idle)

    def _start_watch(self) -> None:
        if self._watch is not None and self._watching is None:
            self._watching = self._pipeline.tasks.spawn(self._watch_client(self._watch), name="client-watch")

    async def _watch_client(self, watch: Callable[[], Awaitable[None]]) -> None:
        await watch()
        self.give_up(ClientGone("the client went away"))
