"""Deployments that call deployments, for the tests of handles; copied into the working directory of a replica.

What happens is told by lines in the file `events`; who waits, waits for a file `open-…`, both in the working directory.
Imports nothing of the tests. Each kind of parent calls one `Child`; `graph_asgi` has those that are ASGI applications.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from native.v1 import native_pb2, native_pb2_grpc  # type: ignore[import-not-found]
from starlette.requests import Request

import mesh

Told: Any = native_pb2.Told


def note(line: str) -> None:
    with open("events", "a") as events:
        events.write(line + "\n")


async def gate_open(gate: str) -> None:
    while not os.path.exists(f"open-{gate}"):
        await asyncio.sleep(0.002)


@mesh.deployment(max_ongoing_requests=1, max_queued_requests=1)
class Child:
    """Holds its slot until the gate "go" is open."""

    async def work(self, name: str) -> str:
        note(f"child runs {name}")
        await gate_open("go")
        return f"worked for {name}"

    async def ready(self) -> bool:
        return True


@mesh.deployment
class Plain:
    def __init__(self, child: mesh.DeploymentHandle) -> None:
        self.child = child

    async def __call__(self, request: Request) -> str:
        if request.url.path.endswith("/ready"):
            return str(await self.child.ready.remote())
        return await self.child.work.remote("plain")


@mesh.deployment
class Sync:
    def __init__(self, child: mesh.DeploymentHandle) -> None:
        self.child = child

    def __call__(self, request: Request) -> str:
        if request.url.path.endswith("/ready"):
            return str(self.child.ready.remote().result(timeout_s=5))
        return self.child.work.remote("sync").result()


@mesh.deployment
class Degrading(Plain.target):  # type: ignore[misc,name-defined]
    async def __call__(self, request: Request) -> str:
        try:
            return await super().__call__(request)
        except mesh.BackPressureError as error:
            return f"degraded {error.application} {error.deployment} {error.retry_after_s > 0}"


@mesh.deployment
class Servicer(native_pb2_grpc.ProbeServicer):  # type: ignore[misc]
    def __init__(self, child: mesh.DeploymentHandle) -> None:
        self.child = child

    async def Unary(self, request: Any, context: Any) -> Any:
        if request.what == "ready":
            return Told(text=str(await self.child.ready.remote()))
        return Told(text=await self.child.work.remote("servicer"))


@mesh.deployment
class SyncServicer(native_pb2_grpc.ProbeServicer):  # type: ignore[misc]
    def __init__(self, child: mesh.DeploymentHandle) -> None:
        self.child = child

    def Unary(self, request: Any, context: Any) -> Any:
        if request.what == "ready":
            return Told(text=str(self.child.ready.remote().result()))
        return Told(text=self.child.work.remote("sync servicer").result())


child = Child.bind()
plain = Plain.bind(child)
sync = Sync.bind(child)
degrading = Degrading.bind(child)
servicer = Servicer.bind(child)
sync_servicer = SyncServicer.bind(child)


# A chain: each calls the next; the last waits for ever.


@mesh.deployment
class Link:
    def __init__(self, name: str, following: mesh.DeploymentHandle | None) -> None:
        self.name = name
        self.following = following

    async def __call__(self, request: Request) -> str:
        return await (self.ready() if request.url.path == "/ready" else self.run())

    async def ready(self) -> str:
        return self.name + (await self.following.ready.remote() if self.following else "")

    async def run(self) -> str:
        note(f"{self.name} runs")
        try:
            if self.following is None:
                await asyncio.sleep(3600)
            else:
                await self.following.run.remote()
        except (asyncio.CancelledError, mesh.RequestTimeout) as error:
            note(f"{self.name} cancelled {time.monotonic()} {type(error).__name__}")
            raise
        return self.name


@mesh.deployment
class SyncLink(Link.target):  # type: ignore[misc,name-defined]
    """The same, in threads: it is blocked in `result()`."""

    def __call__(self, request: Request) -> str:
        return self.run()

    def run(self) -> str:
        note(f"{self.name} runs")
        try:
            assert self.following is not None
            self.following.run.remote().result()
        except Exception as error:
            note(f"{self.name} cancelled {time.monotonic()} {type(error).__name__}")
            raise
        return self.name


def chain(kinds: str) -> mesh.Application:
    """Return a chain; a letter for each, first to last: "a" async, "s" sync."""
    following = None
    for number in range(len(kinds), 0, -1):
        kind: Any = SyncLink if kinds[number - 1] == "s" else Link
        following = kind.options(name=f"L{number}").bind(f"L{number}", following)
    assert following is not None
    return following


chain_of_five = chain("asaaa")


# Streams: a generator, one that passes on what it gets, and one that asks for both.


@mesh.deployment
class Source:
    async def items(self, count: int, size: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        try:
            for i in range(count):
                yield i, bytes(size)
                if i % 100 == 0:
                    note(f"yielded {i}")
        finally:
            note("source ended")

    def items_in_a_thread(self, count: int) -> Iterator[int]:
        yield from range(count)

    async def failing(self) -> AsyncIterator[int]:
        yield 1
        raise ValueError("after one")


@mesh.deployment
class Relay:
    def __init__(self, source: mesh.DeploymentHandle) -> None:
        self.source = source.options(stream=True)

    async def items(self, count: int, size: int = 0) -> AsyncIterator[Any]:
        async for item in self.source.items.remote(count, size):
            yield item


@mesh.deployment
class Reader:
    def __init__(self, relay: mesh.DeploymentHandle, source: mesh.DeploymentHandle) -> None:
        self.relay = relay.options(stream=True)
        self.source = source

    async def __call__(self, request: Request) -> Any:
        query = request.query_params
        count, size = int(query["count"]), int(query.get("size", 0))
        if "stop" in query:  # it reads some and leaves
            async for i, _ in self.relay.items.remote(count, size):
                if i == int(query["stop"]):
                    break
            return str(i)
        if "pass" in query:
            return self.passed_on(count, size)
        seen = []
        async for i, _ in self.relay.items.remote(count, size):
            seen.append(i)
            if i == 100 and "pause" in query:
                note("reader pauses")
                await gate_open("read")
        assert seen == list(range(count))
        return str(len(seen))

    async def passed_on(self, count: int, size: int) -> AsyncIterator[str]:
        async for i, _ in self.relay.items.remote(count, size):
            yield f"{i}".ljust(size)


source = Source.bind()
streams = Reader.bind(Relay.bind(source), source)


# What is batched, called by handle.


@mesh.deployment
class Batching:
    """A batch runs until the gate "batch" is open."""

    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=3600.0)
    async def lengths(self, texts: list[str]) -> list[int]:
        note(f"batch {' '.join(sorted(texts))}")
        try:
            await gate_open("batch")
        except asyncio.CancelledError:
            note("batch cancelled")
            raise
        return [len(text) for text in texts]

    async def __call__(self) -> None:
        return None


@mesh.deployment
class Asking:
    def __init__(self, batching: mesh.DeploymentHandle) -> None:
        self.batching = batching

    async def __call__(self, request: Request) -> str:
        return str(await self.batching.lengths.remote(request.query_params["text"]))


batches = Asking.bind(Batching.bind())
