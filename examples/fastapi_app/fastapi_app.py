"""The shop's FastAPI application as a deployment, unchanged, and one whose routes are methods of a class.

meshctl run config.yaml
"""

from fastapi import FastAPI
from shop_api import api

import mesh

shop = mesh.asgi(api, name="Shop", max_ongoing_requests=20).bind()

counting = FastAPI(title="Counter")


@mesh.deployment(max_ongoing_requests=10)
@mesh.ingress(counting)
class Counter:
    """A route is a method: `self` is the one instance of the replica."""

    def __init__(self, start: int = 0) -> None:
        self._count = start

    @counting.get("/count")
    async def read(self) -> dict[str, int]:
        return {"count": self._count}

    @counting.post("/count")
    async def add(self, by: int = 1) -> dict[str, int]:
        self._count += by
        return {"count": self._count}


counter = Counter.bind(start=10)
