"""The lifespan of applications that take part, fail, or know of none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh.errors import UserCodeError
from mesh.worker.lifespan import Lifespan


class Scripted:
    """An application that notes what it is told, and answers as `says`."""

    def __init__(
        self, startup: str = "lifespan.startup.complete", shutdown: str = "lifespan.shutdown.complete"
    ) -> None:
        self.said = {"lifespan.startup": startup, "lifespan.shutdown": shutdown}
        self.seen: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["opened"] = True
        for _ in range(2):
            order = (await receive())["type"]
            self.seen.append(order)
            if self.said[order] == "raise":
                raise ValueError(f"{order} raised")
            await send({"type": self.said[order], "message": "Traceback …\nOSError: no database"})
            if self.said[order].endswith("failed"):
                return


async def test_startup_state_and_shutdown() -> None:
    application = Scripted()
    lifespan = Lifespan(application)
    await lifespan.start()
    assert lifespan.state == {"opened": True} and application.seen == ["lifespan.startup"]
    await lifespan.stop()
    assert application.seen == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize(("says", "told"), [("lifespan.startup.failed", "no database"), ("raise", "startup raised")])
async def test_a_startup_that_fails(says: str, told: str) -> None:
    lifespan = Lifespan(Scripted(startup=says))
    with pytest.raises(UserCodeError, match=told) as caught:
        await lifespan.start()
    assert caught.value.traceback
    await lifespan.stop()


@pytest.mark.parametrize("says", ["lifespan.shutdown.failed", "raise"])
async def test_a_shutdown_that_fails_is_logged(says: str, caplog: pytest.LogCaptureFixture) -> None:
    lifespan = Lifespan(Scripted(shutdown=says))
    await lifespan.start()
    await lifespan.stop()
    assert len(caplog.records) == 1


async def test_applications_that_know_of_no_lifespan() -> None:
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"

    async def ignores(scope: Any, receive: Any, send: Any) -> None:
        return

    for application in (refuses, ignores):
        lifespan = Lifespan(application)
        await lifespan.start()
        await lifespan.stop()


async def test_a_startup_that_is_given_up_ends() -> None:
    ended: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
            await asyncio.Event().wait()
        finally:
            ended.append("startup")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Lifespan(application).start()
    assert ended == ["startup"]


async def test_a_shutdown_that_hangs_ends_with_its_owner() -> None:
    ended: list[str] = []

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("yes")

    lifespan = Lifespan(hangs)
    await lifespan.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await lifespan.stop()
    assert ended == ["yes"]
