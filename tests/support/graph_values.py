"""What calls by handles may carry, and what may go wrong; copied into the working directory of a replica."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy
from native.v1 import native_pb2, native_pb2_grpc  # type: ignore[import-not-found]
from starlette.requests import Request

import mesh

Told: Any = native_pb2.Told


@dataclasses.dataclass
class Point:
    x: int
    y: int


@mesh.deployment
class Echo(native_pb2_grpc.ProbeServicer):  # type: ignore[misc]
    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return [args, kwargs]

    def slowly(self, value: Any) -> Any:
        time.sleep(0.01)
        return value

    async def raises(self) -> None:
        raise ValueError("secret reason")

    async def context(self) -> Any:
        logging.getLogger("graph").warning("in the child")
        return "seen"

    @property
    def number(self) -> Any:
        """Another function each time."""
        self.asked = getattr(self, "asked", 0) + 1
        return lambda asked=self.asked: asked

    async def never(self) -> None:
        await asyncio.sleep(3600)

    async def waits_for_what_is_cancelled(self) -> None:
        waits = asyncio.ensure_future(self.never())
        waits.cancel()
        await waits

    async def Unary(self, request: Any, context: Any) -> Any:
        if request.what == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        return Told(text=request.id, count=len(dict(context.invocation_metadata())))

    async def Many(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for i in range(request.count):
            yield Told(count=i)


@mesh.deployment
class Asking:
    """Runs a method of its own by name, so that a test is one request."""

    def __init__(self, echo: mesh.DeploymentHandle) -> None:
        self.echo = echo

    async def __call__(self, request: Request) -> Any:
        result = getattr(self, request.url.path.strip("/"))()
        return str(await result if asyncio.iscoroutine(result) else result)

    async def values(self) -> Any:
        array = numpy.arange(500_000, dtype="f8").reshape(1000, 500)
        got, kwargs = await self.echo.remote(array, Point(1, 2), (1, {2}), at={"key": b"x"})
        assert (got[0] == array).all() and got[0].flags.writeable
        assert got[1:] == (Point(1, 2), (1, {2})) and kwargs == {"at": {"key": b"x"}}
        return "ok"

    async def unfinished(self) -> Any:
        """A response is an argument, alone and within a list."""
        first = self.echo.slowly.remote("first")
        second = self.echo.slowly.remote([first, "second"])
        return await self.echo.slowly.remote({"all": second})

    async def of_a_property(self) -> Any:
        return [await self.echo.number.remote() for _ in range(2)]

    async def shared(self) -> Any:
        """A response is an argument of two calls; one of them is given up, which is nothing to the other."""
        argument = self.echo.slowly.remote("shared")
        given_up, other = (self.echo.slowly.remote([argument]) for _ in range(2))
        await asyncio.sleep(0)
        given_up.cancel()
        return await other

    async def of_a_cancelled_call(self) -> Any:
        argument = self.echo.never.remote()
        waits = self.echo.slowly.remote([argument])
        await asyncio.sleep(0)
        argument.cancel()
        try:
            await waits
        except mesh.MeshError as error:
            return error.message

    async def cancelled_there(self) -> Any:
        try:
            await self.echo.waits_for_what_is_cancelled.remote()
        except mesh.MeshError as error:
            return f"{type(error).__name__}: {error.message}"

    async def raises(self) -> Any:
        try:
            await self.echo.raises.remote()
        except mesh.RemoteError as error:
            return f"{error.raised}: {error.message}"

    async def lets_through(self) -> Any:
        await self.echo.raises.remote()

    async def timeout(self) -> Any:
        try:
            await self.echo.options(timeout_s=0.05).never.remote()
        except mesh.RequestTimeout as error:
            return f"{isinstance(error, TimeoutError)} {error.message}"

    async def no_such_method(self) -> Any:
        try:
            await self.echo.nothing.remote()
        except mesh.RemoteError as error:
            return error.message

    async def no_such_deployment(self) -> Any:
        try:
            await mesh.get_handle("default", "Nobody").remote()
        except mesh.MeshError as error:
            return f"{type(error).__name__}: {error.message}"

    async def context(self) -> Any:
        return await self.echo.context.remote()

    async def found(self) -> Any:
        return await mesh.get_handle("default", "Echo").slowly.remote("found")

    async def cannot_travel(self) -> Any:
        try:
            self.echo.remote([1, {"here": object()}])
        except TypeError as error:
            return str(error)

    async def blocks(self) -> Any:
        try:
            self.echo.slowly.remote(1).result()
        except mesh.MeshError as error:
            return error.message

    async def not_a_stream(self) -> Any:
        try:
            async for _ in self.echo.options(stream=True).slowly.remote(1):
                pass
        except mesh.MeshError as error:
            return error.message

    async def servicer(self) -> Any:
        answer = await self.echo.Unary.remote(native_pb2.Ask(id="me"))
        many = [told.count async for told in self.echo.options(stream=True).Many.remote(native_pb2.Ask(count=3))]
        try:
            await self.echo.Unary.remote(native_pb2.Ask(what="abort"))
        except mesh.MeshError as error:
            return f"{answer.text} {many} {error.message}"

    async def cancelled(self) -> Any:
        response = self.echo.never.remote()
        response.cancel()
        try:
            await response
        except asyncio.CancelledError:
            return response.done()


asking = Asking.bind(Echo.bind())
