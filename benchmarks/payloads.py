"""What is measured of bodies: a deployment that takes them, makes them, sends them back, and streams events."""

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

import mesh

MADE = {size: bytes(size) for size in (1_000_000, 10_000_000)}
EVENT = b"data: 0123456789abcdef0123456789abcdef\n\n"
EVENTS = 50


@mesh.deployment(max_ongoing_requests=1000, max_queued_requests=1000)
class Payloads:
    async def __call__(self, request: Request) -> Response:
        what = request.scope["path"].rpartition("/")[2]
        if what == "echo":
            return Response(await request.body(), media_type="application/octet-stream")
        if what == "sink":
            return JSONResponse({"bytes": sum([len(chunk) async for chunk in request.stream()])})
        if what == "events":
            return StreamingResponse(_events(), media_type="text/event-stream")
        if what.isdigit():
            return Response(MADE[int(what)], media_type="application/octet-stream")
        return JSONResponse({"ok": True})


async def _events() -> AsyncIterator[bytes]:
    for _ in range(EVENTS):
        yield EVENT


payloads = Payloads.bind()
