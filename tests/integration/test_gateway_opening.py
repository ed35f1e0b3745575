"""A gateway that starts: whoever connects waits until it has been told what to serve, and not for ever."""

from __future__ import annotations

import asyncio
import dataclasses
import socket

import grpc
import grpc.aio
import httpx
import pytest

from mesh.clock import Clock
from mesh.gateway.server import Gateway
from mesh.settings import GatewaySettings
from mesh.v1 import ingress_service_pb2 as ingress
from mesh.v1.ingress_service_pb2_grpc import IngressServiceStub
from tests.support.gateways import Gateways, Routed, until

FAILED = "it is broken on purpose"
SETTINGS = GatewaySettings(port=0, grpc_port=0)


def broken(name: str) -> Routed:
    """An application that answers 503 at once, with a text of its own."""
    return Routed(name, f"/{name}", failure=FAILED, built=False)


async def test_requests_wait_for_the_applications_that_are_awaited() -> None:
    async with Gateways(opens_with=("one", "two"), open_timeout_s=60.0) as gateways, httpx.AsyncClient() as client:
        early = asyncio.ensure_future(client.get(f"{gateways.url}/two", timeout=20))
        async with grpc.aio.insecure_channel(gateways.gateway.grpc_address) as channel:
            call = IngressServiceStub(channel).Handle(ingress.HandleRequest(path="/two"), timeout=20)
            await gateways.snapshots.publish(broken("one"), gateways=1)
            assert not early.done() and not call.done()
            await gateways.snapshots.publish(broken("one"), broken("two"), gateways=1)
            answer = await early
            assert (answer.status_code, answer.json()["reason"]) == (503, "NO_REPLICA")
            assert FAILED in answer.text
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert FAILED in str(caught.value.details())


async def test_without_a_control_plane_it_opens_all_the_same() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        control = (f"127.0.0.1:{nobody.getsockname()[1]}",)
        gateway = Gateway(dataclasses.replace(SETTINGS, control=control, open_timeout_s=0.05), Clock())
        await gateway.start()
        try:
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://{gateway.http_address}/-/healthz", timeout=20)
            assert answer.status_code == 503 and "no snapshot" in answer.json()["status"]
        finally:
            await gateway.stop()


async def test_one_that_ends_before_it_opened_leaves_no_port() -> None:
    gateway = Gateway(dataclasses.replace(SETTINGS, control=("127.0.0.1:1",), open_timeout_s=60.0), Clock())
    await gateway.start()
    addresses = (gateway.http_address, gateway.grpc_address)
    assert all(map(listens, addresses))
    await gateway.drain()
    await gateway.stop()
    await until(lambda: not any(map(listens, addresses)), "both ports are free")


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
