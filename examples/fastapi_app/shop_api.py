"""A FastAPI application as its tutorial teaches them.

It knows nothing of mesh: `uvicorn shop_api:api` runs it as well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field


class Size(StrEnum):
    small = "small"
    large = "large"


class Offer(BaseModel):
    """What the shop sells."""

    name: str = Field(min_length=1, max_length=40)
    price: float = Field(gt=0)
    size: Size = Size.small
    tags: set[str] = set()


class Stored(Offer):
    number: int


class SoldOut(Exception):
    def __init__(self, number: int) -> None:
        self.number = number


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Open what all requests use, and close it at the end."""
    offers = {1: Stored(number=1, name="bolt", price=0.5), 2: Stored(number=2, name="nut", price=0.25)}
    yield {"offers": offers, "mails": list[str]()}
    offers.clear()


api = FastAPI(title="Shop", lifespan=lifespan)
orders = APIRouter(prefix="/orders", tags=["orders"])


@api.middleware("http")
async def timed(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    began = time.perf_counter()
    answer = await call_next(request)
    answer.headers["x-process-time"] = f"{time.perf_counter() - began:.6f}"
    return answer


@api.exception_handler(SoldOut)
async def sold_out(_: Request, error: SoldOut) -> JSONResponse:
    return JSONResponse({"sold_out": error.number}, status_code=410)


async def paging(skip: int = 0, limit: Annotated[int, Query(le=100)] = 10) -> tuple[int, int]:
    return skip, limit


async def buyer(x_token: Annotated[str | None, Header()] = None) -> AsyncIterator[str]:
    """A dependency with a beginning and an end, as a database session has."""
    if x_token != "let-me-in":
        raise HTTPException(401, "who are you?")
    yield "somebody"


@api.get("/offers")
async def list_offers(request: Request, page: Annotated[tuple[int, int], Depends(paging)]) -> list[Stored]:
    skip, limit = page
    return list(request.state.offers.values())[skip : skip + limit]


@api.get("/offers/{number}")
def read_offer(request: Request, number: Annotated[int, Path(ge=1)]) -> Stored:
    if number == 13:
        raise SoldOut(number)
    if number not in request.state.offers:
        raise HTTPException(404, f"there is no offer {number}")
    found: Stored = request.state.offers[number]
    return found


@api.post("/offers", status_code=201)
async def add_offer(request: Request, offer: Offer, response: Response) -> Stored:
    number = max(request.state.offers, default=0) + 1
    response.headers["location"] = str(request.url_for("read_offer", number=number))
    stored: Stored = request.state.offers.setdefault(number, Stored(number=number, **offer.model_dump()))
    return stored


@orders.post("/{number}")
async def order(
    request: Request, number: int, tasks: BackgroundTasks, who: Annotated[str, Depends(buyer)]
) -> dict[str, Any]:
    tasks.add_task(request.state.mails.append, f"{who} ordered {number}")
    return {"ordered": number, "by": who}


@orders.get("/mails")
async def mails(request: Request) -> list[str]:
    sent: list[str] = request.state.mails
    return sent


api.include_router(orders)


@api.get("/countdown")
async def countdown(start: int = 3) -> StreamingResponse:
    async def numbers() -> AsyncIterator[str]:
        for number in range(start, 0, -1):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return StreamingResponse(numbers(), media_type="text/plain")


PAGE = """<!doctype html>
<title>Shop</title>
<p>The shop says: <b id="said">…</b></p>
<script>
  const socket = new WebSocket(new URL("chat/browser", location.href).href.replace(/^http/, "ws"), ["chat"]);
  const said = [];
  socket.onopen = () => socket.send("hello");
  socket.onmessage = event => {
    said.push(event.data);
    if (said.length == 1) socket.send("bye");
  };
  socket.onclose = event => {
    document.getElementById("said").textContent = [...said, socket.protocol, event.code, event.reason].join(" | ");
  };
</script>
"""


@api.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    return HTMLResponse(PAGE)


@api.websocket("/chat/{name}")
async def chat(websocket: WebSocket, name: str) -> None:
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[0] if offered else None)
    try:
        while (said := await websocket.receive_text()) != "bye":
            await websocket.send_text(f"{name} said {said}")
        await websocket.close(3000, "bye " + name)
    except WebSocketDisconnect:
        return
