"""Real gateways in the test's own process, fed by a real `DiscoveryService` that sends what the test publishes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc

from mesh.clock import Clock
from mesh.gateway.server import Gateway
from mesh.pipe.dispatch import Dispatcher
from mesh.settings import GatewaySettings
from mesh.v1 import deployment_pb2
from mesh.v1 import discovery_service_pb2 as pb
from mesh.v1.discovery_service_pb2_grpc import DiscoveryServiceServicer, add_DiscoveryServiceServicer_to_server

WAIT_SECONDS = 20.0


@dataclass(frozen=True)
class Routed:
    """One application of a snapshot, with one deployment. `endpoints` are (replica id, address)."""

    name: str = "default"
    prefix: str = "/"
    deployment: str = "Handler"
    ongoing: int = 2
    queued: int = 2
    timeout_s: float = 0.0
    endpoints: tuple[tuple[str, str], ...] = ()
    failure: str = ""
    built: bool = True
    interface: deployment_pb2.Interface | None = None
    json: deployment_pb2.JsonOptions | None = None
    children: tuple[Routed, ...] = ()
    """Deployments of the same application that are called by handles only."""

    def message(self) -> pb.RoutedApplication:
        """Return it as the control plane would send it."""
        routed = pb.RoutedApplication(name=self.name, route_prefix=self.prefix, failure=self.failure)
        if self.built:
            routed.ingress = self.deployment
            deployment = routed.deployments.add(
                name=self.deployment,
                max_ongoing_requests=self.ongoing,
                max_queued_requests=self.queued,
                request_timeout_s=self.timeout_s,
            )
            for replica_id, address in self.endpoints:
                deployment.endpoints.add(replica_id=replica_id, address=address)
            if self.interface is not None:
                deployment.interface.CopyFrom(self.interface)
            if self.json is not None:
                deployment.json.CopyFrom(self.json)
            for child in self.children:
                (inner,) = child.message().deployments
                inner.internal = True
                routed.deployments.append(inner)
        return routed


def snapshot(number: int, applications: Iterable[Routed], *, epoch: int = 1) -> pb.Snapshot:
    """Return a snapshot of `applications`."""
    return pb.Snapshot(
        generation=deployment_pb2.Generation(epoch=epoch, number=number),
        applications=[application.message() for application in applications],
    )


class Snapshots(DiscoveryServiceServicer):
    """A control plane's `DiscoveryService`: sends the last published snapshot to each gateway, and to who calls."""

    def __init__(self) -> None:
        self.address = ""
        self.number = 0
        self.acknowledged: dict[str, int] = {}
        """Generation number that each gateway said it serves from."""
        self.callers: dict[str, int] = {}
        """The same of each replica that calls by handles."""
        self._last: pb.Snapshot | None = None
        self._news = asyncio.Condition()
        self._server: Any = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_DiscoveryServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        """Break all streams."""
        await self._server.stop(None)

    async def publish(self, *applications: Routed, gateways: int) -> None:
        """Send a new snapshot and wait until so many gateways serve from it."""
        self.number += 1
        number = self.number
        async with asyncio.timeout(WAIT_SECONDS), self._news:
            self._last = snapshot(number, applications)
            self._news.notify_all()
            await self._news.wait_for(lambda: sum(n >= number for n in self.acknowledged.values()) >= gateways)

    async def StreamSnapshots(
        self, request_iterator: AsyncIterator[pb.StreamSnapshotsRequest], context: Any
    ) -> AsyncIterator[pb.StreamSnapshotsResponse]:
        sent, asked = 0, list[str]()
        async for request in request_iterator:
            async with self._news:
                heard = self.acknowledged if request.gateway_id else self.callers
                heard[request.gateway_id or request.caller_id] = request.serving.number
                self._news.notify_all()
                while self._last is None or (self.number == sent and asked == list(request.applications)):
                    await self._news.wait()
                latest = pb.Snapshot()
                latest.CopyFrom(self._last)
                sent, asked = self.number, list(request.applications)
                latest.asked.extend(asked)
            yield pb.StreamSnapshotsResponse(snapshot=latest)


class Gateways:
    """Gateways under one `Snapshots`. Use as an async context manager."""

    def __init__(self, count: int = 1, **settings: Any) -> None:
        self.snapshots = Snapshots()
        self.gateways: list[Gateway] = []
        self._count = count
        self._settings = GatewaySettings(port=0, grpc_port=0, **settings)

    async def __aenter__(self) -> Self:
        await self.snapshots.start()
        settings = dataclasses.replace(self._settings, control=(self.snapshots.address,))
        for _ in range(self._count):
            gateway = Gateway(settings, Clock())
            await gateway.start()
            self.gateways.append(gateway)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for gateway in self.gateways:
            await gateway.stop()
        await self.snapshots.stop()

    @property
    def gateway(self) -> Gateway:
        """The first."""
        return self.gateways[0]

    @property
    def url(self) -> str:
        """URL of the first, without a final slash."""
        return f"http://{self.gateway.http_address}"

    @property
    def addresses(self) -> list[str]:
        """host:port of the HTTP listeners of all."""
        return [gateway.http_address for gateway in self.gateways]

    @property
    def urls(self) -> list[str]:
        """URLs of all."""
        return [f"http://{gateway.http_address}" for gateway in self.gateways]

    async def publish(self, *applications: Routed) -> None:
        """Put a snapshot in force on all gateways, and wait until their pipes to its replicas stand."""
        await self.snapshots.publish(*applications, gateways=self._count)
        for application in applications:
            for gateway in self.gateways:
                dispatcher = gateway.pipeline.application(application.name).dispatcher
                wanted = len(application.endpoints)
                await until(partial(_connected, dispatcher, wanted), f"{wanted} pipes stand: {dispatcher}")

    def dispatcher(self, application: str = "default", *, gateway: int = 0) -> Dispatcher:
        """Return the dispatcher of an application's ingress at one of the gateways."""
        return self.gateways[gateway].pipeline.application(application).dispatcher

    async def idle(self, application: str = "default") -> None:
        """Wait until no request of an application waits or runs at any gateway."""
        for i, _ in enumerate(self.gateways):
            dispatcher = self.dispatcher(application, gateway=i)
            await until(partial(_idle, dispatcher), f"nothing waits or runs: {dispatcher}")


def _connected(dispatcher: Dispatcher, wanted: int) -> bool:
    return dispatcher.ready_replicas == wanted


def _idle(dispatcher: Dispatcher) -> bool:
    return dispatcher.in_flight == 0 and dispatcher.queued == 0


async def until(condition: Callable[[], object], what: str, *, timeout_s: float = WAIT_SECONDS) -> None:
    """Wait for `condition` to be true; fail with `what` if it does not become so."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"did not come true within {timeout_s:g} s: {what}") from None


async def until_async(
    condition: Callable[[], Awaitable[object]], what: str, *, timeout_s: float = WAIT_SECONDS
) -> None:
    """Wait for an async `condition` to be true; fail with `what` if it does not become so."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"did not come true within {timeout_s:g} s: {what}") from None
