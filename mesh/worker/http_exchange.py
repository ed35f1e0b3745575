"""One HTTP call as a hosted ASGI application's `receive` and `send` see it.

Owns what ASGI promises an application of a request, and which of its answers counts when it raises. Called by
`asgi_calls`.
"""

from __future__ import annotations

import asyncio

from starlette.types import Message

from mesh.pipe.failures import kind_of
from mesh.pipe.flow import WHOLE_BYTES
from mesh.pipe.served_call import ServedCall, check_head
from mesh.v1 import replica_service_pb2 as pb
from mesh.worker.handler import LEFT, Gone, answer_headers

_STOCK_500 = b"Internal Server Error"
"""Starlette's words for what raised. mesh's own say more: the request id, and which deployment was overloaded."""


class HttpExchange:
    """One call as ASGI's `receive` and `send` see it."""

    def __init__(self, call: ServedCall) -> None:
        self._call = call
        self._read_all = False
        self._left = asyncio.Event()
        self._listeners = 0
        self._told = False
        """It was told that its client is gone."""
        self._started = self._complete = False
        self._unsent: tuple[int, list[bytes]] | None = None
        """Status and headers, until they are sent: soon, but a whole answer of status 500 only when the application has
        returned and it is known whether that tells of something that was raised."""
        self._body = b""
        """All of the body, if it waits with them."""
        self._sending: asyncio.Handle | None = None

    @property
    def listens(self) -> bool:
        """Whether the application hears that its client is gone."""
        return self._told or self._listeners > 0

    def client_left(self) -> None:
        """Tell the application that its client is gone."""
        self._left.set()

    def close(self) -> None:
        """Nothing more will be sent: whoever still listens hears of it."""
        if self._sending is not None:
            self._sending.cancel()
        self._left.set()

    def ended_by(self, error: BaseException) -> bool:
        """Whether `error` is only how an application ends when its client leaves."""
        return self._call.cancelled and isinstance(error, LEFT)

    async def receive(self) -> Message:
        """Return the next of the body, then wait for the end of the exchange."""
        if not self._read_all and not self._left.is_set():
            try:
                data = await self._read()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                # The call's body ends in this error when the client leaves; a task that is cancelled is another matter.
                if not self._call.cancelled or (task is not None and task.cancelling()):
                    raise
                self._told = True
            else:
                body = self._call.body
                self._read_all = body.ended and not body.pending
                return {"type": "http.request", "body": data, "more_body": not self._read_all}
        await self._listen()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send of the answer as its reader takes it.

        Raises OSError once nobody reads, RuntimeError, TypeError or ValueError for what is no answer.
        """
        kind = message["type"]
        if kind == "http.response.start":
            if self._started:
                raise RuntimeError("the application started its answer twice")
            status, headers = _checked(message["status"]), answer_headers(message.get("headers", ()))
            check_head(headers)
            self._started = True
            self._unsent = (status, headers)
            if status != 500:
                # Not now: what follows at once goes along, in one frame with the end of the call.
                self._sending = asyncio.get_running_loop().call_soon(self._send_now)
        elif kind == "http.response.body":
            if not self._started:
                raise RuntimeError("the application sent a body before it started its answer")
            if not self._complete:
                await self._send_body(bytes(message.get("body", b"")), more=bool(message.get("more_body", False)))

    async def finish(self) -> None:
        """End the call with what the application answered. Raises RuntimeError if that is no whole answer."""
        if not self._complete and not self._call.cancelled:
            raise RuntimeError("the application returned without a whole answer")
        if self._unsent is not None and self._complete and not self._call.cancelled:
            status, headers = self._unsent
            if self._call.answer(status, headers, self._body):
                return
            self._send_head()
            await self._call.write(self._body, end=True)
        self._call.done()

    async def fail(self, text: str, error: BaseException) -> None:
        """End the call: the application raised. What it answered to that counts, where it did. `text` is for logs.

        Not a 500 for what another deployment was told: its caller is to know of the overload, or that time is over.
        """
        if self._unsent is not None and self._unsent[0] == 500:
            told = self._body == _STOCK_500 or kind_of(error) != pb.FAILURE_KIND_HANDLER
            self._complete = self._complete and not told
        if self._complete:
            await self.finish()
        else:
            self._call.fail(text, error)

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        self._complete = not more
        if self._unsent is not None:
            if not more and (self._unsent[0] == 500 or len(data) <= WHOLE_BYTES):
                self._body = data
                return
            self._send_head()
        sent = await self._call.write(data, end=not more)
        if self._complete:
            self._left.set()
        elif not sent:
            raise Gone("the client went away")

    def _send_now(self) -> None:
        """Send what there is: the application goes on, or waits for something."""
        if self._unsent is None:
            return
        if not self._complete:
            self._send_head()
        else:
            status, headers = self._unsent
            self._unsent = None
            self._call.answer(status, headers, self._body, over=False)
            self._left.set()

    def _send_head(self) -> None:
        assert self._unsent is not None
        self._call.start(*self._unsent)
        self._unsent = None

    async def _read(self) -> bytes:
        self._listeners += 1
        try:
            return await self._call.read()
        finally:
            self._listeners -= 1

    async def _listen(self) -> None:
        self._listeners += 1
        try:
            await self._left.wait()
        finally:
            self._listeners -= 1


def _checked(status: object) -> int:
    """Return an answer's status. Raises ValueError if HTTP has no such one."""
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"status {str(status)[:40]} is not one of an HTTP answer")
    return status
