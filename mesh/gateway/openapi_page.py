"""`/-/openapi.json`: the OpenAPI document of all REST routes, made when it is first asked for after a change.

Owns when it is made anew; what is in it is decided in `transcode.openapi`. Called by `http_front`.
"""

from __future__ import annotations

import asyncio

from mesh.gateway.pipeline import Pipeline
from mesh.transcode.openapi import ApiSource, render


class OpenApiPage:
    """The document, kept until the routes change."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._made_of: list[ApiSource] = []
        self._making = asyncio.Lock()
        self._body = b""

    async def body(self) -> bytes:
        """Return the document. Making it may take long, so that happens in a thread, once for all who ask."""
        async with self._making:
            sources = [
                ApiSource(route.application, route.prefix or "/", route.rest.schema, route.rest.options)
                for route in self._pipeline.entries()
                if route.rest is not None
            ]
            if not self._body or sources != self._made_of:
                self._body = await asyncio.to_thread(render, sources) + b"\n"
                self._made_of = sources
            return self._body
