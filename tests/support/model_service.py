"""User code that batches and multiplexes, by HTTP and by gRPC; copied into the working directory of a replica.

It tells what happens by lines in the file `events`, in its working directory. Imports nothing of the tests.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from native.v1 import native_pb2, native_pb2_grpc  # type: ignore[import-not-found]
from starlette.requests import Request

import mesh

LONG_S = 600.0


def note(line: str) -> None:
    with open("events", "a") as events:
        events.write(line + "\n")


class Batching(native_pb2_grpc.ProbeServicer):  # type: ignore[misc]
    """Batches of two, of HTTP and gRPC alike. The last segment of a path names the method."""

    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def lengths(self, texts: list[str]) -> list[Any]:
        note(f"batch {' '.join(sorted(texts))}")
        try:
            while "wait" in texts and not os.path.exists("open-batch"):
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            note("batch cancelled")
            raise
        return [ValueError("a bad item") if text == "bad" else len(text) for text in texts]

    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    def in_thread(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def spell(self, texts: list[str]) -> AsyncIterator[list[Any]]:
        for i in range(max(map(len, texts))):
            yield [text[i] + "." if i < len(text) else StopIteration for text in texts]

    def reconfigure(self, user_config: Any) -> None:
        self.lengths.set_max_batch_size((user_config or {}).get("size", 2))

    async def __call__(self, request: Request) -> Any:
        text, what = request.query_params["text"], request.url.path.rpartition("/")[2]
        if what == "spell":
            return self.spell(text)
        return {"length": await (self.in_thread(text) if what == "thread" else self.lengths(text))}

    async def Unary(self, request: Any, context: Any) -> Any:
        return native_pb2.Told(count=await self.lengths(request.what))

    def Repeat(self, request: Any, context: Any) -> Any:
        """Sync: it gets the result itself."""
        return native_pb2.Told(count=self.lengths(request.what))


class BatchedHandler:
    """A batch of whole requests."""

    @mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
    async def __call__(self, requests: list[Request]) -> list[Any]:
        return [{"together": len(requests), "path": request.url.path} for request in requests]


@mesh.batch(max_batch_size=2, batch_wait_timeout_s=LONG_S)
async def batched_function(requests: list[Request]) -> list[Any]:
    return [{"together": len(requests)} for _ in requests]


class Model:
    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self.closed = False

    async def aclose(self) -> None:
        note(f"unload {self.model_id}")
        self.closed = True


class Multiplexing(native_pb2_grpc.ProbeServicer):  # type: ignore[misc]
    """Three models at most."""

    @mesh.multiplexed(max_models_per_replica=3)
    async def get_model(self, model_id: str) -> Model:
        note(f"load {model_id}")
        if model_id == "missing":
            raise LookupError(model_id)
        await asyncio.sleep(0)
        return Model(model_id)

    async def answer(self) -> str:
        model: Model = await self.get_model(mesh.get_multiplexed_model_id() or "default")
        assert not model.closed
        return model.model_id

    async def __call__(self, request: Request) -> Any:
        return {"model": await self.answer(), "pid": os.getpid()}

    async def Unary(self, request: Any, context: Any) -> Any:
        return native_pb2.Told(text=await self.answer(), count=os.getpid())


declared = mesh.deployment(name="Handler")
batching = declared(Batching).bind()
batched_handler = declared(BatchedHandler).bind()
function = declared(batched_function).bind()
multiplexing = declared(Multiplexing).bind()
