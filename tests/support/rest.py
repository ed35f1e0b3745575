"""REST on the data path: replicas of `rest_service` behind a gateway."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
from google.api import annotations_pb2
from grpc_tools import protoc  # type: ignore[import-untyped]

from mesh import wire
from mesh.model import DeploymentSettings
from mesh.v1 import deployment_pb2
from mesh.worker.interface import interface_of
from tests.support.data_path import DataPath
from tests.support.gateways import Gateways, Routed
from tests.support.replicas import ReplicaProcess

SERVICE = Path(__file__).with_name("rest_service.py")
BARE, DO, MANY = "/rest.v1.Rest/Bare", "/rest.v1.Rest/Do", "/rest.v1.Rest/Many"
LINES = {"content-type": "application/x-ndjson"}
_PROTOS = Path(__file__).parents[1] / "protos"


@cache
def generated() -> Path:
    """Return the directory with the generated modules and `rest_service`, which can be imported from now on."""
    directory = Path(tempfile.mkdtemp(prefix="mesh-rest-"))
    includes = (_PROTOS, Path(str(resources.files("grpc_tools"))) / "_proto", Path(annotations_pb2.__file__).parents[2])
    words = (*(f"-I{include}" for include in includes), f"--python_out={directory}", f"--grpc_python_out={directory}")
    assert protoc.main(["protoc", *words, str(_PROTOS / "rest/v1/rest.proto")]) == 0, "protoc failed"
    shutil.copy(SERVICE, directory)
    sys.path.insert(0, str(directory))  # for good: a process has one descriptor pool
    return directory


def messages() -> Any:
    """Return the module of the messages."""
    generated()
    return importlib.import_module("rest.v1.rest_pb2")


@cache
def interface(application: str) -> deployment_pb2.Interface:
    """Return what the deployment of an application of `rest_service` answers to, as a build says it."""
    generated()
    target = getattr(importlib.import_module("rest_service"), application).deployment.target
    return wire.to_proto(interface_of(target), deployment_pb2.Interface)


class RestPath(DataPath):
    """A `DataPath` of servicers."""

    async def serve(
        self, application: str = "app", *, ongoing: int = 20, queued: int = 20, **routed: Any
    ) -> ReplicaProcess:
        """Start one replica of an application in `rest_service` and route to it."""
        replica = await self.another(application, ongoing=ongoing)
        await self.route(replica, application, ongoing=ongoing, queued=queued, **routed)
        return replica

    async def another(self, application: str = "app", *, ongoing: int = 20) -> ReplicaProcess:
        """Start one replica."""
        settings = DeploymentSettings(max_ongoing_requests=ongoing)
        replica = ReplicaProcess(self.directory, f"rest_service:{application}", deployment="Handler", settings=settings)
        self.replicas.append(await self._stack.enter_async_context(replica))
        return replica

    async def route(self, replica: ReplicaProcess, application: str = "app", **routed: Any) -> None:
        """Route to a replica."""
        endpoints = ((replica.replica_id, replica.address),)
        await self.gateways.publish(Routed(endpoints=endpoints, interface=interface(application), **routed))

    async def do(self, what: str = "", *, headers: Mapping[str, str] | None = None, **ask: Any) -> httpx.Response:
        """Call `Do` by its rule with a body."""
        return await self.post("/v1/do", json={"what": what, **ask}, headers=headers)

    async def connect(self, what: str = "", *, headers: Mapping[str, str] | None = None, **ask: Any) -> httpx.Response:
        """Call `Bare` in Connect's form, in JSON."""
        fields = {"connect-protocol-version": "1", **(headers or {})}
        return await self.post(BARE, json={"what": what, **ask}, headers=fields)


@contextlib.asynccontextmanager
async def rest_path(directory: Path, **settings: Any) -> AsyncIterator[RestPath]:
    """Make a `RestPath`, with nothing running yet but the gateway."""
    shutil.copytree(generated(), directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with Gateways(**settings) as running, httpx.AsyncClient(timeout=30, limits=limits) as client:
        path = RestPath(directory, running, client)
        try:
            yield path
        finally:
            await path.close()


def items(body: bytes) -> list[Any]:
    """Return the values in lines of JSON."""
    assert body.endswith(b"\n") or not body
    return [json.loads(line) for line in body.splitlines()]


def told(answer: httpx.Response, status: int, code: str, detail: str | None = None) -> dict[str, Any]:
    """Return the problem document of an answer, which must be of this status, code and text."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert detail is None or problem["detail"] == detail
    return problem
