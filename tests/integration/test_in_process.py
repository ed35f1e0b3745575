"""Applications served within the test's own event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import httpx
import pytest
from starlette.requests import Request

import mesh
from mesh import testing
from mesh.errors import HandleMisused, InvalidConfig, RemoteError, UserCodeError
from tests.support.library_example import Library, library_pb2, library_pb2_grpc


@mesh.deployment
class Till:
    def __init__(self, currency: str) -> None:
        self.currency = currency

    def price(self, count: int) -> str:
        return f"{5 * count} {self.currency}"

    def broken(self) -> None:
        raise ValueError("no")


@mesh.deployment
class Shop:
    def __init__(self, till: Any) -> None:
        self.till = till

    async def __call__(self, request: Request) -> str:
        price: str = await self.till.price.remote(int(request.query_params["count"]))
        return price


async def test_deployments_call_each_other_and_their_objects_are_at_hand() -> None:
    before = asyncio.all_tasks()
    for currency in ("EUR", "USD"):
        bound = Shop.bind(Till.bind(currency))
        async with testing.in_process(bound) as served, httpx.AsyncClient(base_url=served.http) as client:
            assert (await client.get("/?count=2")).text == f"10 {currency}"
            served.instances["Till"].currency = "CHF"
            assert (await client.get("/?count=3")).text == "15 CHF"
            assert await served.handle("Till").price.remote(4) == "20 CHF"
            with pytest.raises(RemoteError, match="ValueError: no"):
                await served.handle("Till").broken.remote()
    assert not {task for task in asyncio.all_tasks() - before if not task.done()}
    with pytest.raises(HandleMisused):
        mesh.get_handle("default", "Till")


async def test_limits_hold() -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    @mesh.deployment(max_ongoing_requests=1, max_queued_requests=0)
    async def one(request: Request) -> str:
        entered.set()
        await go.wait()
        return "done"

    application = one.bind()
    served = testing.in_process(application, route_prefix="/one")
    async with served as at, httpx.AsyncClient(base_url=at.http) as client:
        first = asyncio.ensure_future(client.get("/one"))
        await entered.wait()
        assert (await client.get("/one")).status_code == 503
        go.set()
        assert (await first).text == "done"
        assert (await client.get("/")).status_code == 404


async def test_services_are_served() -> None:
    application = Library.bind()
    async with testing.in_process(application) as served, grpc.aio.insecure_channel(served.grpc) as channel:
        stub = library_pb2_grpc.LibraryServiceStub(channel)
        request = library_pb2.CreateShelfRequest(shelf_id="a", shelf=library_pb2.Shelf(title="A"))
        assert (await stub.CreateShelf(request)).name == "shelves/a"
        async with httpx.AsyncClient(base_url=served.http) as client:
            assert (await client.get("/v1/shelves/a")).json() == {"name": "shelves/a", "title": "A"}


@mesh.deployment
class Broken:
    def __init__(self) -> None:
        raise ValueError("no wheels")

    def __call__(self) -> None: ...


async def test_what_cannot_be_served_is_told() -> None:
    with pytest.raises(UserCodeError, match="ValueError: no wheels") as raised:
        async with testing.in_process(Shop.bind(Broken.bind())):
            pytest.fail("it is served")
    assert "in __init__" in "".join(raised.value.__notes__)
    with pytest.raises(InvalidConfig, match="not bound"):
        async with testing.in_process(Shop.bind(Till)):
            pytest.fail("it is served")
    # Nothing of these stayed in the way.
    async with testing.in_process(Shop.bind(Till.bind("EUR"))):
        with pytest.raises(HandleMisused, match="already"):
            async with testing.in_process(Till.bind("EUR")):
                pytest.fail("it is served")
