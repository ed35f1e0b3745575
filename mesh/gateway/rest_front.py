"""REST, Connect and gRPC-Web: HTTP requests for the methods of deployed services.

Owns such a request's way from its match to its answer: metadata, body, streams both ways. What a body means is in
`rest_wires`. Called by `http_front` for routes that have services.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from mesh.errors import DeadlineExceeded, HandlerFailed, InvalidConfig, MeshError, NotFound, Problem
from mesh.gateway import answer
from mesh.gateway.answer import BodyBroken, BodyTimeout, ClientGone, MethodFailed, MethodNotAllowed, PayloadTooLarge
from mesh.gateway.exchange import Exchange
from mesh.gateway.heads import RequestHead
from mesh.gateway.http_request import Request, check_end, read_body
from mesh.gateway.pipeline import Pipeline, Route
from mesh.gateway.rest_heads import Fields, Headers, metadata_of, pairs
from mesh.gateway.rest_table import Endpoint, Found
from mesh.gateway.rest_wires import ConnectWire, JsonWire, StreamWire, WebWire, Wire, connect_refusal
from mesh.pipe.call import OPEN_BYTES_MAX, Call
from mesh.pipe.messages import Messages, framed
from mesh.pipe.retry import IDEMPOTENT
from mesh.transcode.refusals import RequestRefused
from mesh.transcode.router import MalformedPath, Match, WrongMethod
from mesh.transcode.streams import LineSplitter
from mesh.v1 import replica_service_pb2 as pb

log = logging.getLogger("mesh.gateway")

CONVERT_BYTES_MAX = 64 * 1024
"""Larger bodies are converted in a thread: JSON of megabytes takes long, and other requests go on meanwhile."""
LAST_WORDS_S = 5.0
"""Seconds in which a client takes the end of a stream that failed, else the connection is broken off."""
_NOT_TOLD_HERE = (ClientGone, BodyBroken, BodyTimeout)
"""What ends the connection too; `http_front` does that."""


class RestFront:
    """Serves requests that a `RestTable` was asked about."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._message_bytes_max = pipeline.settings.message_bytes_max
        # As text a message may be a third longer: base64.
        self._body_bytes_max = self._message_bytes_max * 4 // 3 + 16

    async def serve(self, request: Request, head: RequestHead, route: Route, found: Found) -> int:
        """Answer a request and return the HTTP status. Raises MeshError where nothing was answered yet."""
        if not isinstance(found, Match):
            raise _not_found(request, found)
        endpoint, fields = found.value, Fields(request.scope["headers"])
        wire: Wire | None = None
        try:
            wire = _wire(request, endpoint, found.captures, fields)
            _check_kind(wire, endpoint, fields)
            return await self._serve(request, head, route, wire, endpoint, fields.timeout_s())
        except MeshError as error:
            if request.started or isinstance(error, _NOT_TOLD_HERE):
                raise
            if wire is None and not fields.connect_version:
                raise
            _log_failure(error, request)
            if wire is None:
                refusal = connect_refusal(error, request.request_id, endpoint.codecs.pool)
            else:
                refusal = wire.refusal(error, request.request_id)
            return await _refuse(request, refusal, last=answer.outcome(error).status == 413)

    async def _serve(
        self, request: Request, head: RequestHead, route: Route, wire: Wire, endpoint: Endpoint, asked_s: float
    ) -> int:
        method, length = endpoint.method, head.content_length
        if length > self._body_bytes_max and not method.client_streaming:
            raise PayloadTooLarge(f"the body is larger than {self._body_bytes_max} bytes")
        asked_s = min(asked_s, head.timeout_s) if asked_s and head.timeout_s else asked_s or head.timeout_s
        timeout_s = min(asked_s, route.timeout_s) if asked_s else route.timeout_s
        body_follows = length > 0 or head.chunked or (length < 0 and request.scope["http_version"] == "2")
        streams = method.client_streaming or method.server_streaming
        frame = _open_frame(request, head, endpoint, asked_s if streams else timeout_s)
        if not body_follows:
            # What the client got wrong is told before anything is admitted.
            frame.open.data, frame.open.end = self._without_body(wire, endpoint), True
        idempotent = method.idempotent or request.method in IDEMPOTENT
        call = Call(frame, route.dispatcher.loop, idempotent=idempotent, body_follows=body_follows)
        if head.model_id:
            call.for_model(head.model_id)
        call.single = body_follows  # each body comes by a wake-up of its own
        route.dispatcher.submit(call, request.request_id)
        exchange = Exchange(self._pipeline.exchanges, route.dispatcher, call, timeout_s)
        upload: asyncio.Task[None] | None = None
        until: asyncio.TimerHandle | None = None
        try:
            if asked_s and method.server_streaming:  # the client means all of the stream, and not only its beginning
                error = DeadlineExceeded(f"the request took longer than {asked_s:g} s")
                until = route.dispatcher.loop.call_later(asked_s, exchange.give_up, error)
            if body_follows:
                upload = await self._send_body(request, head, route, wire, endpoint, exchange)
            else:
                exchange.watch(request.disconnected)
            reply = await call.head
            if method.server_streaming:
                assert isinstance(wire, (JsonWire, WebWire))  # Connect's was refused
                return await self._stream(request, wire, reply, exchange)
            return await self._unary(request, wire, reply, call)
        finally:
            exchange.end()
            if upload is not None:
                upload.cancel()
            if until is not None:
                until.cancel()

    def _without_body(self, wire: Wire, endpoint: Endpoint) -> bytes:
        """Return the messages of a request without a body, framed."""
        if not endpoint.method.client_streaming:
            return framed(wire.request(b""))
        # What the path says of an upload counts also if there is nothing in it.
        return framed(wire.part(b"")) if isinstance(wire, JsonWire) and wire.raw else b""

    async def _send_body(
        self, request: Request, head: RequestHead, route: Route, wire: Wire, endpoint: Endpoint, exchange: Exchange
    ) -> asyncio.Task[None] | None:
        """Once a slot is held, read and convert the body and open the call."""
        call, tasks, length = exchange.call, self._pipeline.tasks, head.content_length
        exchange.watch(request.early_body)
        await call.granted()
        exchange.watch(None)
        if endpoint.method.client_streaming:
            assert isinstance(wire, JsonWire)  # the others were refused
            wire.check_stream()
            route.dispatcher.open(call, b"", end=False)
            return tasks.spawn(self._upload_stream(request, length, wire, exchange), name="upload")
        body, _ = await read_body(request, exchange, length, self._body_bytes_max)
        if body:
            await check_end(request, exchange, length - len(body))
        payload = framed(self._bounded(await _converted(wire.request, body)))
        if len(payload) <= OPEN_BYTES_MAX:
            route.dispatcher.open(call, payload, end=True)
            exchange.watch(request.disconnected)
            return None
        route.dispatcher.open(call, b"", end=False)
        exchange.watch(request.disconnected)
        return tasks.spawn(_upload(call, payload), name="upload")

    async def _upload_stream(self, request: Request, length: int, wire: JsonWire, exchange: Exchange) -> None:
        """Carry the messages of a stream, lines or raw pieces, to the replica as it reads them."""
        call = exchange.call
        splitter = None if wire.raw else LineSplitter(self._body_bytes_max)
        total, more, wanted = 0, True, True
        try:
            await call.wait_accepted()
            while more and wanted:
                exchange.await_body()
                data, more = await request.read()
                total += len(data)
                if total > self._pipeline.settings.body_bytes_max:
                    raise PayloadTooLarge(f"the body is larger than {self._pipeline.settings.body_bytes_max} bytes")
                if data:
                    exchange.body_came()
                if not more and total:
                    await check_end(request, exchange, length - total)
                for part in _parts(splitter, data, more, first=total == len(data)):
                    message = self._bounded(await _converted(wire.part, part))
                    if not (wanted := await call.write(framed(message), end=False)):
                        break
            exchange.body_over()
            request.body_over()
            exchange.watch(request.disconnected)
            if wanted:
                await call.write(b"", end=True)
        except MeshError as error:
            exchange.give_up(error)

    def _bounded(self, message: bytes) -> bytes:
        if len(message) > self._message_bytes_max:
            raise PayloadTooLarge(f"the message is larger than {self._message_bytes_max} bytes")
        return message

    async def _unary(self, request: Request, wire: Wire, reply: pb.Head, call: Call) -> int:
        """Answer with the one message of a call."""
        messages = Messages(self._message_bytes_max)
        while data := await call.read():
            messages.feed(data)
            messages.check()
        trailers = _checked(call, reply)
        message = messages.next()
        if message is None:
            raise HandlerFailed("the application answered OK without a message")
        body = await _converted(wire.response, message)
        if isinstance(wire, WebWire):
            body += wire.end(trailers.metadata, first=False)
        headers: Headers = [(b"content-type", wire.content_type), (b"content-length", b"%d" % len(body))]
        headers += (*pairs(reply.headers), *wire.headers(trailers.metadata))
        await _start(request, headers)
        await request.send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})
        return 200

    async def _stream(self, request: Request, wire: StreamWire, reply: pb.Head, exchange: Exchange) -> int:
        """Answer with the messages of a call as the client takes them."""
        if reply.HasField("trailers"):
            _checked(exchange.call, reply)
        failure: MeshError | None = None
        messages, first, last = Messages(self._message_bytes_max), True, b""
        try:
            async with asyncio.timeout(None) as limit:
                exchange.streaming(limit)
                while (message := await _next_message(exchange, messages)) is not None:
                    item = await _converted(partial(wire.item, first=first), message)
                    if first:  # an HttpBody says its type with the first item
                        await _start(request, [(b"content-type", wire.content_type), *pairs(reply.headers)])
                        if request.method == "HEAD":
                            break
                        first = False
                    await request.send({"type": "http.response.body", "body": item, "more_body": True})
                    exchange.progressed()
                else:
                    last = wire.end(_checked(exchange.call, reply).metadata, first=first)
        except TimeoutError:
            failure = exchange.error or DeadlineExceeded("the answer took too long")
        except MeshError as error:
            failure = error
        if failure is not None:
            last = _last_words(request, wire, failure, first=first)
        if not request.started:
            await _start(request, [(b"content-type", wire.content_type), *pairs(reply.headers)])
        try:
            async with asyncio.timeout(LAST_WORDS_S if failure is not None else None):
                await request.send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else last})
        except TimeoutError:
            raise failure or ClientGone("the client does not take the end of the answer") from None
        return 200


def _wire(request: Request, endpoint: Endpoint, captures: tuple[tuple[str, str], ...], fields: Fields) -> Wire:
    """Return the form that a request is in. Raises RequestRefused."""
    if endpoint.is_rpc_path:
        media = fields.content_type.lstrip().lower()
        if media.startswith("application/grpc-web"):
            return WebWire(endpoint, fields.content_type)
        if fields.connect_version or media.startswith("application/proto"):
            return ConnectWire(endpoint, fields.content_type)
    return JsonWire(endpoint, captures, request.scope["query_string"], fields.content_type, fields.accept)


def _check_kind(wire: Wire, endpoint: Endpoint, fields: Fields) -> None:
    """Refuse what a form does not have: encodings, streams. Raises MeshError."""
    if fields.content_encoding not in (b"", b"identity"):
        encoding = fields.content_encoding[:40].decode("latin-1")
        text = f"bodies with the content encoding {encoding!r} are not taken"
        raise answer.MediaUnsupported(text) if isinstance(wire, JsonWire) else answer.Unsupported(text)
    method = endpoint.method
    if isinstance(wire, ConnectWire):
        if fields.connect_version not in (b"", b"1"):
            raise RequestRefused(400, "connect-protocol-version", "must be 1")
        if method.client_streaming or method.server_streaming:
            raise answer.MediaUnsupported("of Connect's forms only the unary one is served, and this method streams")
    elif method.client_streaming and isinstance(wire, WebWire):
        raise answer.Unsupported("gRPC-Web has no streams of requests")


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


async def _next_message(exchange: Exchange, messages: Messages) -> bytes | None:
    """Return the next message of an answer as it comes, None at the end."""
    while (message := messages.next()) is None:
        if not (data := await exchange.call.read()):
            return None
        messages.feed(data)
        exchange.progressed()
    return message


def _parts(splitter: LineSplitter | None, data: bytes, more: bool, *, first: bool) -> Iterable[bytes]:
    """Return the parts of a body that are a message each, as far as `data` completes them."""
    if splitter is None:
        return (data,) if data or (first and not more) else ()
    lines = splitter.feed(data) if data else []
    return lines if more else (*lines, *splitter.end())


def _last_words(request: Request, wire: StreamWire, failure: MeshError, *, first: bool) -> bytes:
    """Return what ends a stream that failed on its way. Raises `failure` if it can be told otherwise, or not at all."""
    told = None
    if request.started and not isinstance(failure, ClientGone):
        told = wire.broken(failure, request.request_id, first=first)
    if told is None:
        raise failure
    _log_failure(failure, request)
    return told


async def _start(request: Request, headers: Headers) -> None:
    """Send the head of an answer."""
    headers.append((b"x-request-id", request.request_id.encode()))
    try:
        await request.send({"type": "http.response.start", "status": 200, "headers": headers})
    except RuntimeError:
        raise HandlerFailed("a header of the answer has characters that HTTP does not allow") from None
    request.started = True


def _log_failure(error: MeshError, request: Request) -> None:
    """Log an error whose reason clients are not told."""
    told = answer.outcome(error)
    if told.status in (500, 502) and not isinstance(error, MethodFailed):
        fields = {"request_id": request.request_id, "route": request.route, "reason": told.reason}
        log.error("request failed: %s", error.message, extra=fields)


async def _refuse(request: Request, refusal: tuple[int, Headers, bytes], *, last: bool) -> int:
    """Answer with an error. `last`: the server will close the connection, for it does not read the body to its end."""
    status, headers, body = refusal
    if last and request.scope["http_version"].startswith("1"):
        headers.append((b"connection", b"close"))
    request.started = True
    await request.send({"type": "http.response.start", "status": status, "headers": headers})
    await request.send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})
    return status
