"""gRPC's interop TestService, on the generated base class: a plain servicer, and the deployment `app` of it.

Does what the public description of the interoperability tests demands of a server, except for two things that no
Python server can: it is not told whether a request message was compressed, so `expect_compressed` is not checked; and
nobody is authenticated, so `username` and `oauth_scope` stay empty. `UnimplementedCall` is left to the base class,
whose method is an ordinary function among coroutines.

Import it only when the generated modules can be imported (`interop_protos`). It needs nothing else of the tests: a copy
beside the generated code is a working directory to deploy.
"""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from protos.grpc.testing import empty_pb2, messages_pb2, test_pb2_grpc  # type: ignore[import-untyped]

import mesh

ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_SERVER_ID = uuid.uuid4().hex

Context = Any
"""grpc.aio.ServicerContext; its type stubs lack methods that are used here."""


class TestService(test_pb2_grpc.TestServiceServicer):  # type: ignore[misc]
    """All methods but the one that must not exist."""

    __test__ = False  # a service, not a case for pytest

    async def EmptyCall(self, request: Any, context: Context) -> Any:
        await _echo_metadata(context)
        return empty_pb2.Empty()

    async def UnaryCall(self, request: Any, context: Context) -> Any:
        _compress(context, [request.response_compressed])
        await _echo_metadata(context)
        await _echo_status(request, context)
        response = messages_pb2.SimpleResponse(
            payload=await _payload(request.response_type, request.response_size, context)
        )
        if request.fill_server_id:
            response.server_id = _SERVER_ID
            response.hostname = socket.gethostname()
        return response

    async def CacheableUnaryCall(self, request: Any, context: Context) -> Any:
        await _echo_metadata(context, ("cache-control", "max-age=60, public"))
        return messages_pb2.SimpleResponse(payload=messages_pb2.Payload(body=str(time.time_ns()).encode()))

    async def StreamingOutputCall(self, request: Any, context: Context) -> AsyncIterator[Any]:
        _compress(context, [wanted.compressed for wanted in request.response_parameters])
        await _echo_metadata(context)
        await _echo_status(request, context)
        async for response in _responses(request, context):
            yield response

    async def StreamingInputCall(self, request_iterator: AsyncIterator[Any], context: Context) -> Any:
        await _echo_metadata(context)
        size = 0
        async for request in request_iterator:
            size += len(request.payload.body)
        return messages_pb2.StreamingInputCallResponse(aggregated_payload_size=size)

    async def FullDuplexCall(self, request_iterator: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        async for request in request_iterator:
            await _echo_status(request, context)
            async for response in _responses(request, context):
                yield response

    async def HalfDuplexCall(self, request_iterator: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        for request in [request async for request in request_iterator]:
            await _echo_status(request, context)
            async for response in _responses(request, context):
                yield response


app = mesh.deployment(max_ongoing_requests=1000)(TestService).bind()


async def _responses(request: Any, context: Context) -> AsyncIterator[Any]:
    for wanted in request.response_parameters:
        if wanted.interval_us:
            await asyncio.sleep(wanted.interval_us / 1e6)
        if not wanted.compressed.value:
            context.disable_next_message_compression()
        payload = await _payload(request.response_type, wanted.size, context)
        yield messages_pb2.StreamingOutputCallResponse(payload=payload)


async def _payload(kind: int, size: int, context: Context) -> Any:
    if kind != messages_pb2.COMPRESSABLE:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no payload of type {kind}")
    return messages_pb2.Payload(type=kind, body=bytes(size))


def _compress(context: Context, wishes: Iterable[Any]) -> None:
    """Let the answer use gzip if any of its messages shall; before the initial metadata."""
    if any(wish.value for wish in wishes):
        context.set_compression(grpc.Compression.Gzip)


async def _echo_metadata(context: Context, *more: tuple[str, str]) -> None:
    """Send back the two keys of the description: one before the first message, one after the last."""
    received = context.invocation_metadata()
    await context.send_initial_metadata((*((key, value) for key, value in received if key == ECHO_INITIAL), *more))
    context.set_trailing_metadata(tuple((key, value) for key, value in received if key == ECHO_TRAILING))


async def _echo_status(request: Any, context: Context) -> None:
    if request.HasField("response_status") and request.response_status.code:
        await context.abort(_CODES[request.response_status.code], request.response_status.message)
