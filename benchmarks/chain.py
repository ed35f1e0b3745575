"""A chain of three deployments, each calling the next by its handle."""

from starlette.requests import Request

import mesh


@mesh.deployment(max_ongoing_requests=1000, max_queued_requests=1000)
class Last:
    async def work(self, number: int) -> int:
        return number + 1


@mesh.deployment(max_ongoing_requests=1000, max_queued_requests=1000)
class Middle:
    def __init__(self, last: mesh.DeploymentHandle) -> None:
        self._last = last

    async def work(self, number: int) -> int:
        return int(await self._last.work.remote(number))


@mesh.deployment(max_ongoing_requests=1000, max_queued_requests=1000)
class First:
    def __init__(self, middle: mesh.DeploymentHandle) -> None:
        self._middle = middle

    async def __call__(self, request: Request) -> dict[str, int]:
        return {"number": await self._middle.work.remote(1)}


chain = First.bind(Middle.bind(Last.bind()))
