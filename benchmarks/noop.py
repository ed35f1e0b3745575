"""What is measured: handlers that do nothing, or that do nothing but wait."""

import asyncio

from starlette.requests import Request

import mesh


@mesh.deployment(max_ongoing_requests=1000, max_queued_requests=1000)
class Noop:
    async def __call__(self, request: Request) -> dict[str, bool]:
        return {"ok": True}


@mesh.deployment(max_ongoing_requests=64, max_queued_requests=1000)
class Sync:
    """The same as code that may block: it runs in a thread."""

    def __call__(self, request: Request) -> dict[str, bool]:
        return {"ok": True}


@mesh.deployment
class Bounded:
    """As fast as the machine allows, with the limits that a deployment has by itself."""

    async def __call__(self, request: Request) -> dict[str, bool]:
        return {"ok": True}


@mesh.deployment(max_ongoing_requests=1, max_queued_requests=0)
class Full:
    """Always busy with one request: everything else is shed."""

    async def __call__(self, request: Request) -> str:
        await asyncio.sleep(3600)
        return ""


@mesh.deployment(max_ongoing_requests=10, max_queued_requests=10)
class Slow:
    """Serves 500 requests a second at best, whatever the machine, and a queue of 20 ms before that."""

    async def __call__(self, request: Request) -> dict[str, bool]:
        await asyncio.sleep(0.02)
        return {"ok": True}


noop = Noop.bind()
sync = Sync.bind()
bounded = Bounded.bind()
full = Full.bind()
slow = Slow.bind()
