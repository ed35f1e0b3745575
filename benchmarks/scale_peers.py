"""What a gateway is between, in one process: a control plane that sends one snapshot, and replicas that run nothing.

Pipes are real; behind each port is one `Callee`, whose calls are answered at once, after a while, never, or fail at
once. Told "counts" on stdin it says what each port has served since the last time, and how many messages and frames
came and went. Started by `benchmarks.scale_out`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from benchmarks.forked import allow_many_files
from mesh.lifecycle import loop_factory, tune_memory
from mesh.pipe.callee import Callee
from mesh.pipe.served_call import ServedCall
from mesh.pipe.service import add_replica_service
from mesh.v1 import deployment_pb2, worker_service_pb2
from mesh.v1 import discovery_service_pb2 as pb
from mesh.v1.discovery_service_pb2_grpc import DiscoveryServiceServicer, add_DiscoveryServiceServicer_to_server
from mesh.v1.replica_service_pb2_grpc import ReplicaServiceServicer

LIMIT = 5000
TAKES_S = {"slow": (0.01, 0.03), "steady": (0.02, 0.02)}
"""What calls take, at least and at most. Where all take the same, those that begin together end together."""
JSON = [b"content-type", b"application/json"]


class Counted:
    """The context of one pipe, which counts."""

    def __init__(self, context: Any, passed: Counter[str]) -> None:
        self._context, self._passed = context, passed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """Return the next message."""
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._passed["messages_in"] += 1
            self._passed["frames_in"] += len(message)
        return message

    async def write(self, frames: Any) -> None:
        """Send a message."""
        self._passed["messages_out"] += 1
        self._passed["frames_out"] += len(frames)
        await self._context.write(frames)


class Port(ReplicaServiceServicer):
    """The replicas at one port, which do the same."""

    def __init__(self, kind: str) -> None:
        self.served = 0
        self.passed: Counter[str] = Counter()
        """Messages that went over its pipes, and the frames in them."""
        self.callee = Callee(LIMIT, self._serve)
        self._kind = kind
        self._loop = asyncio.get_running_loop()

    async def Pipe(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        """Serve one pipe."""
        await self.callee.serve_pipe(Counted(context, self.passed))

    async def CheckHealth(self, request: Any, context: Any) -> Any:
        """Not asked by gateways."""
        raise NotImplementedError

    async def Configure(self, request: Any, context: Any) -> Any:
        """Not asked by gateways."""
        raise NotImplementedError

    def _serve(self, call: ServedCall) -> Callable[[], object]:
        self.served += 1
        if self._kind == "hold":
            return call.done
        if takes_s := TAKES_S.get(self._kind):
            return self._later(call, random.uniform(*takes_s))
        self._loop.call_soon(self._fail if self._kind == "fail" else _answer, call)
        return _nothing

    def _later(self, call: ServedCall, seconds: float) -> Callable[[], object]:
        timer = self._loop.call_later(seconds, _answer, call)

        def cancel() -> None:
            timer.cancel()
            call.done()

        return cancel

    def _fail(self, call: ServedCall) -> None:
        call.fail("it fails")


class Control(DiscoveryServiceServicer):
    """Sends one snapshot to whoever asks, then says nothing."""

    def __init__(self, snapshot: pb.Snapshot) -> None:
        self._snapshot = snapshot

    async def StreamSnapshots(
        self, request_iterator: AsyncIterator[pb.StreamSnapshotsRequest], context: Any
    ) -> AsyncIterator[pb.StreamSnapshotsResponse]:
        """Serve one gateway; heartbeats each second tell that the leader lives."""
        await anext(aiter(request_iterator))
        yield pb.StreamSnapshotsResponse(welcome=worker_service_pb2.Welcome(heartbeat_interval_s=1.0))
        yield pb.StreamSnapshotsResponse(snapshot=self._snapshot)
        while True:
            await asyncio.sleep(1.0)
            yield pb.StreamSnapshotsResponse(heartbeat=worker_service_pb2.Heartbeat())


def table(applications: int, replicas: int, address: str) -> pb.Snapshot:
    """Return a snapshot of so many applications with so many replicas, all at one address."""
    snapshot = pb.Snapshot(generation=deployment_pb2.Generation(epoch=1, number=1))
    for number in range(applications):
        add(snapshot, f"app-{number:03d}", [address] * replicas)
    return snapshot


def add(snapshot: pb.Snapshot, name: str, addresses: list[str]) -> None:
    """Add an application with a replica at each address."""
    routed = snapshot.applications.add(name=name, route_prefix=f"/{name}", ingress="Served")
    deployment = routed.deployments.add(name="Served", max_ongoing_requests=LIMIT, max_queued_requests=LIMIT)
    for number, address in enumerate(addresses):
        deployment.endpoints.add(replica_id=f"{name}-{number}", address=address)


def _answer(call: ServedCall) -> None:
    call.answer(200, [*JSON, b"content-length", b"11"], b'{"ok":true}')


def _nothing() -> None:
    return


async def listen(servicer: Port | Control) -> tuple[Any, str]:
    """Serve at a free port. Returns the server and its address."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    if isinstance(servicer, Port):
        add_replica_service(servicer, server)
    else:
        add_DiscoveryServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    return server, address


async def serve(applications: int, replicas: int) -> None:
    """Serve until stdin ends."""
    kinds = ("noop", "hold", *["slow"] * 7, "fail", "noop", "noop", *["steady"] * 4)
    ports = [Port(kind) for kind in kinds]
    places = [await listen(port) for port in ports]
    addresses = [address for _, address in places]
    snapshot = table(applications, replicas, addresses[0])
    add(snapshot, "hold", addresses[1:2])
    add(snapshot, "one", addresses[:1])
    add(snapshot, "equal", addresses[2:6])
    add(snapshot, "failing", addresses[6:10])
    add(snapshot, "two", addresses[10:12])
    add(snapshot, "steady", addresses[12:])
    control, address = await listen(Control(snapshot))
    say({"control": address, "replicas": addresses[0]})
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        passed: Counter[str] = Counter()
        for port in ports:
            passed.update(port.passed)
        parts = {"equal": ports[2:6], "failing": ports[6:10], "steady": ports[12:]}
        say({**{name: [port.served for port in part] for name, part in parts.items()}, "passed": passed})
        for port in ports:
            port.served = 0
            port.passed.clear()
    for server in (control, *(server for server, _ in places)):
        await server.stop(None)


def say(answer: dict[str, Any]) -> None:
    """Tell the benchmark."""
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Be the peers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--applications", type=int, required=True)
    parser.add_argument("--replicas", type=int, required=True)
    arguments = parser.parse_args()
    allow_many_files()
    tune_memory()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(arguments.applications, arguments.replicas))


if __name__ == "__main__":
    main()
