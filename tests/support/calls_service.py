"""The service of tests/protos/calls: its descriptors, and a real server of it that needs no generated code."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google.api.annotations_pb2
import grpc
import grpc.aio
from google.protobuf import any_pb2, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2

from mesh.gateway.reflection_answers import SchemaLike

PROTOS = Path(__file__).resolve().parents[1] / "protos"
CALLS = "calls.v1.Calls"
_GOOGLEAPIS = Path(google.api.annotations_pb2.__file__).parents[2]


@cache
def calls_descriptors() -> FileDescriptorSet:
    """Return the descriptors of the service and all that it imports."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "set"
        words = [f"-I{PROTOS}", f"-I{_GOOGLEAPIS}", "--include_imports", f"--descriptor_set_out={out}"]
        arguments = [sys.executable, "-m", "grpc_tools.protoc", *words, "calls/v1/calls.proto"]
        subprocess.run(arguments, check=True, timeout=60)
        return FileDescriptorSet.FromString(out.read_bytes())


def calls_schema() -> SchemaLike:
    """Return a new schema that serves it."""
    pool = DescriptorPool()
    for file in calls_descriptors().file:
        pool.AddSerializedFile(file.SerializeToString())
    return SimpleNamespace(pool=pool, services={CALLS: None})


class Calls:
    """The servicer. Texts that are names of status codes fail with that code."""

    def __init__(self) -> None:
        pool = calls_schema().pool
        self.service = pool.FindServiceByName(CALLS)
        self.Note: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("calls.v1.Note"))
        self.metadata: list[tuple[str, str | bytes]] = []
        """Of the last call."""

    async def Unary(self, request: Any, context: Any) -> Any:
        self.metadata = [(name, value) for name, value in context.invocation_metadata()]
        if code := grpc.StatusCode.__members__.get(request.text):
            await _fail(context, code)
        if request.text == "forever":
            await asyncio.Event().wait()
        request.count += 1
        return request

    async def Many(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for number in range(request.count):
            yield self.Note(text=request.text, count=number)
        if code := grpc.StatusCode.__members__.get(request.text):
            await _fail(context, code)

    async def Sum(self, requests: AsyncIterator[Any], context: Any) -> Any:
        notes = [note async for note in requests]
        return self.Note(text="".join(note.text for note in notes), count=sum(note.count for note in notes))

    async def Chat(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for note in requests:
            yield self.Note(text=note.text, count=note.count + 1)
            if note.text == "bye":
                return

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what a server takes."""
        made = {}
        for method in self.service.methods:
            kind = (
                f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
            )
            make = getattr(grpc, f"{kind}_rpc_method_handler")
            made[method.name] = make(getattr(self, method.name), self.Note.FromString, self.Note.SerializeToString)
        return grpc.method_handlers_generic_handler(CALLS, made)


@contextlib.asynccontextmanager
async def serving(*handlers: grpc.GenericRpcHandler) -> AsyncIterator[str]:
    """Yield the address of a real server with these handlers."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def _fail(context: Any, code: grpc.StatusCode) -> None:
    told = error_details_pb2.ErrorInfo(reason="ASKED_FOR", domain="calls", metadata={"code": code.name})
    status = status_pb2.Status(code=code.value[0], message=f"you asked for {code.name}")
    packed = any_pb2.Any()
    packed.Pack(told)
    status.details.append(packed)
    status.details.append(any_pb2.Any(type_url="type.googleapis.com/no.such.Type", value=b"\x08\x01"))
    trailers: Sequence[tuple[str, str | bytes]] = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, status.message, trailers)
