"""The HTTP front: an ASGI application that turns requests into calls and answers into responses.

Owns HTTP's side of a request: heads, bodies both ways, problem bodies, metrics and access log. Any ASGI server can
host it; `http_server` hosts it on granian. All policy is in `pipeline` and below.
"""

from __future__ import annotations

import asyncio
import logging

from mesh.errors import DeadlineExceeded, HandlerFailed, InvalidConfig, MeshError, Problem
from mesh.gateway import answer, docs_page, pages
from mesh.gateway.answer import BodyBroken, BodyTimeout, ClientGone, PayloadTooLarge, Unsupported
from mesh.gateway.cors import Headers, is_preflight, origin_of
from mesh.gateway.exchange import Exchange
from mesh.gateway.heads import (
    RequestHead,
    answer_headers,
    check_answer_length,
    check_method,
    check_size,
    given_request_id,
    read_head,
)
from mesh.gateway.http_request import Message, Receive, Request, Scope, Send, check_end, read_body
from mesh.gateway.openapi_page import OpenApiPage
from mesh.gateway.pipeline import Pipeline, Route
from mesh.gateway.rest_front import RestFront
from mesh.gateway.traffic import Traffic
from mesh.gateway.websocket_front import WebSocketFront
from mesh.pipe.call import OPEN_BYTES_MAX, Call
from mesh.pipe.retry import IDEMPOTENT
from mesh.transcode.router import NoSuchPath
from mesh.v1 import replica_service_pb2 as pb

_SELDOM_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})
_USUAL = frozenset({"POST", "PATCH"})
_LAST = (BodyBroken, BodyTimeout, PayloadTooLarge, Unsupported)
"""After these a client may send what is no request: the rest of a body, or what was meant for a tunnel."""

log = logging.getLogger("mesh.gateway")


class HttpFront:
    """The ASGI application."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._settings = pipeline.settings
        self._traffic = Traffic("http", pipeline.clock)
        self.sockets = WebSocketFront(pipeline, self._traffic)
        self._rest = RestFront(pipeline)
        self._openapi = OpenApiPage(pipeline)
        self._docs = docs_page.load()
        self.entered = 0
        """Requests that ever came in, but for mesh's own pages."""
        self.last = False
        """Whether each answer is to be the last on its connection, where HTTP/1 can say so."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection scope."""
        if scope["type"] != "http":
            await self._serve_other(scope, receive, send)
            return
        if self.last and scope["http_version"].startswith("1"):
            send = _closing(send)
        if scope["raw_path"][:3] == pages.PREFIX:
            await self._page(Request(scope, receive, send))
            return
        if (policy := self._pipeline.cors) is not None and (origin := origin_of(scope["headers"])):
            if is_preflight(scope["method"], scope["headers"]):
                await send({"type": "http.response.start", "status": 204, "headers": policy.preflight(origin)})
                await send({"type": "http.response.body", "body": b""})
                return
            send = _telling(send, policy.answer(origin))
        request = Request(scope, receive, send)
        del receive, send
        self.entered += 1
        started = self._pipeline.clock.monotonic()
        status = 500
        try:
            self._pipeline.enter()
            try:
                status = await self._serve(request)
            finally:
                self._pipeline.leave()
        except MeshError as error:
            status = answer.outcome(error).status
            await self._tell(request, error)
        except Exception as error:
            log.exception("the gateway failed", extra={"request_id": request.request_id, "route": request.route})
            await self._tell(request, MeshError(repr(error)))
        finally:
            self._traffic.count(request.route, request.method, status, started)
            if self._traffic.access_log:
                path = scope["raw_path"].decode("latin-1")
                self._traffic.log(request.method, path, status, started, request.request_id)
            if request.unread:
                await request.linger()

    async def _serve(self, request: Request) -> int:
        scope = request.scope
        head = read_head(scope["headers"], client=request.client, scheme=scope["scheme"])
        request.request_id = head.request_id or self._pipeline.clock.request_id()
        raw_path = scope["raw_path"]
        fields, query_bytes = len(scope["headers"]), len(scope["query_string"])
        check_size(head, self._settings, fields=fields, path_bytes=len(raw_path), query_bytes=query_bytes)
        # Without a length, an HTTP/1 request has no body; one of HTTP/2 may.
        length = head.content_length
        body_follows = length > 0 or head.chunked or (length < 0 and scope["http_version"] == "2")
        request.unread = body_follows
        idempotent = request.method in IDEMPOTENT
        if head.websocket or not head.host or raw_path < b"/" or not (idempotent or request.method in _USUAL):
            _check_unusual(scope, head)
        route = self._pipeline.route(raw_path)
        request.route = route.prefix or "/"
        if route.rest is not None:
            found = route.rest.match(request.method, raw_path)
            if route.grpc_only or not isinstance(found, NoSuchPath):
                return await self._rest.serve(request, head, route, found)
        timeout_s = min(route.timeout_s, head.timeout_s) if head.timeout_s else route.timeout_s
        frame = _open_frame(scope, head, route, request, timeout_s, ends=not body_follows)
        call = Call(frame, route.dispatcher.loop, idempotent=idempotent, body_follows=body_follows)
        if head.model_id:
            call.for_model(head.model_id)
        route.dispatcher.submit(call, request.request_id)
        exchange = Exchange(self._pipeline.exchanges, route.dispatcher, call, timeout_s)
        upload: asyncio.Task[None] | None = None
        try:
            if body_follows:
                upload = await self._first_body(request, head, route, exchange)
            else:
                exchange.watch(request.disconnected)
            return await self._answer(request, exchange)
        finally:
            exchange.end()
            if upload is not None:
                upload.cancel()

    async def _first_body(
        self, request: Request, head: RequestHead, route: Route, exchange: Exchange
    ) -> asyncio.Task[None] | None:
        """Once a slot is held, send a small body whole, or open the call and stream the body in a task."""
        call, length = exchange.call, head.content_length
        exchange.watch(request.early_body)
        await call.granted()
        exchange.watch(None)  # from here on the body is read as it is needed
        data, more = b"", True
        if 0 <= length <= OPEN_BYTES_MAX or (length < 0 and not head.chunked and request.method in _SELDOM_BODY):
            limit = self._settings.body_bytes_max
            data, more = await read_body(request, exchange, length, limit, only_begin=True)
        route.dispatcher.open(call, b"" if more else data, end=not more)
        if more:
            return self._pipeline.tasks.spawn(self._upload(request, length, exchange, data), name="upload")
        exchange.watch(request.disconnected)
        return None

    async def _upload(self, request: Request, length: int, exchange: Exchange, data: bytes) -> None:
        """Carry the body to the replica as it reads it. `data` is its beginning, as far as that was read."""
        call = exchange.call
        total, more = 0, True
        try:
            await call.wait_accepted()
            while True:
                if data:
                    total += len(data)
                    exchange.body_came()
                if total > self._settings.body_bytes_max:
                    raise PayloadTooLarge(f"the body is larger than {self._settings.body_bytes_max} bytes")
                if not more:
                    await check_end(request, exchange, length - total)
                if (data or not more) and not await call.write(data, end=not more):
                    break
                if not more:
                    break
                exchange.await_body()
                data, more = await request.read()
            exchange.body_over()
            request.body_over()
            exchange.watch(request.disconnected)
        except MeshError as error:
            exchange.give_up(error)

    async def _answer(self, request: Request, exchange: Exchange) -> int:
        call = exchange.call
        head = await call.head
        status = head.status
        bodiless = status == 204 or status == 304 or request.method == "HEAD"
        whole = call.body.whole and not bodiless
        await _start(request, head, framed_here=whole or status == 204)
        if whole:
            await request.send({"type": "http.response.body", "body": await call.read(), "more_body": False})
        elif bodiless:  # over HTTP/2 the server would send a body if it were given one
            await request.send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._stream(request, exchange)
        return status

    async def _stream(self, request: Request, exchange: Exchange) -> None:
        """Carry an answer's body to the client as it takes it."""
        call = exchange.call
        body = call.body
        try:
            async with asyncio.timeout(None) as limit:
                exchange.streaming(limit)
                if not body.pending:  # the server holds the head back until some of the body comes
                    await request.send({"type": "http.response.body", "body": b"", "more_body": True})
                more = True
                while more:
                    data = await call.read()
                    more = not body.ended or body.pending
                    await request.send({"type": "http.response.body", "body": data, "more_body": more})
                    exchange.progressed()
        except TimeoutError:
            raise exchange.error or DeadlineExceeded("the answer took too long") from None

    async def _tell(self, request: Request, error: MeshError) -> None:
        """Tell the client of an error; if its answer has begun, break it off so that it shows."""
        if not request.request_id:
            request.request_id = given_request_id(request.scope["headers"]) or self._pipeline.clock.request_id()
        status, headers, body = answer.problem(error, request.request_id)
        if status in (500, 502):
            fields = {"request_id": request.request_id, "route": request.route, "reason": answer.outcome(error).reason}
            log.error("request failed: %s", error.message, extra=fields)
        if isinstance(error, ClientGone):
            return
        if request.started:
            request.unread = False
            raise BrokenAnswer(error.message) from None
        if isinstance(error, _LAST) and request.scope["http_version"].startswith("1"):
            headers.append((b"connection", b"close"))
        await request.send({"type": "http.response.start", "status": status, "headers": headers})
        await request.send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})

    async def _page(self, request: Request) -> None:
        """Answer one of mesh's own pages."""
        request.request_id = given_request_id(request.scope["headers"]) or self._pipeline.clock.request_id()
        path = request.scope["path"]
        try:
            pages.check(request.method, path)
        except MeshError as error:
            await self._tell(request, error)
            return
        status, headers = 200, [(b"content-type", b"application/json")]
        if path == pages.OPENAPI:
            body = await self._openapi.body()
        elif path == pages.DOCS:
            body, headers = self._docs.body, list(self._docs.headers)
        else:
            status, body = pages.page(self._pipeline, path)
        headers += ((b"content-length", b"%d" % len(body)), (b"x-request-id", request.request_id.encode()))
        await request.send({"type": "http.response.start", "status": status, "headers": headers})
        await request.send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what is not an HTTP request."""
        if scope["type"] == "websocket":
            self.entered += 1
            await self.sockets.serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})


class BrokenAnswer(Exception):
    """Breaks off an answer that has begun: the server resets the connection, so that it is not taken for whole."""


def _telling(send: Send, headers: Headers) -> Send:
    """Return a `send` that adds headers to the answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = (pair for pair in message["headers"] if not pair[0].startswith(b"access-control-"))
            message["headers"] = [*own, *headers]
        await send(message)

    return sending


def _closing(send: Send) -> Send:
    """Return a `send` that asks the client to send nothing more on this connection."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = (pair for pair in message["headers"] if pair[0] != b"connection")
            message["headers"] = [*own, (b"connection", b"close")]
        await send(message)

    return sending


async def _start(request: Request, head: pb.Head, *, framed_here: bool) -> None:
    """Send the head of an answer. Raises HandlerFailed where HTTP does not allow what the handler set."""
    status = head.status
    if not 200 <= status <= 599:
        raise HandlerFailed(f"status {status} is not one of an HTTP answer")
    headers = answer_headers(head.headers, request.request_id, framed_here=framed_here)
    if not framed_here:
        check_answer_length(headers)
    try:
        await request.send({"type": "http.response.start", "status": status, "headers": headers})
    except RuntimeError:
        raise HandlerFailed("a header of the answer has characters that HTTP does not allow") from None
    request.started = True


def _check_unusual(scope: Scope, head: RequestHead) -> None:
    """Refuse what HTTP does not allow and what no handler should get. Raises InvalidConfig or Unsupported."""
    check_method(scope["method"])
    if head.websocket:
        raise Unsupported("this is no handshake of a WebSocket that is served here")
    if not scope["raw_path"].startswith(b"/"):  # `OPTIONS *`, or something without a path
        raise InvalidConfig((Problem("path", "must start with '/'"),))
    if not head.host and scope["http_version"] == "1.1":
        raise InvalidConfig((Problem("host", "must be there"),))


def _open_frame(
    scope: Scope, head: RequestHead, route: Route, request: Request, timeout_s: float, *, ends: bool
) -> pb.RequestFrame:
    frame = pb.RequestFrame()
    to = frame.open
    to.method = request.method
    to.raw_path = scope["raw_path"]
    if query := scope["query_string"]:
        to.query = query
    if route.prefix:
        to.root_path = route.prefix
    to.headers.extend(head.passed)
    to.request_id = request.request_id
    to.timeout_ms = min(int(timeout_s * 1000), 0xFFFFFFFF)
    to.scheme = scope["scheme"]
    to.http_version = scope["http_version"]
    to.client = f"{request.client}:{scope['client'][1]}" if request.client else ""
    if ends:
        to.end = True
    return frame
