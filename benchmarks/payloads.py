"""What is measured of bodies: a deployment that takes them, makes them, sends them back, and streams events."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

import mesh

MADE = {size: bytes(size) for size in (1_000_000, 10_000_000)}
EVENT = b"data: 0123456789abcdef0123456789abcdef\n\n"
EVENTS = 50
APART_S = 0.001


async def at_once() -> AsyncIterator[bytes]:
    """Yield all events and never wait: they leave together."""
    for _ in range(EVENTS):
        yield EVENT


async def in_turn() -> AsyncIterator[bytes]:
    """Let all else run between two events."""
    for _ in range(EVENTS):
        yield EVENT
        await asyncio.sleep(0)


async def apart() -> AsyncIterator[bytes]:
    """Wait between two events, as for the next word of a model."""
    for _ in range(EVENTS):
        yield EVENT
        await asyncio.sleep(APART_S)


EVENTS_APART = {"events": at_once, "events_in_turn": in_turn, "events_apart": apart}


@mesh.deployment(max_ongoing_requests=1000, max_queued_requests=1000)
class Payloads:
    async def __call__(self, request: Request) -> Response:
        what = request.scope["path"].rpartition("/")[2]
        if what == "echo":
            return Response(await request.body(), media_type="application/octet-stream")
        if what == "sink":
            return JSONResponse({"bytes": sum([len(chunk) async for chunk in request.stream()])})
        if what in EVENTS_APART:
            return StreamingResponse(EVENTS_APART[what](), media_type="text/event-stream")
        if what.isdigit():
            return Response(MADE[int(what)], media_type="application/octet-stream")
        return JSONResponse({"ok": True})


payloads = Payloads.bind()
