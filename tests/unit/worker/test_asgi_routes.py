"""Routes that are methods: found wherever they are, made anew as they were, and called on the instance."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from mesh.errors import UserCodeError
from mesh.worker.asgi_routes import bind_methods


class Item(BaseModel):
    name: str


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


def asked(application: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://test")


async def test_fastapi_routes_of_every_kind() -> None:
    api, router = FastAPI(), APIRouter(prefix="/inner", tags=["inner"])

    @api.get("/before")
    async def before() -> str:
        return "a function"

    class Base:
        def __init__(self, number: int) -> None:
            self.number = number

        @api.get("/inherited", summary="Said so", tags=["base"], status_code=202)
        def inherited(self, factor: int = 2) -> dict[str, int]:
            """Multiply."""
            return {"result": self.number * factor}

    class Web(Base):
        @api.post("/items", response_model_exclude_none=True)
        async def items(self, item: Item) -> Item:
            return Item(name=f"{item.name} {self.number}")

        @router.get("/routed")
        async def routed(self) -> int:
            return self.number

        @api.get("/wrapped")
        @logged
        async def wrapped(self, more: int) -> list[int]:
            return [self.number, more]

        @api.get("/stream")
        async def stream(self) -> AsyncIterator[Item]:
            for number in range(self.number):
                yield Item(name=str(number))

        @staticmethod
        @api.get("/static")
        async def static() -> str:
            return "static"

    api.include_router(router, prefix="/outer")
    bind_methods(api, Web(3))
    async with asked(api) as client:
        assert (await client.get("/before")).json() == "a function"
        answer = await client.get("/inherited?factor=5")
        assert (answer.status_code, answer.json()) == (202, {"result": 15})
        assert (await client.post("/items", json={"name": "bolt"})).json() == {"name": "bolt 3"}
        assert (await client.post("/items", json={})).status_code == 422
        assert (await client.get("/outer/inner/routed")).json() == 3
        assert (await client.get("/wrapped?more=4")).json() == [3, 4]
        assert (await client.get("/stream")).text.count("name") == 3
        assert (await client.get("/static")).json() == "static"
        document = (await client.get("/openapi.json")).json()
        told = document["paths"]["/inherited"]["get"]
        assert (told["summary"], told["tags"], told["description"]) == ("Said so", ["base"], "Multiply.")
        assert [parameter["name"] for parameter in told["parameters"]] == ["factor"]
        assert "self" not in str(document)
        bind_methods(api, Web(4))  # another instance in the same process
        assert (await client.get("/wrapped?more=4")).json() == [4, 4]


class Page:
    text = "a page"

    async def home(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(self.text)


class Stamp:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def stamped(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-stamp", b"1")]
            await send(message)

        await self.app(scope, receive, stamped)


async def test_starlettes_routes_keep_what_stands_around_them() -> None:
    star = Starlette(
        routes=[
            Route("/", Page.home, middleware=[Middleware(Stamp)]),
            Mount("/mounted", routes=[Route("/x", Page.home, methods=["POST"], max_body_size=3)]),
        ]
    )
    bind_methods(star, Page())
    async with asked(star) as client:
        answer = await client.get("/")
        assert (answer.text, answer.headers["x-stamp"]) == ("a page", "1")
        assert (await client.post("/mounted/x")).text == "a page"
        assert (await client.post("/mounted/x", content=b"long")).status_code == 413
        assert (await client.get("/mounted/x")).status_code == 405


def test_what_cannot_be_kept_is_told() -> None:
    def closing(app: Any) -> Any:
        async def inner(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

        return inner

    star = Starlette(routes=[Route("/", Page.home, middleware=[Middleware(closing)])])
    with pytest.raises(UserCodeError, match="middleware of its own"):
        bind_methods(star, Page())


def test_applications_without_routes_are_left_alone() -> None:
    async def bare(scope: Any, receive: Any, send: Any) -> None:
        pass

    bind_methods(bare, Page())
    bind_methods(Stamp(Stamp(bare)), Page())
