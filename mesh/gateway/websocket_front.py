"""WebSockets: handshakes as requests for a slot, and their messages both ways until either side closes.

Owns a WebSocket's way from its handshake to its close: admission, codes, and its end when the gateway goes. A socket
holds a slot while it is open. All policy is in `pipeline` and below. Called by `http_front`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from mesh import errors
from mesh.errors import DeadlineExceeded, HandlerFailed, InvalidConfig, MeshError, NotFound, Problem, Unavailable
from mesh.gateway import answer, pages
from mesh.gateway.answer import ClientGone, Unsupported
from mesh.gateway.exchange import Exchange
from mesh.gateway.heads import RequestHead, answer_headers, check_size, given_request_id, read_head
from mesh.gateway.http_request import Message, Receive, Scope, Send
from mesh.gateway.pipeline import Pipeline, Route
from mesh.gateway.traffic import Traffic
from mesh.pipe import socket_messages as wire
from mesh.pipe.call import Call
from mesh.v1 import replica_service_pb2 as pb

NO_WEBSOCKETS = "this deployment serves no WebSockets"
CLOSE_S = 10.0
"""Seconds for an application to end once its client has said that it closes."""
LOST_S = 1.0
"""Seconds for it where the client said nothing."""
TOLD_S = 2.0
"""Seconds for a client to take a close."""
REFUSAL_BYTES_MAX = 1024 * 1024
"""Of an application's answer to a handshake that it refuses."""
_CLOSES: dict[type[MeshError], int] = {
    errors.ReplicaLost: wire.RESTART,
    errors.Unavailable: wire.GOING_AWAY,
    errors.DeadlineExceeded: wire.GOING_AWAY,
    errors.Overloaded: wire.TRY_LATER,
}
_EXTENSION = "websocket.http.response"

log = logging.getLogger("mesh.gateway")


class Socket:
    """One WebSocket as the server hands it over."""

    __slots__ = (
        "_receive",
        "_send",
        "accepted",
        "client",
        "exchange",
        "left",
        "patience",
        "request_id",
        "route",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        peer = scope["client"]
        self.client: str = peer[0] if peer else ""
        self.request_id = ""
        self.route = ""
        self.exchange: Exchange | None = None
        self.accepted = False
        self.patience: asyncio.TimerHandle | None = None
        """Ends the wait for an application whose client is gone."""
        self.left = False
        """Its client has closed it, or the gateway has."""

    async def receive(self) -> Message:
        """Return the client's next message; at the end, whatever it is, websocket.disconnect."""
        try:
            return await self._receive()
        except RuntimeError:  # what the server has for a connection that is gone
            return {"type": "websocket.disconnect", "code": wire.LOST}

    async def send(self, message: Message) -> None:
        """Send as the client takes it. Raises ClientGone."""
        try:
            await self._send(message)
        except (RuntimeError, OSError):
            raise ClientGone("the client went away") from None

    async def close(self, code: int, reason: str = "") -> None:
        """Close it; a client that does not take that is left."""
        if self.left:
            return
        self.left = True
        with contextlib.suppress(TimeoutError, ClientGone):
            async with asyncio.timeout(TOLD_S):
                await self.send({"type": "websocket.close", "code": code, "reason": wire.cut(reason)})

    async def refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the handshake with something else, or close it where the server cannot."""
        with contextlib.suppress(ClientGone):
            if _EXTENSION in self.scope.get("extensions", {}):
                headers = [pair for pair in headers if pair[0] != b"content-length"]
                headers.append((b"content-length", b"%d" % len(body)))
                await self.send({"type": f"{_EXTENSION}.start", "status": status, "headers": headers})
                await self.send({"type": f"{_EXTENSION}.body", "body": body})
            else:
                code = wire.TRY_LATER if status == 503 else wire.FAILED
                await self.send({"type": "websocket.close", "code": code, "reason": ""})


class WebSocketFront:
    """Serves WebSockets."""

    def __init__(self, pipeline: Pipeline, traffic: Traffic) -> None:
        self._pipeline = pipeline
        self._settings = pipeline.settings
        self._traffic = traffic
        self._open: set[Socket] = set()
        self._none: asyncio.Event = asyncio.Event()
        self._none.set()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket, from its handshake to its end."""
        socket = Socket(scope, receive, send)
        started = self._pipeline.clock.monotonic()
        self._open.add(socket)
        self._none.clear()
        try:
            self._pipeline.enter()
            try:
                await self._serve(socket, started)
            finally:
                self._pipeline.leave()
        except MeshError as error:
            await self._end(socket, error, started)
        except Exception as error:
            log.exception("the gateway failed", extra={"request_id": socket.request_id, "route": socket.route})
            await self._end(socket, MeshError(repr(error)), started)
        finally:
            self._open.discard(socket)
            if not self._open:
                self._none.set()

    async def over(self, within_s: float) -> None:
        """Return when no WebSocket is open; those that are after `within_s` seconds are closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(within_s, 0.0)):
                await self._none.wait()
        for socket in self._open:
            if socket.exchange is not None:
                socket.exchange.give_up(Unavailable("this gateway is shutting down"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOLD_S):
                await self._none.wait()

    async def _serve(self, socket: Socket, started: float) -> None:
        head, route, frame = self._handshake(socket)
        timeout_s = min(route.timeout_s, head.timeout_s) if head.timeout_s else route.timeout_s
        await socket.receive()  # websocket.connect, which is there from the start
        call = Call(frame, route.dispatcher.loop, idempotent=False, body_follows=True)
        if head.model_id:
            call.for_model(head.model_id)
        route.dispatcher.submit(call, socket.request_id)
        exchange = socket.exchange = Exchange(self._pipeline.exchanges, route.dispatcher, call, timeout_s)
        try:
            await call.granted()
            route.dispatcher.open(call, b"", end=False)
            reply = await call.head
            if reply.status != 101:
                await self._refused(socket, call, reply)
                self._count(socket, reply.status, started)
                return
            headers = dict(answer_headers(reply.headers, socket.request_id, framed_here=False))
            chosen = headers.pop(b"sec-websocket-protocol", b"").decode("latin-1")
            accept = {"type": "websocket.accept", "subprotocol": chosen or None, "headers": list(headers.items())}
            await socket.send(accept)
            socket.accepted = True
            self._count(socket, 101, started)
            await self._carry(socket, exchange)
        finally:
            exchange.end()

    def _handshake(self, socket: Socket) -> tuple[RequestHead, Route, pb.RequestFrame]:
        """Return a handshake's head, where it goes, and its Open frame. Raises MeshError."""
        scope, settings = socket.scope, self._settings
        scheme = "https" if scope["scheme"] in ("wss", "https") else "http"
        head = read_head(scope["headers"], client=socket.client, scheme=scheme)
        socket.request_id = head.request_id or self._pipeline.clock.request_id()
        raw_path, query = scope["raw_path"], scope["query_string"]
        check_size(head, settings, fields=len(scope["headers"]), path_bytes=len(raw_path), query_bytes=len(query))
        if not head.host:
            raise InvalidConfig((Problem("host", "must be there"),))
        if raw_path[:3] == pages.PREFIX:
            raise NotFound("there are no WebSockets here")
        route = self._pipeline.route(raw_path)
        socket.route = route.prefix or "/"
        if route.grpc_only:
            raise Unsupported(NO_WEBSOCKETS)
        frame = pb.RequestFrame()
        to = frame.open
        to.method, to.raw_path, to.query, to.root_path = "GET", raw_path, query, route.prefix
        to.headers.extend(head.passed)
        to.request_id, to.scheme, to.http_version = socket.request_id, scope["scheme"], scope["http_version"]
        to.client = f"{socket.client}:{scope['client'][1]}" if socket.client else ""
        to.websocket = True  # without a deadline: that of the handshake is kept here, and an open socket has none
        return head, route, frame

    async def _refused(self, socket: Socket, call: Call, head: pb.Head) -> None:
        """Hand on an application's own refusal of the handshake."""
        if not 200 <= head.status <= 599:
            raise HandlerFailed(f"status {head.status} is not one of an HTTP answer")
        body = bytearray()
        while data := await call.read():
            body += data
            if len(body) > REFUSAL_BYTES_MAX:
                raise HandlerFailed(f"the answer to a refused handshake has more than {REFUSAL_BYTES_MAX} bytes")
        if head.status == 501 and not body:
            raise Unsupported(NO_WEBSOCKETS)
        headers = answer_headers(head.headers, socket.request_id, framed_here=True)
        await socket.refuse(head.status, headers, bytes(body))

    async def _carry(self, socket: Socket, exchange: Exchange) -> None:
        """Carry messages both ways until either side closes."""
        upward: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(None) as limit:
                exchange.streaming(limit)
                upward = self._pipeline.tasks.spawn(self._upward(socket, exchange), name="socket")
                code, reason = await self._downward(socket, exchange)
        except TimeoutError:
            raise exchange.error or DeadlineExceeded("the client took no message for too long") from None
        finally:
            exchange.reading(None)  # whoever gives it up from now on ends no wait of this one
            if upward is not None:
                upward.cancel()
            if socket.patience is not None:
                socket.patience.cancel()
        await socket.close(wire.sent_code(code), reason)
        if not exchange.call.window.closed:  # the application may have more to do; its client has not
            await exchange.call.write(wire.framed_close(code), end=True)

    async def _downward(self, socket: Socket, exchange: Exchange) -> tuple[int, str]:
        """Carry the application's messages to the client. Return how it closed."""
        call, messages = exchange.call, wire.SocketMessages(self._settings.message_bytes_max)
        while data := await call.read():
            messages.feed(data)
            while (payload := messages.next()) is not None:
                if messages.flag == wire.CLOSE:
                    return wire.close_of(payload)
                if socket.left:
                    continue
                if messages.flag == wire.TEXT:
                    await socket.send({"type": "websocket.send", "text": payload.decode()})
                else:
                    await socket.send({"type": "websocket.send", "bytes": payload})
                exchange.progressed()
        return wire.NORMAL, ""

    async def _upward(self, socket: Socket, exchange: Exchange) -> None:
        """Carry the client's messages to the application as it reads them, then its close."""
        call = exchange.call
        while (message := await socket.receive())["type"] == "websocket.receive":
            exchange.progressed()
            text = message.get("text")
            payload = message["bytes"] if text is None else text.encode()
            if len(payload) > self._settings.message_bytes_max:
                await socket.close(wire.TOO_LARGE, f"at most {self._settings.message_bytes_max} bytes")
                message = {"code": wire.TOO_LARGE}
                break
            if not await call.write(wire.framed(wire.BINARY if text is None else wire.TEXT, payload), end=False):
                return
        code = message.get("code") or wire.NO_CODE
        # The server says the same of a client that is lost as of one that closed without a code.
        wait_s = LOST_S if code in (wire.NO_CODE, wire.LOST) else CLOSE_S
        socket.left = True
        loop = asyncio.get_running_loop()
        socket.patience = loop.call_later(wait_s, exchange.give_up, ClientGone("the client closed the WebSocket"))
        await call.write(wire.framed_close(code, message.get("reason") or ""), end=True)

    async def _end(self, socket: Socket, error: MeshError, started: float) -> None:
        """Tell a client of an error: by an answer to its handshake, or by a close."""
        outcome = answer.outcome(error)
        if not socket.request_id:
            given = given_request_id(socket.scope["headers"])
            socket.request_id = given or self._pipeline.clock.request_id()
        if outcome.status in (500, 502):
            told = {"request_id": socket.request_id, "route": socket.route, "reason": outcome.reason}
            log.error("WebSocket failed: %s", error.message, extra=told)
        if socket.accepted:
            code = next((code for kind, code in _CLOSES.items() if isinstance(error, kind)), wire.FAILED)
            await socket.close(code, answer.detail(error))
            return
        self._count(socket, outcome.status, started)
        if not isinstance(error, ClientGone):
            await socket.refuse(*answer.problem(error, socket.request_id))

    def _count(self, socket: Socket, status: int, started: float) -> None:
        """Count a handshake, once it is answered."""
        self._traffic.count(socket.route, "GET", status, started)
        if self._traffic.access_log:
            path = socket.scope["raw_path"].decode("latin-1")
            self._traffic.log("GET", path, status, started, socket.request_id)
