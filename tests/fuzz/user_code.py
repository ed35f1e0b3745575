"""The HTTP handler that mutated requests reach; copied into the working directory of a replica. It never raises."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response, StreamingResponse

import mesh

SHOWN_BYTES = 1000


class Echo:
    """Answers with its body: at once, as it comes, or not at all, by the path."""

    async def __call__(self, request: Any) -> Any:
        path = request.scope["path"]
        if path.endswith("/mirror"):
            return StreamingResponse(request.stream())
        if path.endswith("/ignore"):
            return "not read"
        body = await request.body()
        return Response(b"%d " % len(body) + body[:SHOWN_BYTES], media_type="application/x-echo")


app = mesh.deployment(name="Handler")(Echo).bind()
