"""Serves a bound application within the test's own event loop: no process, no import path, no control plane.

Owns one gateway, one replica for each deployment, and the snapshot that tells of them; all of them the real ones, over
loopback. What differs from a mesh that runs: one process, one replica each, and nothing watches or restarts them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from mesh import connection, lifecycle, wire
from mesh.clock import SYSTEM
from mesh.controlplane.publish import Endpoint, RoutedApplication, RoutedDeployment, Snapshot
from mesh.credentials import Credentials
from mesh.errors import DeadlineExceeded, HandleMisused, UserCodeError
from mesh.gateway.server import Gateway
from mesh.model import Generation, ReplicaSpec
from mesh.pipe.service import add_replica_service
from mesh.security import Security
from mesh.serving import current_request, handle
from mesh.serving.current_request import CurrentRequest, Place
from mesh.serving.deployment import Application
from mesh.serving.handle import DeploymentHandle, get_handle
from mesh.serving.options import resolve
from mesh.settings import LOOPBACK, GatewaySettings
from mesh.v1 import discovery_service_pb2 as pb
from mesh.v1.discovery_service_pb2_grpc import DiscoveryServiceServicer, add_DiscoveryServiceServicer_to_server
from mesh.v1.worker_service_pb2 import Welcome
from mesh.worker.handles import Handles
from mesh.worker.instance import instance_of
from mesh.worker.interface import interface_of
from mesh.worker.replica import SERVER_OPTIONS, Replica

READY_S = 10.0
END_S = 5.0
"""Seconds for what runs at the end of the block."""
STOP_S = 1.0
"""Seconds for the last answers to leave."""
SILENT_S = 3600.0
"""Nothing needs a sign of life from within its own process."""


@dataclass(frozen=True)
class InProcess:
    """An application that is served within this process. Made by `in_process`."""

    application: str
    http: str
    """URL of the HTTP listener, without a final slash."""
    grpc: str
    """host:port for gRPC."""
    instances: Mapping[str, Any]
    """The object that answers for each deployment, by its name: to look at, or to replace parts of."""

    def handle(self, deployment: str) -> DeploymentHandle:
        """Return a handle to one of its deployments, to `await` calls of in the same event loop."""
        return get_handle(self.application, deployment)


@contextlib.asynccontextmanager
async def in_process(
    application: Application, *, name: str = "default", route_prefix: str = "/"
) -> AsyncIterator[InProcess]:
    """Serve a bound application in this event loop until the block ends; one at a time.

    Constructors run here, so whatever the test put in their way is used. Options of the deployments are in force, but
    for `num_replicas`. Raises what constructors raised as UserCodeError, InvalidConfig for what cannot be bound so.
    """
    if handle.serving_calls():
        raise HandleMisused("an application is served within this process already", hint="leave its block first")
    credentials = Credentials(Security())
    async with contextlib.AsyncExitStack() as stack:
        told = _Told()
        server, address = await _listening(told, add_DiscoveryServiceServicer_to_server, credentials)
        stack.push_async_callback(server.stop, STOP_S)
        handles = Handles("in-process", (address,), credentials, SYSTEM)
        handles.install()
        stack.callback(handle.set_caller, None)
        served = _Deployments(application, name, credentials)
        stack.push_async_callback(served.stop)
        stack.push_async_callback(handles.close)
        stack.push_async_callback(served.end)
        await served.start()
        told.say(Snapshot(Generation(1, 1), (served.routed(route_prefix),)))
        gateway = Gateway(GatewaySettings(port=0, grpc_port=0, control=(address,), opens_with=(name,)), SYSTEM)
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        await _until_serving(gateway, name)
        http, grpc = f"http://{gateway.http_address}", gateway.grpc_address
        yield InProcess(name, http, grpc, {each: replica.target for each, replica in served.replicas.items()})


async def _until_serving(gateway: Gateway, name: str) -> None:
    try:
        async with asyncio.timeout(READY_S):
            while not gateway.serving(name):  # noqa: ASYNC110 it tells nobody
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise DeadlineExceeded(f"the application did not answer within {READY_S:g} s") from None


async def _listening(servicer: Any, add: Any, credentials: Credentials) -> tuple[Any, str]:
    """Serve by gRPC; return the server and host:port."""
    server = connection.server(credentials, SERVER_OPTIONS)
    add(servicer, server)
    port = connection.bind(server, f"{LOOPBACK}:0", credentials)
    await server.start()
    return server, f"{LOOPBACK}:{port}"


class _Deployments:
    """One replica for each deployment of an application."""

    def __init__(self, application: Application, name: str, credentials: Credentials) -> None:
        self._application = application
        self._name = name
        self._credentials = credentials
        self._bound = application.bound()
        self._addresses: dict[str, str] = {}
        self._servers: list[Any] = []
        self.replicas: dict[str, _Running] = {}

    async def start(self) -> None:
        """Construct and begin all, each in a context of its own."""
        tasks = lifecycle.Tasks()
        try:
            for each in self._bound:
                await tasks.spawn(self._start(each), name=f"start-{each}")
        finally:
            await tasks.cancel()

    async def _start(self, deployment: str) -> None:
        settings = resolve(self._bound[deployment].deployment.config, None)
        spec = ReplicaSpec(
            replica_id=f"{deployment}-1", application=self._name, deployment=deployment, settings=settings
        )
        place = Place(self._name, deployment, asyncio.get_running_loop())
        current_request.enter(CurrentRequest(place))
        try:
            instance = instance_of(self._application, spec)
            await instance.reconfigure(settings.user_config_json)
            replica = Replica(spec, instance, place)
            await replica.begin()
        except UserCodeError as error:
            error.add_note(error.traceback)
            raise
        self.replicas[deployment] = _Running(replica, instance.target)
        server, address = await _listening(replica, add_replica_service, self._credentials)
        self._servers.append(server)
        self._addresses[deployment] = address

    def routed(self, route_prefix: str) -> RoutedApplication:
        """Return what a control plane would tell of it."""
        ingress, *_ = self._bound
        return RoutedApplication(
            name=self._name,
            route_prefix=route_prefix,
            ingress=ingress,
            deployments=tuple(self._deployment(each) for each in self._bound),
        )

    def _deployment(self, name: str) -> RoutedDeployment:
        deployment = self._bound[name].deployment
        settings, interface = resolve(deployment.config, None), interface_of(deployment.target)
        return RoutedDeployment(
            name=name,
            max_ongoing_requests=settings.max_ongoing_requests,
            max_queued_requests=settings.max_queued_requests,
            request_timeout_s=settings.request_timeout_s,
            endpoints=(Endpoint(f"{name}-1", self._addresses[name]),),
            interface=interface,
            json=settings.json,
            internal=name != next(iter(self._bound)) and not interface.services,
        )

    async def end(self) -> None:
        """Let what runs end, for some seconds, and end the rest."""
        for running in self.replicas.values():
            async with lifecycle.deadline(END_S, "running requests"):
                await running.replica.callee.drain()
            async with lifecycle.deadline(END_S, "the application's shutdown"):
                await running.replica.end()
            await running.replica.close()

    async def stop(self) -> None:
        """Listen no more, once nobody calls."""
        for server in self._servers:
            await server.stop(STOP_S)


@dataclass(frozen=True)
class _Running:
    replica: Replica
    target: Any


class _Told(DiscoveryServiceServicer):
    """Tells the gateway and the handles of one snapshot."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._said = asyncio.Event()

    def say(self, snapshot: Snapshot) -> None:
        """Tell whoever asks of `snapshot`."""
        self._snapshot = snapshot
        self._said.set()

    async def StreamSnapshots(
        self, request_iterator: AsyncIterator[pb.StreamSnapshotsRequest], context: Any
    ) -> AsyncIterator[pb.StreamSnapshotsResponse]:
        """Tell one of them, and again when it asks for something else."""
        yield pb.StreamSnapshotsResponse(welcome=Welcome(heartbeat_interval_s=SILENT_S))
        told: list[str] | None = None
        async for request in request_iterator:
            await self._said.wait()
            if told == (told := list(request.applications)):
                continue  # it only says what it routes by
            message = wire.to_proto(self._snapshot, pb.Snapshot)
            message.asked.extend(told)
            yield pb.StreamSnapshotsResponse(snapshot=message)
