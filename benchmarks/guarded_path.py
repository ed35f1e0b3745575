"""A request's whole way in one process and one thread of a loop: what an ASGI server would call, up to user code.

The gateway's fronts, pipeline, dispatcher and links, the replica's callee, slots and handlers are the real ones; in
memory are the HTTP server, gRPC's server and the stream between gateway and replica (`memory_pipes`). So what is left
is mesh's own, and the same each time. Used by `guard`, which times it and counts what it does.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from starlette.requests import Request

import mesh
from benchmarks import greeter
from benchmarks.memory_pipes import Pipes
from mesh import wire
from mesh.clock import SYSTEM
from mesh.controlplane.publish import Endpoint, RoutedApplication, RoutedDeployment, Snapshot
from mesh.credentials import Credentials
from mesh.gateway.grpc_services import Services
from mesh.gateway.http_front import HttpFront
from mesh.gateway.pipeline import Pipeline
from mesh.model import Generation, ReplicaSpec
from mesh.security import NO_SECURITY
from mesh.serving import current_request
from mesh.serving.current_request import CurrentRequest, Place
from mesh.serving.deployment import Application
from mesh.serving.handle import get_handle, set_caller
from mesh.serving.options import resolve
from mesh.settings import GatewaySettings
from mesh.v1 import discovery_service_pb2
from mesh.worker.handles import Handles
from mesh.worker.instance import instance_of
from mesh.worker.interface import interface_of
from mesh.worker.replica import Replica

Ask = Callable[[], Awaitable[None]]
HEADERS = (
    (b"host", b"api.example.com"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64)"),
    (b"accept", b"application/json"),
    (b"x-request-id", b"5f2b1c3e9a7d4e0f8b6a1c2d3e4f5a6b"),
)
BODY = b'{"name": "' + b"x" * 1000 + b'"}'
HELLO = b'{"name": "world", "times": 3, "formal": true}'


def _at_once() -> None:
    return


@dataclass
class InThread:
    """What sync user code waits for: nothing, or what makes each request take the same course."""

    may_go_on: Callable[[], object] = _at_once


in_thread = InThread()


@mesh.deployment(max_ongoing_requests=1000, max_queued_requests=1000)
class Async:
    async def __call__(self, request: Request) -> dict[str, bool]:
        return {"ok": True}

    async def work(self, number: int) -> int:
        return number + 1


@mesh.deployment(max_ongoing_requests=1, max_queued_requests=0)
class Sync:
    def __call__(self, request: Request) -> dict[str, bool]:
        in_thread.may_go_on()
        return {"ok": True}


@mesh.deployment(max_ongoing_requests=1000, max_queued_requests=1000)
class Body:
    async def __call__(self, request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}


@mesh.deployment(max_ongoing_requests=1, max_queued_requests=0)
class Full:
    """Always busy with one request: everything else is shed."""

    async def __call__(self, request: Request) -> str:
        await asyncio.get_running_loop().create_future()
        return ""


@functools.cache
def greeter_directory() -> Path:
    """Generate the servicer of the gRPC benchmarks, once in a process."""
    place = Path(tempfile.mkdtemp(prefix="mesh-guard-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return greeter.generate(place)


class Call:
    """What grpc.aio gives a method besides its request."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", "grpc-python/1.85"), ("x-request-id", "5f2b1c3e9a7d4e0f8b6a1c2d3e4f5a6b"))

    def time_remaining(self) -> float:
        return 10.0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:50000"

    def set_trailing_metadata(self, metadata: Any) -> None:
        pass


class GuardedPath:
    """What is served, and requests of each kind, of which each answers when it is over."""

    def __init__(self, *, more_applications: int = 0, replicas: int = 1) -> None:
        """`more_applications` are in the route table too; of them, and of GET's, there are so many `replicas` each."""
        self.pipes = Pipes()
        self._more, self._replicas_each = more_applications, replicas
        self._pipeline = Pipeline(GatewaySettings(), SYSTEM)
        self._front = HttpFront(self._pipeline)
        self._services = Services(self._pipeline)
        self._replicas: list[Replica] = []
        self._handles = Handles("guard", (), Credentials(NO_SECURITY), SYSTEM)
        self._held: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Serve all, and be connected."""
        directory = str(greeter_directory())
        if directory not in sys.path:
            sys.path.insert(0, directory)
        bound: dict[str, Any] = {"async": Async, "sync": Sync, "body": Body, "full": Full}
        applications = {name: deployment.bind() for name, deployment in bound.items()}
        applications["greeter"] = import_module("greeter_service").app
        routed = [await self._serve(name, each) for name, each in applications.items()]
        routed[0] = self._wide("async", routed[0])
        routed += [self._wide(f"app-{number:03d}", routed[0]) for number in range(self._more)]
        snapshot = wire.to_proto(Snapshot(Generation(1, 1), tuple(routed)), discovery_service_pb2.Snapshot)
        self._handles.install()
        with self.pipes.in_place_of_grpc():
            self._pipeline.apply(snapshot)
            self._handles.want("async", "Async")
            snapshot.asked.append("async")
            self._handles.apply(snapshot)
            for each in routed:
                pipes = len(each.deployments[0].endpoints)
                while self._pipeline.application(each.name).dispatcher.ready_replicas < pipes:
                    await asyncio.sleep(0.001)
            await self.handle()
        self._held = asyncio.create_task(self._ask(b"/full", 200))
        await asyncio.sleep(0.01)

    async def close(self) -> None:
        """End all."""
        if self._held is not None:
            self._held.cancel()
        set_caller(None)
        await self._handles.close()
        await self._pipeline.close()
        await self.pipes.close()
        for replica in self._replicas:
            await replica.close()

    def kinds(self) -> dict[str, Ask]:
        """Return a request of each kind, by the name that findings have."""
        method = f"/{greeter.NAME}/SayHello"
        unary = self._services.service(_Details(method)).unary_unary
        hello = import_module("greeter_pb2").HelloRequest(name="world", times=3, formal=True).SerializeToString()

        async def call() -> None:
            if not (await unary(hello, Call())):
                raise AssertionError("an empty reply")

        return {
            "GET, async handler": lambda: self._ask(b"/async", 200),
            "GET, sync handler": lambda: self._ask(b"/sync", 200),
            "POST of 1 KB": lambda: self._ask(b"/body", 200, BODY),
            "shed": lambda: self._ask(b"/full", 503),
            "gRPC unary call": call,
            "REST to a gRPC method": lambda: self._ask(b"/greeter" + method.encode(), 200, HELLO),
            "call by handle": self.handle,
        }

    def _wide(self, name: str, like: RoutedApplication) -> RoutedApplication:
        """Return another application, or the same, with as many replicas as there are to be; all are one process."""
        (deployment,) = like.deployments
        endpoints = tuple(Endpoint(f"{name}-{n}", deployment.endpoints[0].address) for n in range(self._replicas_each))
        deployments = (replace(deployment, endpoints=endpoints),)
        return replace(like, name=name, route_prefix=f"/{name}", deployments=deployments)

    async def handle(self) -> None:
        """Call a method by its handle."""
        if await get_handle("async", "Async").work.remote(1) != 2:
            raise AssertionError("a wrong answer")

    async def _serve(self, name: str, application: Application) -> RoutedApplication:
        (deployment,) = application.bound()
        target = application.bound()[deployment].deployment
        settings, interface = resolve(target.config, None), interface_of(target.target)
        spec = ReplicaSpec(replica_id=f"{name}-1", application=name, deployment=deployment, settings=settings)
        place = Place(name, deployment, self._loop)
        current_request.enter(CurrentRequest(place))
        replica = Replica(spec, instance_of(application, spec), place)
        await replica.begin()
        self._replicas.append(replica)
        self.pipes.replicas[name] = replica
        routed = RoutedDeployment(
            name=deployment,
            max_ongoing_requests=settings.max_ongoing_requests,
            max_queued_requests=settings.max_queued_requests,
            request_timeout_s=30.0,
            endpoints=(Endpoint(f"{name}-1", name),),
            interface=interface,
            json=settings.json,
        )
        return RoutedApplication(name, f"/{name}", deployment, "", (routed,))

    async def _ask(self, path: bytes, wanted: int, body: bytes = b"") -> None:
        """Be an ASGI server with one request."""
        headers: tuple[tuple[bytes, bytes], ...] = HEADERS
        if body:
            length = (b"content-length", b"%d" % len(body))
            headers = (*HEADERS, (b"content-type", b"application/json"), length)
        scope = {
            "type": "http",
            "http_version": "1.1",
            "scheme": "http",
            "method": "POST" if body else "GET",
            "path": path.decode(),
            "raw_path": path,
            "query_string": b"",
            "root_path": "",
            "headers": list(headers),
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        }
        bodies = [body]
        status = 0

        async def receive() -> dict[str, Any]:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await self._loop.create_future()  # the client stays
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        await self._front(scope, receive, send)
        if status != wanted:
            raise AssertionError(f"{path.decode()} answered {status}")


class _Details:
    """What grpc.aio asks for a method with."""

    def __init__(self, method: str) -> None:
        self.method = method
