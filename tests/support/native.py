"""Native gRPC on the data path: replicas of `native_service` behind a gateway, and generated stubs to call them."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import httpx
from google.api import annotations_pb2
from grpc_tools import protoc  # type: ignore[import-untyped]

from mesh import wire
from mesh.model import DeploymentSettings
from mesh.v1 import deployment_pb2
from mesh.worker.interface import interface_of
from tests.support.data_path import DataPath
from tests.support.gateways import Gateways, Routed, until
from tests.support.replicas import ReplicaProcess

PROBE, SECOND = "native.v1.Probe", "native.v1.Second"
WAIT_S = 20.0
SERVICE = Path(__file__).with_name("native_service.py")
_PROTOS = Path(__file__).parents[1] / "protos"


@cache
def generated() -> Path:
    """Return the directory with the generated modules and `native_service`, which can be imported from now on."""
    directory = Path(tempfile.mkdtemp(prefix="mesh-native-"))
    includes = (_PROTOS, Path(str(resources.files("grpc_tools"))) / "_proto", Path(annotations_pb2.__file__).parents[2])
    words = (*(f"-I{include}" for include in includes), f"--python_out={directory}", f"--grpc_python_out={directory}")
    assert protoc.main(["protoc", *words, str(_PROTOS / "native/v1/native.proto")]) == 0, "protoc failed"
    shutil.copy(SERVICE, directory)
    sys.path.insert(0, str(directory))  # for good: a process has one descriptor pool
    return directory


def module(name: str) -> Any:
    """Return "native_pb2", "native_pb2_grpc" or "native_service"."""
    generated()
    return importlib.import_module(name if name == "native_service" else f"native.v1.{name}")


def ask(**fields: Any) -> Any:
    """Return a request message."""
    return module("native_pb2").Ask(**fields)


def interface(application: str) -> deployment_pb2.Interface:
    """Return what the deployment of an application of `native_service` answers to, as a build says it."""
    target = getattr(module("native_service"), application).deployment.target
    return wire.to_proto(interface_of(target), deployment_pb2.Interface)


class NativePath(DataPath):
    """A `DataPath` of servicers. `channel` and `stub` lead to the first gateway."""

    channel: grpc.aio.Channel
    stub: Any

    async def replica_of(self, application: str, *, ongoing: int = 2, **settings: Any) -> ReplicaProcess:
        """Start a replica of an application in `native_service`."""
        replica = ReplicaProcess(
            self.directory,
            f"native_service:{application}",
            deployment="Handler",
            settings=DeploymentSettings(max_ongoing_requests=ongoing, **settings),
        )
        self.replicas.append(await self._stack.enter_async_context(replica))
        return replica

    async def serve(self, application: str, *, ongoing: int = 2, queued: int = 2, **routed: Any) -> ReplicaProcess:
        """Start one replica and route to it."""
        replica = await self.replica_of(application, ongoing=ongoing)
        await self.gateways.publish(self.routed(application, replica, ongoing=ongoing, queued=queued, **routed))
        return replica

    def routed(self, application: str, *replicas: ReplicaProcess, **fields: Any) -> Routed:
        """Return what a snapshot says of replicas of an application in `native_service`."""
        endpoints = tuple((replica.replica_id, replica.address) for replica in replicas)
        return Routed(**{"endpoints": endpoints, "interface": interface(application), **fields})

    def connect(self, *options: tuple[str, Any]) -> grpc.aio.Channel:
        """Return a channel of its own to the first gateway."""
        own = ("grpc.use_local_subchannel_pool", 1)
        return grpc.aio.insecure_channel(self.gateways.gateway.grpc_address, options=(own, *options))


def stub_of(channel: grpc.aio.Channel, service: str = "Probe") -> Any:
    """Return a generated stub."""
    return getattr(module("native_pb2_grpc"), f"{service}Stub")(channel)


@contextlib.asynccontextmanager
async def native_path(directory: Path, *, gateways: int = 1, **settings: Any) -> AsyncIterator[NativePath]:
    """Make a `NativePath`, with nothing running yet but the gateways."""
    shutil.copytree(generated(), directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with Gateways(gateways, **settings) as running, httpx.AsyncClient(timeout=30, limits=limits) as client:
        path = NativePath(directory, running, client)
        async with path.connect() as channel:
            path.channel, path.stub = channel, stub_of(channel)
            try:
                yield path
            finally:
                await path.close()


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """Await a call that must fail and return its error."""
    try:
        answered = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"the call was answered: {answered!r}"[:500])


def trailers(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Return the trailing metadata of an error."""
    return {str(name): value for name, value in error.trailing_metadata()}


class Beside:
    """A stream that is open beside what a test does, on the same connection and pipe, and must stay alive."""

    def __init__(self, stub: Any) -> None:
        self._call = stub.Chat()
        self._count = 0

    async def __aenter__(self) -> Beside:
        await self.alive()
        return self

    async def alive(self) -> None:
        """Send a message and get its answer."""
        self._count += 1
        await self._call.write(ask(id=f"beside {self._count}"))
        answered = await self._call.read()
        assert answered is not grpc.aio.EOF, f"the stream beside ended: {await self._call.code()}"
        assert answered.text == f"beside {self._count}"

    async def __aexit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            await self.alive()
            await self._call.done_writing()
            assert await self._call.read() is grpc.aio.EOF
            assert await self._call.code() is grpc.StatusCode.OK
        else:
            self._call.cancel()


async def until_done(calls: list[Any], count: int) -> None:
    """Wait until so many of the calls have ended."""
    await until(partial(_ended, calls, count), f"{count} of {len(calls)} calls have ended")


def _ended(calls: list[Any], count: int) -> bool:
    return sum(bool(call.done()) for call in calls) == count
