"""ASGI applications for the tests of the data path; copied into the working directory of a replica as `handlers`.

They tell what happens by lines in the file `events` and wait for files named `open-…`, both in that directory.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Route

import mesh

CHUNK = b"0123456789abcdef" * 4096


def note(line: str) -> None:
    with open("events", "a") as events:
        events.write(line + "\n")


def is_open(gate: str) -> bool:
    return not gate or os.path.exists(f"open-{gate}")


async def gate_open(gate: str) -> None:
    while not is_open(gate):
        await asyncio.sleep(0.002)


class Item(BaseModel):
    name: str
    price: float = 1.0


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    note("startup")
    yield {"opened": [1]}
    note("shutdown")


api = FastAPI(lifespan=lifespan)


@api.exception_handler(KeyError)
async def missing(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"missing": str(error)}, status_code=404)


async def current(token: str = "") -> AsyncIterator[str]:
    try:
        yield token
    finally:
        note("dependency over")


@api.get("/items/{number}")
async def read(number: int, q: str | None = None) -> dict[str, Any]:
    return {"number": number, "q": q}


@api.post("/items")
def create(item: Item) -> Item:
    return Item(name=item.name.upper(), price=item.price * 2)


@api.post("/size")
async def size(request: Request) -> dict[str, int]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
    return {"bytes": total}


@api.get("/seen")
async def seen(request: Request, token: str = Depends(current)) -> dict[str, Any]:
    request.state.opened.append(2)
    request.state.mine = 1
    return {
        "url": str(request.url_for("read", number="4")),
        "root_path": request.scope["root_path"],
        "path": request.scope["path"],
        "state": request.state.opened,
        "mine": hasattr(request.state, "mine"),
        "token": token,
    }


@api.get("/background")
async def background(gate: str, tasks: BackgroundTasks) -> dict[str, bool]:
    async def later() -> None:
        await gate_open(gate)
        note("background end")

    tasks.add_task(later)
    return {"ok": True}


@api.get("/fails")
async def fails() -> None:
    raise ValueError("the secret reason")


@api.get("/fails-late")
async def fails_late() -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        yield CHUNK
        raise ValueError("the secret reason")

    return StreamingResponse(chunks())


@api.get("/missing")
async def raises_missing() -> None:
    raise KeyError("it")


@api.get("/teapot")
async def teapot() -> None:
    raise HTTPException(418, "short and stout")


@api.get("/own-500")
async def own_500() -> PlainTextResponse:
    return PlainTextResponse("my own words", status_code=500)


@api.get("/words")
async def words() -> StreamingResponse:
    def chunks() -> Iterator[str]:
        yield from ("one ", "two ", "three")

    return StreamingResponse(chunks(), media_type="text/plain")


@api.get("/endless")
async def endless() -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        number = 0
        try:
            while True:
                note(f"made {number}")
                number += 1
                yield CHUNK
        finally:
            note("endless stop")

    return StreamingResponse(chunks())


@api.get("/events")
async def events(count: int = 3, gate: str = "") -> Any:
    async def items() -> AsyncIterator[Any]:
        for number in range(count):
            yield mesh.ServerSentEvent({"n": number}, event="tick", id=str(number))
        await gate_open(gate)
        yield "last\nlines"

    return mesh.sse(items(), ping_s=0.05)


@api.get("/no-events")
async def no_events() -> Any:
    async def items() -> AsyncIterator[Any]:
        raise ValueError("the secret reason")
        yield ""

    return mesh.sse(items())


@api.get("/wait")
async def wait(number: str, gate: str) -> str:
    note(f"start {number}")
    try:
        await gate_open(gate)
    except asyncio.CancelledError:
        note(f"cancelled {number}")
        await asyncio.sleep(0)
        note(f"cleaned {number}")
        raise
    note(f"end {number}")
    return number


@api.get("/listens")
async def listens(request: Request) -> None:
    note("listens")
    while (await request.receive())["type"] != "http.disconnect":
        pass
    note("heard")
    await asyncio.sleep(0.01)
    note("left by itself")


@api.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    """Give back what comes, and note how it ended."""
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[-1] if offered else None)
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            note(f"closed {message['code']}")
            return
        if message.get("text") == "close":
            await websocket.close(4001, "bye")
            note("after close")
            return
        if message.get("text") == "raise":
            raise ValueError("the secret reason")
        if message.get("text") == "return":
            return
        if message.get("text") == "seen":
            scope = websocket.scope
            seen = {key: scope[key] for key in ("path", "root_path", "scheme", "query_string", "type")}
            names = [name.decode() for name, _ in scope["headers"]]
            await websocket.send_json({**seen, "query_string": scope["query_string"].decode(), "names": names})
            continue
        if "text" in message:
            await websocket.send_text(message["text"])
        else:
            await websocket.send_bytes(message["bytes"])


@api.websocket("/raises-disconnect")
async def raises_disconnect(websocket: WebSocket) -> None:
    await websocket.accept()
    note("accepted")
    while True:
        await websocket.receive_text()


@api.websocket("/refused")
async def refused(websocket: WebSocket, how: str) -> None:
    if how == "close":
        await websocket.close(1008)
    elif how == "answer":
        await websocket.send_denial_response(JSONResponse({"why": "no"}, status_code=401, headers={"x-why": "no"}))
    elif how == "raise":
        raise ValueError("the secret reason")
    elif how == "wait":
        await gate_open("never")


@api.websocket("/floods")
async def floods(websocket: WebSocket) -> None:
    """Send as fast as the client reads."""
    await websocket.accept()
    number = 0
    try:
        while True:
            await websocket.send_bytes(number.to_bytes(4, "big") + CHUNK)
            note(f"made {number}")
            number += 1
    finally:
        note("floods stop")


@api.websocket("/deaf")
async def deaf(websocket: WebSocket, gate: str) -> None:
    """Read nothing until the gate opens, then all."""
    await websocket.accept()
    note("deaf")
    try:
        await gate_open(gate)
    except asyncio.CancelledError:
        note("deaf cancelled")
        raise
    count = 0
    async for _ in websocket.iter_bytes():
        count += 1
        if count == 100:
            await websocket.send_json(count)


class Threads:
    lock = threading.Lock()
    now = 0


@api.get("/thread")
def thread(gate: str) -> int:
    with Threads.lock:
        Threads.now += 1
        note(f"threads {Threads.now}")
    while not is_open(gate):
        time.sleep(0.002)
    with Threads.lock:
        Threads.now -= 1
    note("thread over")
    return threading.get_ident()


plain_routes = FastAPI()


@plain_routes.middleware("http")
async def stamp(request: Request, call_next: Any) -> Any:
    answer = await call_next(request)
    answer.headers["x-stamp"] = "1"
    return answer


@mesh.deployment(name="Handler")
@mesh.ingress(plain_routes)
class Counter:
    def __init__(self, start: int = 5) -> None:
        self.count = start

    def reconfigure(self, config: dict[str, int]) -> None:
        self.count = config["count"]

    @plain_routes.get("/count")
    def get_count(self) -> dict[str, int]:
        return {"count": self.count}

    @plain_routes.post("/count/{by}")
    async def add(self, by: int, item: Item) -> dict[str, Any]:
        self.count += by
        return {"count": self.count, "item": item.name}

    @plain_routes.get("/thread")
    def thread(self, gate: str) -> int:
        return thread(gate)

    @plain_routes.websocket("/socket")
    async def socket(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json({"count": self.count})
        await websocket.close()

    @plain_routes.get("/static")
    @staticmethod
    def no_self() -> str:
        return "static"


class Pages:
    text = "a page"

    async def page(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{self.text} {request.query_params.get('q', '')}")


pages = mesh.deployment(name="Handler")(mesh.ingress(Starlette(routes=[Route("/page", Pages.page)]))(Pages)).bind()


async def bare(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Bare", b"1")]})
    await send({"type": "http.response.body", "body": message["body"][::-1]})


@asynccontextmanager
async def broken_lifespan(_: FastAPI) -> AsyncIterator[None]:
    raise RuntimeError("no database")
    yield


asgi_api = mesh.asgi(api, name="Handler").bind()
asgi_bare = mesh.asgi(bare, name="Handler").bind()
asgi_broken = mesh.asgi(FastAPI(lifespan=broken_lifespan), name="Handler").bind()
counter = Counter.bind(start=7)  # type: ignore[attr-defined]
