"""One WebSocket as a hosted ASGI application's `receive` and `send` see it.

Owns what ASGI promises an application of a WebSocket, its handshake's refusal included. It travels as messages in a
call's body, either way. Called by `asgi_calls`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Message, Scope
from starlette.websockets import WebSocketDisconnect

from mesh.pipe.failures import kind_of
from mesh.pipe.messages import BadFraming
from mesh.pipe.served_call import ServedCall
from mesh.pipe.socket_messages import (
    BINARY,
    CLOSE,
    FAILED,
    LOST,
    MESSAGE_BYTES_MAX,
    NO_CODE,
    NORMAL,
    TEXT,
    TRY_LATER,
    SocketMessages,
    close_of,
    framed,
    framed_close,
    sent_code,
)
from mesh.v1 import replica_service_pb2 as pb
from mesh.worker.handler import LEFT, Gone, answer_headers, scope

ENDED = (*LEFT, WebSocketDisconnect)
"""What ends an application whose client closed the socket. It is no failure."""


def websocket_scope(call: ServedCall) -> Scope:
    """Return the ASGI scope of a WebSocket."""
    described = scope(call)
    del described["method"]
    offered = [value for name, value in described["headers"] if name == b"sec-websocket-protocol"]
    names = b",".join(offered).decode("latin-1").split(",")
    return {
        **described,
        "type": "websocket",
        "subprotocols": [name.strip() for name in names if name.strip()],
        "extensions": {"websocket.http.response": {}},
    }


class WebSocketExchange:
    """A WebSocket from its handshake to its close."""

    def __init__(self, call: ServedCall) -> None:
        self._call = call
        self._messages = SocketMessages(MESSAGE_BYTES_MAX)
        self._connected = self._accepted = self._closed = False
        self._refusing = False
        self._disconnect: Message | None = None
        """What the application is told of the end, once there is one."""
        self._listeners = 0

    @property
    def listens(self) -> bool:
        """Whether the application hears that its client is gone."""
        return self._listeners > 0 or self._disconnect is not None

    def client_left(self) -> None:
        """The client is gone: the call's body says so to whoever reads it."""

    def close(self) -> None:
        """Nothing more will be sent."""

    def ended_by(self, error: BaseException) -> bool:
        """Whether `error` is only how an application ends when the socket does."""
        return isinstance(error, ENDED) and (self._call.cancelled or self._call.body.ended)

    async def receive(self) -> Message:
        """Return the next message of the client: websocket.connect, .receive and, at the end, .disconnect."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if self._disconnect is None:
            self._listeners += 1
            try:
                message = await self._next()
            finally:
                self._listeners -= 1
            if message is not None:
                return message
        assert self._disconnect is not None
        return dict(self._disconnect)

    async def send(self, message: Message) -> None:
        """Send what the application says, as its reader takes it. Raises OSError once the socket is closed."""
        kind = message["type"]
        if kind == "websocket.accept" and not self._accepted and not self._refusing:
            self._accept(message)
        elif kind == "websocket.send" and self._accepted:
            await self._send(_framed(message))
        elif kind == "websocket.close" and self._accepted:
            if not self._closed:
                await self._close(sent_code(message.get("code") or NORMAL), message.get("reason") or "")
        elif kind == "websocket.close" and not self._refusing:
            self._refuse(403, [])
            await self._refused(b"", more=False)
        elif kind == "websocket.http.response.start" and not self._accepted and not self._refusing:
            self._refuse(message["status"], answer_headers(message.get("headers", ())))
        elif kind == "websocket.http.response.body" and self._refusing:
            await self._refused(bytes(message.get("body", b"")), more=bool(message.get("more_body", False)))
        else:
            raise RuntimeError(f"the application sent {kind!r} where a WebSocket has no place for it")

    async def finish(self) -> None:
        """End the call: the application returned. Raises RuntimeError if it left the handshake unanswered."""
        if self._accepted and not self._closed:
            await self._close(NORMAL)
        elif not self._closed and self._disconnect is None and not self._call.cancelled:
            raise RuntimeError("the application returned without an answer to a WebSocket's handshake")
        self._call.done()

    async def fail(self, text: str, error: BaseException) -> None:
        """End the call: the application raised. The log has `text`, the client no more than that."""
        if not self._accepted and not self._closed:
            self._call.fail(text, error)
            return
        if not self._closed:
            overloaded = kind_of(error) == pb.FAILURE_KIND_OVERLOADED
            await self._close(TRY_LATER if overloaded else FAILED)
        self._call.done()

    def _accept(self, message: Message) -> None:
        headers = answer_headers(message.get("headers") or ())
        if subprotocol := message.get("subprotocol"):
            headers += (b"sec-websocket-protocol", subprotocol.encode("latin-1"))
        self._call.start(101, headers)
        self._accepted = True

    async def _send(self, data: bytes) -> None:
        if self._closed:
            raise RuntimeError("the application sent a message after it had closed the WebSocket")
        # The body ends with the client's close, which the application may not have read yet.
        if self._disconnect is not None or self._call.body.ended or not await self._call.write(data):
            raise Gone("the client closed the WebSocket")

    async def _close(self, code: int, reason: str = "") -> None:
        self._closed = True
        await self._call.write(framed_close(code, reason), end=True)

    def _refuse(self, status: int, headers: list[bytes]) -> None:
        self._call.start(status, headers)
        self._refusing = True

    async def _refused(self, data: bytes, *, more: bool) -> None:
        if self._closed:
            return
        self._closed = not more
        await self._call.write(data, end=not more)

    async def _next(self) -> Message | None:
        """Return the next message; None at the end, of which `_disconnect` tells."""
        try:
            while (payload := self._messages.next()) is None:
                data = await self._read()
                if not data:
                    self._ended(LOST if data is None else NO_CODE)
                    return None
                self._messages.feed(data)
            kind = self._messages.flag
            if kind == TEXT:
                return {"type": "websocket.receive", "text": payload.decode()}
            if kind == BINARY:
                return {"type": "websocket.receive", "bytes": payload}
            self._ended(*(close_of(payload) if kind == CLOSE else (LOST, "")))
        except (BadFraming, UnicodeDecodeError):
            self._ended(LOST)
        return None

    async def _read(self) -> bytes | None:
        """Return the next bytes, b"" at the end, None once the client is gone."""
        try:
            return await self._call.read()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # The call's body ends in this error when the client leaves; a task that is cancelled is another matter.
            if not self._call.cancelled or (task is not None and task.cancelling()):
                raise
            return None

    def _ended(self, code: int, reason: str = "") -> None:
        self._disconnect = {"type": "websocket.disconnect", "code": code, "reason": reason}


def _framed(message: Any) -> bytes:
    """Return what the application sends as it travels. Raises ValueError if it is too large, or no message."""
    text, data = message.get("text"), message.get("bytes")
    if text is None and data is None:
        raise ValueError("websocket.send has neither text nor bytes")
    payload = text.encode() if text is not None else bytes(data)
    if len(payload) > MESSAGE_BYTES_MAX:
        raise ValueError(f"a message of {len(payload)} bytes; a WebSocket takes {MESSAGE_BYTES_MAX}")
    return framed(BINARY if text is None else TEXT, payload)
