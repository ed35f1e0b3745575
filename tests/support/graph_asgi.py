"""Parents that are ASGI applications, for the tests of handles; copied into the working directory of a replica."""

from __future__ import annotations

from fastapi import FastAPI
from graph_code import Child  # type: ignore[import-not-found]

import mesh

web = FastAPI()


@mesh.deployment
@mesh.ingress(web)
class Asgi:
    def __init__(self, child: mesh.DeploymentHandle) -> None:
        self.child = child

    @web.get("/ready")
    async def ready(self) -> str:
        return str(await self.child.ready.remote())

    @web.get("/async")
    async def in_the_loop(self) -> str:
        answer: str = await self.child.work.remote("asgi async")
        return answer

    @web.get("/sync")
    def in_a_thread(self) -> str:
        answer: str = self.child.work.remote("asgi sync").result()
        return answer


asgi = Asgi.bind(Child.bind())
