"""The OpenAPI document is made once for as long as the routes stay as they are."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from mesh import wire
from mesh.clock import Clock
from mesh.gateway.openapi_page import OpenApiPage
from mesh.gateway.pipeline import Pipeline
from mesh.settings import GatewaySettings
from mesh.v1 import deployment_pb2
from mesh.v1 import discovery_service_pb2 as pb
from mesh.worker.interface import interface_of
from tests.support.library_example import Library


def apply(pipeline: Pipeline, number: int, *applications: str) -> None:
    """Route to applications: those with a name in capitals have a plain HTTP handler, others are libraries."""
    target: Any = Library
    interface = wire.to_proto(interface_of(target.target), deployment_pb2.Interface)
    snapshot = pb.Snapshot(generation=deployment_pb2.Generation(epoch=1, number=number))
    for name in applications:
        routed = snapshot.applications.add(name=name, route_prefix=f"/{name}", ingress="Library")
        deployment = routed.deployments.add(name="Library", max_ongoing_requests=1)
        if not name.isupper():
            deployment.interface.CopyFrom(interface)
    assert pipeline.apply(snapshot)


async def test_it_is_made_anew_only_when_routes_changed() -> None:
    pipeline = Pipeline(GatewaySettings(), Clock())
    page = OpenApiPage(pipeline)
    try:
        apply(pipeline, 1, "a")
        first = await page.body()
        assert all(each is first for each in await asyncio.gather(page.body(), page.body()))
        apply(pipeline, 2, "a", "PLAIN")
        assert await page.body() is first
        apply(pipeline, 3, "a", "b")
        second = await page.body()
        assert {path.split("/")[1] for path in json.loads(second)["paths"]} == {"a", "b"}
        apply(pipeline, 4, "a")
        assert await page.body() == first
        apply(pipeline, 5)
        assert json.loads(await page.body())["paths"] == {}
    finally:
        await pipeline.close()
