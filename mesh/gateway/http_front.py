"""The HTTP front: an ASGI application that turns requests into calls and answers into responses.

Owns HTTP's side of a request: heads, bodies both ways, `/-/` pages, problem bodies, metrics and access log. Any
ASGI server can host it; `http_server` hosts it on granian. All policy is in `pipeline` and below.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mesh.errors import DeadlineExceeded, HandlerFailed, MeshError
from mesh.gateway import answer
from mesh.gateway.answer import ClientGone, PayloadTooLarge
from mesh.gateway.heads import HOP_BY_HOP, RequestHead, check_size, given_request_id, read_head
from mesh.gateway.pipeline import Exchange, Pipeline, Route
from mesh.gateway.traffic import Traffic
from mesh.pipe.call import OPEN_BYTES_MAX, Call
from mesh.pipe.retry import IDEMPOTENT
from mesh.v1 import replica_service_pb2 as pb

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})

log = logging.getLogger("mesh.gateway")


class HttpFront:
    """The ASGI application."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._settings = pipeline.settings
        self._traffic = Traffic("http", pipeline.clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection scope."""
        if scope["type"] != "http":
            await _refuse(scope, receive, send)
            return
        if scope["raw_path"].startswith(b"/-/"):
            await self._system(scope["path"], send)
            return
        request = Request(scope, receive, send)
        started = self._pipeline.clock.monotonic()
        status = 500
        try:
            self._pipeline.enter()
            try:
                status = await self._serve(request)
            finally:
                self._pipeline.leave()
        except MeshError as error:
            status = await self._tell(request, error)
        finally:
            self._traffic.count(request.route, request.method, status, started)
            if self._traffic.access_log:
                self._traffic.log(request.method, scope["path"], status, started, request.request_id)

    async def _serve(self, request: Request) -> int:
        scope = request.scope
        head = read_head(scope["headers"], client=request.client, scheme=scope["scheme"])
        request.request_id = head.request_id or self._pipeline.clock.request_id()
        raw_path = scope["raw_path"]
        target_bytes = len(raw_path) + len(scope["query_string"])
        check_size(head, self._settings, fields=len(scope["headers"]), target_bytes=target_bytes)
        route = self._pipeline.route(raw_path)
        request.route = route.prefix or "/"
        body_follows = head.content_length > 0 or head.chunked or _may_follow(scope, head)
        timeout_s = min(route.timeout_s, head.timeout_s) if head.timeout_s else route.timeout_s
        frame = _open_frame(scope, head, route, request, timeout_s, ends=not body_follows)
        call = Call(frame, route.dispatcher.loop, idempotent=request.method in IDEMPOTENT, body_follows=body_follows)
        route.dispatcher.submit(call, request.request_id)
        exchange = Exchange(self._pipeline, route, call, timeout_s)
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
        call = exchange.call
        exchange.watch(request.early_body)
        await call.granted()
        exchange.watch(None)  # from here on the body is read as it is needed
        if not 0 <= head.content_length <= OPEN_BYTES_MAX:
            route.dispatcher.open(call, b"", end=False)
            return self._pipeline.tasks.spawn(self._upload(request, exchange), name="upload")
        parts: list[bytes] = []
        more = True
        try:
            async with asyncio.timeout(exchange.left_s()):
                while more:
                    data, more = await request.read()
                    parts.append(data)
        except TimeoutError:
            raise DeadlineExceeded("the body did not arrive before the request's deadline") from None
        route.dispatcher.open(call, b"".join(parts) if len(parts) > 1 else parts[0], end=True)
        exchange.watch(request.disconnected)
        return None

    async def _upload(self, request: Request, exchange: Exchange) -> None:
        """Carry the body to the replica as it reads it."""
        call = exchange.call
        total = 0
        try:
            await call.wait_accepted()
            more = True
            while more:
                data, more = await request.read()
                total += len(data)
                if total > self._settings.body_bytes_max:
                    raise PayloadTooLarge(f"the body is larger than {self._settings.body_bytes_max} bytes")
                exchange.progressed()
                if not await call.write(data, end=not more):
                    break
            request.body_over()
            exchange.watch(request.disconnected)
        except MeshError as error:
            exchange.give_up(error)

    async def _answer(self, request: Request, exchange: Exchange) -> int:
        call = exchange.call
        head = await call.head
        await _start(request, head)
        if call.body.whole:
            await request.send({"type": "http.response.body", "body": await call.read(), "more_body": False})
        else:
            await self._stream(request, exchange)
        return head.status

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

    async def _tell(self, request: Request, error: MeshError) -> int:
        """Tell the client of an error; if its answer has begun, break it off so that it shows."""
        if not request.request_id:
            request.request_id = given_request_id(request.scope["headers"]) or self._pipeline.clock.request_id()
        status, headers, body = answer.problem(error, request.request_id)
        if status in (500, 502):
            fields = {"request_id": request.request_id, "route": request.route, "reason": answer.outcome(error).reason}
            log.error("request failed: %s", error.message, extra=fields)
        if request.started:
            if not isinstance(error, ClientGone):
                raise BrokenAnswer(error.message) from None
            return status
        if not isinstance(error, ClientGone):
            if self._pipeline.draining and request.scope["http_version"].startswith("1"):
                headers.append((b"connection", b"close"))
            await request.send({"type": "http.response.start", "status": status, "headers": headers})
            await request.send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})
        return status

    async def _system(self, path: str, send: Send) -> None:
        """Answer mesh's own pages."""
        status, document = 404, json.dumps({"pages": ["/-/healthz", "/-/routes"]})
        if path == "/-/healthz":
            reason = self._pipeline.not_ready()
            status, document = (503, json.dumps({"status": reason})) if reason else (200, '{"status": "ok"}')
        elif path == "/-/routes":
            status, document = 200, json.dumps(self._pipeline.routes())
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % (len(document) + 1))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": document.encode() + b"\n"})


class BrokenAnswer(Exception):
    """Breaks off an answer that has begun: the server resets the connection, so that it is not taken for whole."""


class Request:
    """One HTTP request and how far its answer has come."""

    __slots__ = ("_early", "_receive", "client", "method", "request_id", "route", "scope", "send", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self.send = send
        self.method: str = scope["method"]
        peer = scope["client"]
        self.client: str = peer[0] if peer else ""
        self.request_id = ""
        self.route = ""
        self.started = False
        self._early: EarlyBody | None = None

    async def read(self) -> tuple[bytes, bool]:
        """Return the next body bytes and whether more follow. Raises ClientGone."""
        return await self.receive() if self._early is None else await self._early.take()

    async def early_body(self) -> None:
        """Return when the client is gone; takes the beginning of the body meanwhile. Instead of `disconnected`."""
        self._early = EarlyBody(self)
        await self._early.run()

    def body_over(self) -> None:
        """Nothing more of the body is wanted."""
        if self._early is not None:
            self._early.complete.set()

    async def receive(self) -> tuple[bytes, bool]:
        """Take the next body bytes from the server."""
        message = await self._receive()
        if message["type"] != "http.request":
            raise ClientGone("the client went away while it sent the body")
        more: bool = message.get("more_body", False)
        return message.get("body", b""), more

    async def disconnected(self) -> None:
        """Return when the client is gone. For requests whose body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class EarlyBody:
    """The beginning of a body, taken while its request waits for a slot: the only way to see a client leave then.

    One task (`run`) takes from the server; `take` hands on what it took, and takes the rest itself.
    """

    BYTES = 64 * 1024

    def __init__(self, request: Request) -> None:
        self._request = request
        self._parts: deque[tuple[bytes, bool]] = deque()
        self._taking = True
        self._gone: ClientGone | None = None
        self._wanted = False
        self._news = asyncio.Event()
        self.complete = asyncio.Event()

    async def run(self) -> None:
        """Take until the body is wanted, then wait for the end of it. Return when the client is gone."""
        size, more = 0, True
        try:
            while more and size < self.BYTES and not self._wanted:
                part = await self._request.receive()
                self._parts.append(part)
                self._news.set()
                size, more = size + len(part[0]), part[1]
        except ClientGone as error:
            self._gone = error
        self._taking = False
        self._news.set()
        if self._gone is None:
            if more:
                await self.complete.wait()
            await self._request.disconnected()

    async def take(self) -> tuple[bytes, bool]:
        """Return the next body bytes and whether more follow. Raises ClientGone."""
        self._wanted = True
        while self._taking and not self._parts:
            self._news.clear()
            await self._news.wait()
        if self._gone is not None:
            raise self._gone
        part = self._parts.popleft() if self._parts else await self._request.receive()
        if not part[1]:
            self.complete.set()
        return part


async def _start(request: Request, head: pb.Head) -> None:
    """Send the head of an answer. Raises HandlerFailed where HTTP does not allow what the handler set."""
    if not 200 <= head.status <= 599:
        raise HandlerFailed(f"status {head.status} is not one of an HTTP answer")
    headers = _response_headers(head.headers, request.request_id)
    try:
        await request.send({"type": "http.response.start", "status": head.status, "headers": headers})
    except RuntimeError:
        raise HandlerFailed("a header of the answer has characters that HTTP does not allow") from None
    request.started = True


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


def _response_headers(flat: Any, request_id: str) -> list[tuple[bytes, bytes]]:
    parts = list(flat)
    headers = [
        (parts[i], parts[i + 1])
        for i in range(0, len(parts) - 1, 2)
        if parts[i] not in HOP_BY_HOP and parts[i] != b"x-request-id"
    ]
    headers.append((b"x-request-id", request_id.encode()))
    return headers


def _may_follow(scope: Scope, head: RequestHead) -> bool:
    """HTTP/2 bodies need no length: a method that usually has one is read to see."""
    return head.content_length < 0 and scope["http_version"] == "2" and scope["method"] not in _BODILESS


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer what is not an HTTP request."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1011, "reason": "WebSockets are not served here"})
    elif scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
