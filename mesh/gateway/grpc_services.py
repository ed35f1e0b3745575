"""Native gRPC: calls of any deployed service, of all four kinds, carried to a replica and back.

Owns gRPC's side of such a call: metadata both ways, deadline, status, trailers, message framing. The bytes of
messages pass untouched. All policy is in `pipeline` and below. Added to the listener by `grpc_front`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any

import grpc

from mesh.errors import DeadlineExceeded, HandlerFailed, MeshError
from mesh.gateway import answer
from mesh.gateway.exchange import Exchange
from mesh.gateway.grpc_status import (
    APPLICATION_METADATA,
    MODEL_ID_METADATA,
    REQUEST_ID_METADATA,
    Told,
    check_message,
    log_failure,
    peer_address,
    refuse,
)
from mesh.gateway.heads import HOP_BY_HOP, joined_model_id, request_id
from mesh.gateway.pipeline import Pipeline, Route
from mesh.gateway.traffic import Traffic
from mesh.pipe.call import OPEN_BYTES_MAX, Call
from mesh.pipe.messages import PREFIX_BYTES, Messages, framed, sole
from mesh.v1 import replica_service_pb2 as pb

_STATUSES = {code.value[0]: code for code in grpc.StatusCode}
_NOT_PASSED = frozenset(name.decode() for name in HOP_BY_HOP) | {
    "host",
    "content-type",
    "content-length",
    "x-request-id",
    "x-forwarded-for",
    APPLICATION_METADATA,
    *MODEL_ID_METADATA,
}
_RESERVED = ("grpc-", "x-mesh-", ":")
_NOT_ANSWERED = HOP_BY_HOP | {b"host", b"content-type", b"content-length", b"user-agent", b"x-request-id"}
_OF_USER_CODE = (b"grpc-status-details-bin", b"grpc-retry-pushback-ms")
"""Trailing metadata with gRPC's own names that user code may set."""

BREAK_S, BREAK_READS = 0.001, 3
"""How long the end of a client's messages is not believed yet: seconds, so many times, with a look between."""

log = logging.getLogger("mesh.gateway")


class Services(grpc.GenericRpcHandler):
    """Answers for every service that some application serves."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._traffic = Traffic("grpc", pipeline.clock)
        self._unary = _Handlers(self._serve_unary, unary=True)
        self._streaming = _Handlers(self._serve_streaming, unary=False)

    def service(self, details: Any) -> Any:
        """Return the handler of a method, None if nobody ever heard of its service."""
        path: str = details.method
        streaming = self._pipeline.services.streaming(path)
        if streaming is None:
            if self._pipeline.generation.epoch:
                return None
            streaming = True  # nothing is known yet: the handler says so
        return (self._streaming if streaming else self._unary)[path]

    async def _serve_unary(self, path: str, request: bytes, context: Any) -> bytes:
        answered: bytes = await self._counted(
            path, context, lambda told: self._unary_call(path, request, context, told)
        )
        return answered

    async def _serve_streaming(self, path: str, _: Any, context: Any) -> None:
        await self._counted(path, context, lambda told: self._stream(path, context, told))

    async def _counted(self, path: str, context: Any, work: Callable[[Told], Awaitable[Any]]) -> Any:
        """Run one call; tell the client of errors; count it."""
        pipeline = self._pipeline
        started = pipeline.clock.monotonic()
        told = Told()
        code = "CANCELLED"  # what it stays when the client cancels
        try:
            pipeline.enter()
            try:
                result = await work(told)
                code = told.code
            finally:
                pipeline.leave()
        except MeshError as error:
            told.request_id = told.request_id or pipeline.clock.request_id()
            code = answer.outcome(error).code
            log_failure(error, told)
            await refuse(context, error, told.request_id)
        except grpc.aio.AbortError:  # the status that user code set
            code = told.code
            raise
        except grpc.aio.InternalError:
            # A write found the client gone, and grpc is about to cancel this; it could not send a status.
            await asyncio.Event().wait()
            raise
        except Exception as error:
            code = "INTERNAL"
            told.request_id = told.request_id or pipeline.clock.request_id()
            log.exception("call failed", extra={"request_id": told.request_id, "route": told.route})
            await refuse(context, HandlerFailed(str(error)), told.request_id)
        finally:
            self._traffic.count(told.route, path, code, started)
            if self._traffic.access_log:
                self._traffic.log("gRPC", path, code, started, told.request_id)
        return result

    async def _unary_call(self, path: str, request: bytes, context: Any, told: Told) -> bytes:
        small = len(request) + PREFIX_BYTES <= OPEN_BYTES_MAX
        call, route, exchange = self._begin(path, context, told, streams=False, body_follows=not small)
        if small:
            call.frame.open.data = framed(request)
            call.frame.open.end = True
        upload: asyncio.Task[None] | None = None
        try:
            bytes_max = self._pipeline.settings.message_bytes_max
            check_message(len(request), bytes_max)
            route.dispatcher.submit(call, told.request_id)
            if not small:
                await call.granted()
                route.dispatcher.open(call, b"", end=False)
                upload = self._pipeline.tasks.spawn(_upload_one(call, request), name="upload")
            head = await call.head
            message = sole(head.data, bytes_max) if head.end else None
            if message is None:
                message = await _only_message(call, context, bytes_max)
            if head.headers or head.compression:
                await _send_head(context, head)
            await _end(context, _trailers(call, head), told)
            return message
        finally:
            exchange.end()
            if upload is not None:
                upload.cancel()

    async def _stream(self, path: str, context: Any, told: Told) -> None:
        call, route, exchange = self._begin(path, context, told, streams=True, body_follows=True)
        upload: asyncio.Task[None] | None = None
        try:
            route.dispatcher.submit(call, told.request_id)
            await call.granted()
            route.dispatcher.open(call, b"", end=False)
            bytes_max = self._pipeline.settings.message_bytes_max
            upload = self._pipeline.tasks.spawn(_upload(call, context, exchange, bytes_max), name="upload")
            head = await call.head
            await _send_head(context, head)
            messages = Messages(bytes_max)
            async with asyncio.timeout(None) as limit:
                exchange.streaming(limit)
                while data := await call.read():
                    messages.feed(data)
                    while (message := messages.next()) is not None:
                        if messages.plain:
                            context.disable_next_message_compression()
                        await context.write(message)
                    exchange.progressed()
            await _end(context, _trailers(call, head), told)
        except TimeoutError:
            raise exchange.error or DeadlineExceeded("the call took too long") from None
        finally:
            exchange.end()
            if upload is not None:
                upload.cancel()

    def _begin(
        self, path: str, context: Any, told: Told, *, streams: bool, body_follows: bool
    ) -> tuple[Call, Route, Exchange]:
        """Find the route and make the call, ready to be submitted."""
        pipeline = self._pipeline
        metadata = context.invocation_metadata() or ()
        passed, application, model_id = _passed(metadata, told)
        told.request_id = told.request_id or pipeline.clock.request_id()
        pipeline.require_snapshot()
        route = pipeline.services.route(path, application)
        told.route = route.prefix or "/"
        left_s = context.time_remaining()
        timeout_s = route.timeout_s if left_s is None else left_s if streams else min(left_s, route.timeout_s)
        if timeout_s <= 0:
            raise DeadlineExceeded("the deadline passed before the call came")
        frame = pb.RequestFrame()
        to = frame.open
        to.grpc = True
        to.raw_path = path.encode()
        to.request_id = told.request_id
        to.client, address = _client(context.peer())
        to.headers.extend((*passed, b"x-request-id", told.request_id.encode(), b"x-forwarded-for", address))
        if left_s is not None or not streams:
            to.timeout_ms = min(math.ceil(timeout_s * 1000), 0xFFFFFFFF)
        idempotent = not streams and pipeline.services.idempotent(path)
        call = Call(frame, route.dispatcher.loop, idempotent=idempotent, body_follows=body_follows)
        call.single = True
        if model_id:
            call.for_model(model_id)
        return call, route, Exchange(pipeline.exchanges, route.dispatcher, call, timeout_s)


class _Handlers(dict[str, Any]):
    """grpcio's handler objects by path, made when first asked for."""

    def __init__(self, serve: Callable[[str, Any, Any], Awaitable[Any]], *, unary: bool) -> None:
        super().__init__()
        self._serve = serve
        self._unary = unary

    def __missing__(self, path: str) -> Any:
        async def serve(request: Any, context: Any) -> Any:
            return await self._serve(path, request, context)

        make = grpc.unary_unary_rpc_method_handler if self._unary else grpc.stream_stream_rpc_method_handler
        handler = self[path] = make(serve, request_deserializer=None, response_serializer=None)
        return handler


def _passed(metadata: Iterable[tuple[str, Any]], told: Told) -> tuple[list[bytes], str | None, str]:
    """Return what of a call's metadata goes to the replica, flat, and the application and model that it names."""
    passed: list[bytes] = []
    application: str | None = None
    model_id = ""
    for name, value in metadata:
        if name in _NOT_PASSED or name.startswith(_RESERVED):
            if name == APPLICATION_METADATA:
                application = str(value)
            elif name == REQUEST_ID_METADATA:
                told.request_id = request_id(str(value).encode())
            elif name in MODEL_ID_METADATA:
                model_id = joined_model_id(model_id, name.encode(), str(value).encode())
            continue
        passed.append(name.encode())
        passed.append(value if isinstance(value, bytes) else value.encode())
    return passed, application, model_id


@lru_cache(maxsize=1024)
def _client(peer: str) -> tuple[str, bytes]:
    """Return a client as host:port and its address alone. It is the same for all calls of a connection."""
    return peer.partition(":")[2].replace("%5B", "[").replace("%5D", "]"), peer_address(peer).encode()


async def _only_message(call: Call, context: Any, bytes_max: int) -> bytes:
    """Return the one message of an answer, b"" if there is none. Raises MessageTooLarge."""
    messages = Messages(bytes_max)
    while data := await call.read():
        messages.feed(data)
        messages.check()
    message = messages.next()
    if messages.plain:
        context.disable_next_message_compression()
    return message or b""


async def _send_head(context: Any, head: pb.Head) -> None:
    if head.compression:
        context.set_compression(grpc.Compression(head.compression))
    if head.headers or head.compression:  # what is set counts with the initial metadata only
        await context.send_initial_metadata(_pairs(head.headers))


def _trailers(call: Call, head: pb.Head) -> pb.Trailers:
    return call.trailers if call.trailers is not None else head.trailers


async def _end(context: Any, trailers: pb.Trailers, told: Told) -> None:
    """Give the client the status as user code set it. Raises AbortError if that is not OK."""
    metadata = _pairs(trailers.metadata) if trailers.metadata else ()
    metadata = (*metadata, (REQUEST_ID_METADATA, told.request_id))
    if not trailers.code:
        context.set_trailing_metadata(metadata)
        if trailers.message:
            context.set_details(trailers.message)
        return
    code = _STATUSES.get(trailers.code, grpc.StatusCode.UNKNOWN)
    told.code = code.name
    await context.abort(code, trailers.message, metadata)


def _pairs(flat: Iterable[bytes]) -> tuple[tuple[str, str | bytes], ...]:
    """Return metadata of user code for grpcio, without names that are mesh's or gRPC's own."""
    parts = list(flat)
    return tuple(
        (name.decode("ascii"), value if name.endswith(b"-bin") else value.decode("ascii"))
        for name, value in zip(parts[::2], parts[1::2], strict=True)
        if name in _OF_USER_CODE or not (name.startswith((b"grpc-", b"x-mesh-", b":")) or name in _NOT_ANSWERED)
    )


async def _upload_one(call: Call, request: bytes) -> None:
    """Carry one large request message to the replica."""
    try:
        await call.wait_accepted()
        await call.write(framed(request), end=True)
    except MeshError:
        return  # whoever waits for the answer sees it


async def _upload(call: Call, context: Any, exchange: Exchange, bytes_max: int) -> None:
    """Carry a client's messages to the replica as it reads them."""
    try:
        await call.wait_accepted()
        while (message := await context.read()) is not grpc.aio.EOF:
            exchange.progressed()
            check_message(len(message), bytes_max)
            if not await call.write(framed(message), end=False):
                return
        # grpc.aio tells of a client that broke off by the end of its messages first; a moment later we are cancelled.
        # How long that is depends on how busy this machine is: what is read meanwhile has the same way to go as that
        # word. A method must not take half a stream for the whole.
        for _ in range(BREAK_READS):
            await asyncio.sleep(BREAK_S)
            await context.read()
        await call.write(b"", end=True)
    except MeshError as error:
        exchange.give_up(error)
    except (grpc.aio.BaseError, asyncio.InvalidStateError):
        return  # the call is over: its other half tells
