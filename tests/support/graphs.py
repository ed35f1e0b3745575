"""A graph of deployments of `graph_code` and its like on the data path: a real replica of each, behind a gateway.

Tests of what parents and children do together build on this; more kinds of parents go into `graph_code`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from mesh import wire
from mesh.serving.options import resolve
from mesh.v1 import deployment_pb2
from mesh.worker.interface import interface_of
from tests.support import native
from tests.support.data_path import DataPath
from tests.support.gateways import Gateways, Routed
from tests.support.replicas import ReplicaProcess

MODULES = ("graph_code", "graph_asgi", "graph_values")


def code(module: str) -> Any:
    """Return a module of deployments."""
    directory = native.generated()
    for each in MODULES:
        shutil.copy(Path(__file__).with_name(f"{each}.py"), directory)
    return importlib.import_module(module)


class Graph(DataPath):
    """A `DataPath` of several deployments, each with one replica."""

    by_name: dict[str, ReplicaProcess]

    async def graph(self, application: str, module: str = "graph_code", **routed: Any) -> None:
        """Start a replica of each deployment of an application in one of `MODULES`, and route to its ingress."""
        bound = getattr(code(module), application).bound()
        settings = {name: resolve(each.deployment.config, None) for name, each in bound.items()}
        control = (self.gateways.snapshots.address,)
        replicas = {
            name: ReplicaProcess(
                self.directory, f"{module}:{application}", deployment=name, settings=settings[name], control=control
            )
            for name in bound
        }
        await asyncio.gather(*(self._stack.enter_async_context(replica) for replica in replicas.values()))
        self.replicas += replicas.values()
        self.by_name = replicas
        parts = [
            Routed(
                deployment=name,
                ongoing=settings[name].max_ongoing_requests,
                queued=settings[name].max_queued_requests,
                endpoints=((replica.replica_id, replica.address),),
                interface=wire.to_proto(interface_of(bound[name].deployment.target), deployment_pb2.Interface),
                **(routed if i == 0 else {}),
            )
            for i, (name, replica) in enumerate(replicas.items())
        ]
        ingress = Routed(**{**vars(parts[0]), "children": tuple(parts[1:])})
        await self.gateways.publish(ingress)


@contextlib.asynccontextmanager
async def graphs(directory: Path, **settings: Any) -> AsyncIterator[Graph]:
    """Make a `Graph`, with nothing running yet but a gateway."""
    code(MODULES[0])
    shutil.copytree(native.generated(), directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with Gateways(1, **settings) as running, httpx.AsyncClient(timeout=30, limits=limits) as client:
        graph = Graph(directory, running, client)
        try:
            yield graph
        finally:
            await graph.close()
