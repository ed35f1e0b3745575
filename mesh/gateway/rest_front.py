"""REST, Connect and gRPC-Web: HTTP requests for the methods of deployed services.

Owns such a request's way from its match to its answer: metadata, body, streams both ways. What a body means is in
`rest_wires`. Called by `http_front` for routes that have services.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from mesh.errors import DeadlineExceeded, HandlerFailed, InvalidConfig, MeshError, NotFound, Problem
from mesh.gateway import answer
from mesh.gateway.answer import ClientGone, MethodFailed, MethodNotAllowed, PayloadTooLarge
from mesh.gateway.exchange import Exchange
from mesh.gateway.heads import RequestHead
from mesh.gateway.http_request import Request
from mesh.gateway.pipeline import Pipeline, Route
from mesh.gateway.rest_table import Endpoint, Found
from mesh.gateway.rest_wires import ConnectWire, Headers, JsonWire, WebWire, Wire, connect_refusal, metadata_of, pairs
from mesh.pipe.call import OPEN_BYTES_MAX, Call
from mesh.pipe.messages import Messages, framed
from mesh.transcode.router import MalformedPath, Match, WrongMethod
from mesh.transcode.streams import LineSplitter
from mesh.v1 import replica_service_pb2 as pb

log = logging.getLogger("mesh.gateway")

CONVERT_BYTES_MAX = 64 * 1024
"""Larger bodies are converted in a thread: JSON of megabytes takes long, and other requests go on meanwhile."""


class RestFront:
    """Serves requests that a `RestTable` was asked about."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._bytes_max = pipeline.settings.message_bytes_max

    async def serve(self, request: Request, head: RequestHead, route: Route, found: Found) -> int:
        """Answer a request and return the HTTP status. Raises MeshError where nothing was answered yet."""
        if not isinstance(found, Match):
            raise _not_found(request, found)
        endpoint, fields = found.value, _Fields(request.scope["headers"])
        try:
            wire = _wire(request, endpoint, found.captures, fields)
        except MeshError as error:
            if fields.connect:
                return await _refuse(request, connect_refusal(error, request.request_id, endpoint.codecs.pool))
            raise
        try:
            return await self._serve(request, head, route, wire, endpoint, fields)
        except MeshError as error:
            if request.started or isinstance(error, ClientGone):
                raise
            _log_failure(error, request)
            return await _refuse(request, wire.refusal(error, request.request_id))

    async def _serve(
        self, request: Request, head: RequestHead, route: Route, wire: Wire, endpoint: Endpoint, fields: _Fields
    ) -> int:
        method = endpoint.method
        timeout_s = min(t for t in (route.timeout_s, head.timeout_s, fields.timeout_s) if t)
        length = head.content_length
        body_follows = length > 0 or head.chunked or (length < 0 and request.scope["http_version"] == "2")
        frame = _open_frame(request, head, endpoint, timeout_s)
        if not body_follows:
            # What the client got wrong is told before anything is admitted.
            payload = b"" if method.client_streaming else framed(wire.request(b""))
            frame.open.data, frame.open.end = payload, True
        call = Call(frame, route.dispatcher.loop, idempotent=method.idempotent, body_follows=body_follows)
        route.dispatcher.submit(call, request.request_id)
        exchange = Exchange(self._pipeline.exchanges, route.dispatcher, call, timeout_s)
        upload: asyncio.Task[None] | None = None
        try:
            if body_follows:
                upload = await self._send_body(request, route, wire, endpoint, exchange)
            else:
                exchange.watch(request.disconnected)
            reply = await call.head
            if method.server_streaming:
                return await self._stream(request, wire, reply, exchange)
            return await self._unary(request, wire, reply, call)
        finally:
            exchange.end()
            if upload is not None:
                upload.cancel()

    async def _send_body(
        self, request: Request, route: Route, wire: Wire, endpoint: Endpoint, exchange: Exchange
    ) -> asyncio.Task[None] | None:
        """Once a slot is held, read and convert the body and open the call."""
        call, tasks = exchange.call, self._pipeline.tasks
        exchange.watch(request.early_body)
        await call.granted()
        exchange.watch(None)
        if endpoint.method.client_streaming:
            if not isinstance(wire, JsonWire):
                raise HandlerFailed("streams of requests come as JSON lines only")
            wire.check_lines()
            route.dispatcher.open(call, b"", end=False)
            return tasks.spawn(self._upload_lines(request, wire, exchange), name="upload")
        body = await self._whole_body(request, exchange)
        payload = framed(await _converted(wire.request, body))
        if len(payload) <= OPEN_BYTES_MAX:
            route.dispatcher.open(call, payload, end=True)
            exchange.watch(request.disconnected)
            return None
        route.dispatcher.open(call, b"", end=False)
        exchange.watch(request.disconnected)
        return tasks.spawn(_upload(call, payload), name="upload")

    async def _whole_body(self, request: Request, exchange: Exchange) -> bytes:
        """Return a whole body. Raises PayloadTooLarge, BodyTimeout, ClientGone."""
        parts: list[bytes] = []
        total, more = 0, True
        try:
            async with asyncio.timeout(None) as limit:
                exchange.reading(limit)
                exchange.await_body()
                while more:
                    data, more = await request.read()
                    if data:
                        total += len(data)
                        if total > self._bytes_max:
                            raise PayloadTooLarge(f"the body is larger than {self._bytes_max} bytes")
                        parts.append(data)
                        exchange.body_came()
                        exchange.await_body()
                exchange.reading(None)
        except TimeoutError:
            raise exchange.error or DeadlineExceeded("the body took too long") from None
        exchange.body_over()
        request.body_over()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _upload_lines(self, request: Request, wire: JsonWire, exchange: Exchange) -> None:
        """Carry the messages of a stream of JSON lines to the replica as it reads them."""
        call, splitter = exchange.call, LineSplitter(self._bytes_max)
        try:
            await call.wait_accepted()
            more = True
            while more:
                exchange.await_body()
                data, more = await request.read()
                if data:
                    exchange.body_came()
                lines = splitter.feed(data) if data else []
                for line in lines if more else (*lines, *splitter.end()):
                    if not await call.write(framed(await _converted(wire.line, line)), end=False):
                        return
            exchange.body_over()
            request.body_over()
            exchange.watch(request.disconnected)
            await call.write(b"", end=True)
        except MeshError as error:
            exchange.give_up(error)

    async def _unary(self, request: Request, wire: Wire, reply: pb.Head, call: Call) -> int:
        """Answer with the one message of a call."""
        messages = Messages(self._bytes_max)
        while data := await call.read():
            messages.feed(data)
            messages.check()
        message, trailers = messages.next(), _checked(call, reply)
        if message is None:
            raise HandlerFailed("the application answered OK without a message")
        body = await _converted(wire.response, message)
        if isinstance(wire, WebWire):
            body += wire.end(trailers.metadata, first=False)
        headers: Headers = [(b"content-type", wire.content_type), (b"content-length", b"%d" % len(body))]
        headers += (*pairs(reply.headers), *wire.headers(trailers.metadata))
        await _start(request, 200, headers)
        await request.send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})
        return 200

    async def _stream(self, request: Request, wire: Wire, reply: pb.Head, exchange: Exchange) -> int:
        """Answer with the messages of a call as the client takes them."""
        call = exchange.call
        if reply.HasField("trailers"):
            _checked(call, reply)
        messages, first, started = Messages(self._bytes_max), True, False
        try:
            async with asyncio.timeout(None) as limit:
                exchange.streaming(limit)
                while data := await call.read():
                    messages.feed(data)
                    while (message := messages.next()) is not None:
                        item = await _converted(partial(wire.item, first=first), message)
                        if not started:  # an HttpBody says its type with the first item
                            await _start(request, 200, [(b"content-type", wire.content_type), *pairs(reply.headers)])
                            started = True
                        first = False
                        await request.send({"type": "http.response.body", "body": item, "more_body": True})
                    exchange.progressed()
                last = wire.end(_checked(call, reply).metadata, first=first)
        except TimeoutError:
            error: MeshError = exchange.error or DeadlineExceeded("the answer took too long")
            if not started or isinstance(error, ClientGone):
                raise error from None
            last = wire.broken(error, request.request_id, first=first)
        except MeshError as failure:
            if not started or isinstance(failure, ClientGone):
                raise
            _log_failure(failure, request)
            last = wire.broken(failure, request.request_id, first=first)
        if not started:
            await _start(request, 200, [(b"content-type", wire.content_type), *pairs(reply.headers)])
        await request.send({"type": "http.response.body", "body": last})
        return 200


class _Fields:
    """The headers that decide how a request is read."""

    __slots__ = ("accept", "connect", "content_encoding", "content_type", "timeout_s")

    def __init__(self, headers: Any) -> None:
        self.accept = self.content_type = self.content_encoding = ""
        self.connect = False
        self.timeout_s = 0.0
        for name, value in headers:
            if name == b"content-type":
                self.content_type = value.decode("latin-1")
            elif name == b"accept":
                self.accept += "," + value.decode("latin-1") if self.accept else value.decode("latin-1")
            elif name == b"content-encoding":
                self.content_encoding = value.decode("latin-1").strip().lower()
            elif name == b"connect-protocol-version":
                self.connect = True
            elif name == b"connect-timeout-ms":
                self.timeout_s = _milliseconds(value)
            elif name == b"grpc-timeout":
                self.timeout_s = _grpc_timeout(value)


_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def _milliseconds(value: bytes) -> float:
    if not value.isdigit() or len(value) > 10:
        raise InvalidConfig((Problem("connect-timeout-ms", "must be a number of at most ten digits"),))
    return max(int(value), 1) / 1000


def _grpc_timeout(value: bytes) -> float:
    digits, unit = value[:-1], value[-1:]
    if not digits.isdigit() or len(digits) > 8 or unit not in _UNITS:
        raise InvalidConfig((Problem("grpc-timeout", "must be at most eight digits and one of H M S m u n"),))
    return max(int(digits) * _UNITS[unit], 0.001)


def _wire(request: Request, endpoint: Endpoint, captures: tuple[tuple[str, str], ...], fields: _Fields) -> Wire:
    """Return the form that a request is in. Raises RequestRefused, NotFound or InvalidConfig."""
    if fields.content_encoding not in ("", "identity"):
        raise answer.MediaUnsupported(
            f"bodies with the content encoding {fields.content_encoding[:40]!r} are not taken"
        )
    if endpoint.is_rpc_path:
        media = fields.content_type.lstrip().lower()
        streams = endpoint.method.client_streaming or endpoint.method.server_streaming
        if media.startswith("application/grpc-web"):
            if endpoint.method.client_streaming:
                raise answer.Unsupported("gRPC-Web has no streams of requests")
            return WebWire(endpoint, fields.content_type)
        if fields.connect or media.startswith("application/proto"):
            if streams:
                raise answer.MediaUnsupported(
                    "of Connect's forms only the unary one is served, and this method streams"
                )
            return ConnectWire(endpoint, fields.content_type)
    return JsonWire(endpoint, captures, request.scope["query_string"], fields.content_type, fields.accept)


def _open_frame(request: Request, head: RequestHead, endpoint: Endpoint, timeout_s: float) -> pb.RequestFrame:
    frame = pb.RequestFrame()
    to = frame.open
    to.grpc = True
    to.raw_path = endpoint.method.rpc_path.encode()
    to.headers.extend((*metadata_of(head.passed), b"x-request-id", request.request_id.encode()))
    to.request_id = request.request_id
    to.timeout_ms = min(math.ceil(timeout_s * 1000), 0xFFFFFFFF)
    to.client = f"{request.client}:{request.scope['client'][1]}" if request.client else ""
    return frame


def _not_found(request: Request, found: Any) -> MeshError:
    """Return what to say where no endpoint was found."""
    path = request.scope["raw_path"].decode("utf-8", "replace")[:200]
    if isinstance(found, WrongMethod):
        return MethodNotAllowed(f"{path!r} has no {request.method}", allow=", ".join(found.allow))
    if isinstance(found, MalformedPath):
        return InvalidConfig((Problem("path", found.reason),))
    return NotFound(f"no method is served at {path!r}", hint="/-/openapi.json lists the methods")


def _checked(call: Call, reply: pb.Head) -> pb.Trailers:
    """Return the end of an answer. Raises MethodFailed if its status is not OK."""
    trailers = call.trailers if call.trailers is not None else reply.trailers
    if trailers.code:
        flat = tuple(trailers.metadata)
        found = (value for name, value in zip(flat[::2], flat[1::2], strict=True) if name == b"grpc-status-details-bin")
        raise MethodFailed(trailers.code, trailers.message, next(found, b""), flat)
    return trailers


async def _converted(convert: Callable[[bytes], bytes], data: bytes) -> bytes:
    """Convert a body; a large one in a thread."""
    if len(data) <= CONVERT_BYTES_MAX:
        return convert(data)
    return await asyncio.to_thread(convert, data)


async def _upload(call: Call, payload: bytes) -> None:
    with contextlib.suppress(MeshError):  # whoever waits for the answer sees it
        await call.wait_accepted()
        await call.write(payload, end=True)


async def _start(request: Request, status: int, headers: Headers) -> None:
    headers.append((b"x-request-id", request.request_id.encode()))
    try:
        await request.send({"type": "http.response.start", "status": status, "headers": headers})
    except RuntimeError:
        raise HandlerFailed("a header of the answer has characters that HTTP does not allow") from None
    request.started = True


def _log_failure(error: MeshError, request: Request) -> None:
    """Log an error whose reason clients are not told."""
    told = answer.outcome(error)
    if told.status in (500, 502) and not isinstance(error, MethodFailed):
        fields = {"request_id": request.request_id, "route": request.route, "reason": told.reason}
        log.error("request failed: %s", error.message, extra=fields)


async def _refuse(request: Request, refusal: tuple[int, Headers, bytes]) -> int:
    status, headers, body = refusal
    request.started = True
    await request.send({"type": "http.response.start", "status": status, "headers": headers})
    await request.send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})
    return status
