"""The servicer of the tests of REST; copied into the working directory of a replica.

`Ask.what` says what a method does. What happens is told by lines in the file `events`; who waits, waits for a file
`open-…`, both in the working directory. Imports nothing of the tests.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.api import httpbody_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from rest.v1 import rest_pb2, rest_pb2_grpc  # type: ignore[import-not-found]

import mesh

Told: Any = rest_pb2.Told
HttpBody: Any = httpbody_pb2.HttpBody
FORGED = (
    *(("x-mesh-shed", "1"), ("x-mesh-origin", "gateway"), ("grpc-status", "0"), ("grpc-message", "forged")),
    *(("retry-after", "1"), ("grpc-retry-pushback-ms", "5"), ("x-request-id", "forged"), ("content-type", "x/y")),
    *(("content-length", "1"), ("connection", "close"), ("transfer-encoding", "chunked"), ("x-kept", "yes")),
)


def note(line: str) -> None:
    with open("events", "a") as events:
        events.write(line + "\n")


async def gate(name: str) -> None:
    while name and not os.path.exists(f"open-{name}"):
        await asyncio.sleep(0.002)


def rich_status(code: int) -> bytes:
    """A google.rpc.Status with details that are known, of the service's own type, of none, and broken."""
    status = Status(code=code, message="rich")
    for message in (
        ErrorInfo(reason="WRONG", domain="rest", metadata={"key": "value"}),
        BadRequest(field_violations=[BadRequest.FieldViolation(field="what", description="is wrong")]),
        Told(text="own", total=7),
    ):
        status.details.add().Pack(message)
    status.details.append(AnyMessage(type_url="type.googleapis.com/no.such.Type", value=b"\x08\x01"))
    status.details.append(AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff"))
    made: bytes = status.SerializeToString()
    return made


class Rest(rest_pb2_grpc.RestServicer):  # type: ignore[misc]
    async def Do(self, request: Any, context: Any) -> Any:
        return await self.answer(request, context)

    async def Bare(self, request: Any, context: Any) -> Any:
        return await self.answer(request, context)

    async def Many(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if request.what == "early":
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        if request.what == "initial":
            await context.send_initial_metadata((("x-first", "yes"),))
        for i in range(request.count):
            yield Told(text=request.id, count=i)
        await gate(request.gate)
        if request.what == "late":
            await context.abort(grpc.StatusCode.ABORTED, "it broke", (("x-own", "yes"),))
        if request.what == "raise":
            raise ValueError("the secret reason")
        if request.what == "wait":
            await self.wait(request)
        context.set_trailing_metadata((("x-last", "yes"),))

    async def Sum(self, request_iterator: Any, context: Any) -> Any:
        told = Told()
        try:
            async for ask in request_iterator:
                note(f"got {ask.id}")
                told.text, told.total = ask.gate, told.total + ask.count
                told.words.append(ask.id)
                if ask.what == "gated":
                    await gate(ask.gate)
                if ask.what == "enough":
                    break
                if ask.what == "refuse":
                    await context.abort(grpc.StatusCode.OUT_OF_RANGE, "no more")
        except asyncio.CancelledError:
            note("sum cancelled")
            raise
        return told

    async def Chat(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async for ask in request_iterator:
            yield Told(text=f"re: {ask.id}")
            if ask.what == "bye":
                await context.abort(grpc.StatusCode.CANCELLED, "bye")

    async def File(self, request: Any, context: Any) -> Any:
        return HttpBody(content_type=request.content_type, data=request.data[::-1])

    async def Download(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if request.what == "early":
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        for i in range(request.count):
            yield HttpBody(content_type="text/csv" if not i else "", data=b"%d;" % i)
        if request.what == "late":
            await context.abort(grpc.StatusCode.DATA_LOSS, "it broke")

    async def Receive(self, request_iterator: Any, context: Any) -> Any:
        told, digest = Told(), hashlib.sha256()
        async for part in request_iterator:
            told.text, told.total = f"{part.name} {part.piece.content_type}", told.total + len(part.piece.data)
            told.count += 1
            digest.update(part.piece.data)
        told.data = digest.digest()
        return told

    async def answer(self, ask: Any, context: Any) -> Any:
        known = getattr(self, ask.what.replace("-", "_"), None) if ask.what else None
        return await known(ask, context) if known else Told(text=ask.id, count=ask.count, data=ask.data)

    async def gated(self, ask: Any, context: Any) -> Any:
        note(f"start {ask.id}")
        try:
            await gate(ask.gate)
        except asyncio.CancelledError:
            note(f"cancelled {ask.id} {context.cancelled()}")
            raise
        return Told(text=ask.id)

    async def wait(self, ask: Any, context: Any = None) -> Any:
        note(f"start {ask.id}")
        try:
            await asyncio.Event().wait()
        finally:
            note(f"ended {ask.id}")

    async def words(self, ask: Any, context: Any) -> Any:
        return Told(text="not shown", words=["a", "b"])

    async def total(self, ask: Any, context: Any) -> Any:
        return Told(total=int(sum(ask.numbers)), count=len(ask.numbers))

    async def size(self, ask: Any, context: Any) -> Any:
        return Told(data=bytes(ask.count))

    async def code(self, ask: Any, context: Any) -> Any:
        context.set_code(ask.count)
        context.set_details(ask.id)

    async def abort(self, ask: Any, context: Any) -> Any:
        await context.abort({c.value[0]: c for c in grpc.StatusCode}[ask.count], ask.id, (("x-own", "yes"),))

    async def rich(self, ask: Any, context: Any) -> Any:
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "rich", (("grpc-status-details-bin", rich_status(3)), ("x-own", "yes"))
        )

    async def quota(self, ask: Any, context: Any) -> Any:
        await context.send_initial_metadata(FORGED)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "your quota is used up", FORGED)

    async def forged(self, ask: Any, context: Any) -> Any:
        await context.send_initial_metadata(FORGED)
        context.set_trailing_metadata(FORGED)
        return Told(text="as usual")

    async def metadata(self, ask: Any, context: Any) -> Any:
        await context.send_initial_metadata((("x-first", "yes"), ("x-first-bin", b"\0\xff"), ("x-first", "again")))
        context.set_trailing_metadata((("x-last", "yes"), ("x-last-bin", b"\0\xfe")))
        return Told(text="metadata")

    async def split(self, ask: Any, context: Any) -> Any:
        try:
            await context.send_initial_metadata((("x-split", "a\r\nx-forged: yes"),))
        except ValueError as error:
            note("refused in the replica")
            await context.abort(grpc.StatusCode.INTERNAL, str(error))

    async def broken_details(self, ask: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.ABORTED, "odd", (("grpc-status-details-bin", b"\xff\xff"),))

    async def odd_message(self, ask: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.ABORTED, 'a%\r\n\0"é😈\u2028')

    async def seen(self, ask: Any, context: Any) -> Any:
        pairs = [
            (name, value.hex() if isinstance(value, bytes) else value) for name, value in context.invocation_metadata()
        ]
        told = {"metadata": pairs, "peer": context.peer(), "time_remaining": context.time_remaining()}
        return Told(text=json.dumps(told))

    async def nothing(self, ask: Any, context: Any) -> Any:
        return None

    async def raises(self, ask: Any, context: Any) -> Any:
        raise ValueError("the secret reason")

    async def die(self, ask: Any, context: Any) -> Any:
        note("died")
        os.kill(os.getpid(), signal.SIGKILL)


class Both(Rest):
    """Answers over plain HTTP too."""

    async def __call__(self, request: Any) -> Any:
        return {"plain": request.scope["path"], "root": request.scope["root_path"]}


declared = mesh.deployment(name="Handler")
app = declared(Rest).bind()
both = declared(Both).bind()
