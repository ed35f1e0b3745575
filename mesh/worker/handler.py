"""Runs user code for calls: builds the request, calls the instance, and sends what it returns.

Owns the meaning of return values and errors. Knows nothing of slots or of
the wire: it gets `ServedCall`s and ends each exactly once. Called by `replica`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Scope

from mesh.lifecycle import Tasks
from mesh.pipe.served_call import ServedCall
from mesh.serving.batch import runs_on_loop
from mesh.serving.current_request import Place
from mesh.serving.threads import Raised, Threads, caught, steps_in_thread
from mesh.telemetry import REPLICA_REQUESTS
from mesh.worker import current_call
from mesh.worker.raised import log_raised
from mesh.worker.thread_limit import allow_threads

_TEXT = [b"content-type", b"text/plain; charset=utf-8"]
_BYTES = [b"content-type", b"application/octet-stream"]
_JSON = [b"content-type", b"application/json"]

_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
"""`json.dumps` makes a new encoder at each call. NaN is not JSON: it raises ValueError."""


class Handler:
    """Calls `target`, an instance or a function, for HTTP-shaped calls."""

    def __init__(self, place: Place, target: Callable[..., Any], threads: Threads) -> None:
        self._target = target
        self._takes_request = _takes_request(target)
        self._async = runs_on_loop(target)
        self._tasks = Tasks()
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._place = place
        labels = (place.application, place.deployment)
        self._ok = REPLICA_REQUESTS.labels(*labels, "ok").inc
        self._error = REPLICA_REQUESTS.labels(*labels, "error").inc
        self._cancelled = REPLICA_REQUESTS.labels(*labels, "cancelled").inc

    def serve(self, call: ServedCall) -> Callable[[], object]:
        """Start `call` and return what cancels it."""
        if self._async:
            return self._tasks.spawn(self._serve_async(call), name="call").cancel
        return self._serve_sync(call)

    async def close(self) -> None:
        """Cancel what runs. Threads of sync calls are left to end by themselves."""
        await self._tasks.cancel()

    async def _serve_async(self, call: ServedCall) -> None:
        current_call.enter(call, self._place)
        try:
            if call.cancelled:  # before its first step
                self._ended_cancelled(call)
                return
            result = self._target(Request(scope(call), call_receive(call))) if self._takes_request else self._target()
            if inspect.isawaitable(result):
                result = await result
            if not self._answer_plain(call, result):
                await self._answer(call, result)
        except asyncio.CancelledError:
            self._ended_cancelled(call)
        except BaseException as error:  # none of it may leave the event loop, nor keep the slot
            self._failed(call, error)

    def _serve_sync(self, call: ServedCall) -> Callable[[], object]:
        try:
            context = contextvars.copy_context()
            context.run(current_call.enter, call, self._place)
            arguments = (Request(scope(call), call_receive(call)),) if self._takes_request else ()
            future = self._loop.run_in_executor(self._threads, context.run, caught, self._target, *arguments)
        except Exception as error:
            self._failed(call, error)
            return _nothing
        task: asyncio.Task[None] | None = None

        def returned(future: asyncio.Future[Any]) -> None:
            nonlocal task
            result = None if future.cancelled() else future.result()
            if isinstance(result, Raised):
                self._failed(call, result.error)
                return
            if call.cancelled or future.cancelled():
                self._ended_cancelled(call)
                return
            try:
                if not self._answer_plain(call, result):
                    task = self._tasks.spawn(self._finish_sync(call, result), name="call")
            except Exception as cause:
                self._failed(call, cause)

        def cancel() -> None:
            # The thread cannot be interrupted: `returned` ends the call when it is back.
            if task is not None:
                task.cancel()

        future.add_done_callback(returned)
        return cancel

    async def _finish_sync(self, call: ServedCall, result: Any) -> None:
        current_call.enter(call, self._place)
        try:
            await self._answer(call, result)
        except asyncio.CancelledError:
            self._ended_cancelled(call)
        except BaseException as error:  # none of it may leave the event loop, nor keep the slot
            self._failed(call, error)

    def _answer_plain(self, call: ServedCall, result: Any) -> bool:
        """Send what needs no waiting. False if it does."""
        status = 200
        if isinstance(result, (dict, list)):
            headers, body = _JSON, _json(result)
        elif isinstance(result, str):
            headers, body = _TEXT, result.encode()
        elif isinstance(result, bytes):
            headers, body = _BYTES, result
        elif result is None:
            status, headers, body = 204, [], b""
        else:
            return _is_whole(result) and self._answer_response(call, result)
        length = [b"content-length", b"%d" % len(body)] if status != 204 else []
        if not call.answer(status, [*headers, *length], body):
            return False
        self._ok()
        return True

    def _answer_response(self, call: ServedCall, result: Response) -> bool:
        headers = answer_headers(result.raw_headers)
        if not call.answer(result.status_code, headers, bytes(result.body)):
            return False
        self._ok()
        return True

    async def _answer(self, call: ServedCall, result: Any) -> None:
        """Send what takes waiting: large bodies, generators and ASGI responses."""
        if isinstance(result, (dict, list)):
            result = Response(_json(result), media_type="application/json")
        elif isinstance(result, str):
            result = Response(result, media_type="text/plain")
        elif isinstance(result, bytes):
            result = Response(result, media_type="application/octet-stream")
        if inspect.isasyncgen(result):
            await self._stream(call, result)
        elif inspect.isgenerator(result):
            await self._stream(call, steps_in_thread(self._threads, result))
        elif isinstance(result, Response):
            allow_threads(self._threads.size)
            await result(scope(call), call_receive(call), call_send(call))
            call.done()
        else:
            kinds = "str, bytes, dict, list, None, a Response or a generator"
            raise TypeError(f"a handler returns {kinds}, not {type(result).__name__}")
        self._ok()

    async def _stream(self, call: ServedCall, chunks: Any) -> None:
        """Send a generator's chunks as its reader takes them; end it as soon as nobody reads."""
        started = False
        try:
            async for chunk in chunks:
                data = _chunk(chunk)
                if not started:
                    started = True
                    call.start(200, _TEXT if isinstance(chunk, str) else _BYTES)
                if not await call.write(data):
                    break
        finally:
            if hasattr(chunks, "aclose"):
                await chunks.aclose()
        if not started:
            call.start(200, _BYTES)
        await call.write(b"", end=True)
        call.done()

    def _failed(self, call: ServedCall, error: BaseException) -> None:
        if call.cancelled and isinstance(error, LEFT):
            self._ended_cancelled(call)
            return
        self._error()
        text = log_raised(call, error, "handler")
        call.fail(text, error)

    def _ended_cancelled(self, call: ServedCall) -> None:
        self._cancelled()
        call.done()


class Gone(OSError):
    """What ASGI's `send` raises when nobody reads any more. Starlette makes a ClientDisconnect of it."""


LEFT = (Gone, ClientDisconnect, CancelledError)
"""What ends a handler whose client left while it answered, or waited for another deployment.

It is no failure, and clients must not fill the log.
"""


def _nothing() -> None:
    """Cancel a call that is over."""


def scope(call: ServedCall) -> Scope:
    """Return the ASGI scope of a call (HTTP)."""
    head = call.head
    flat = head.headers
    raw_path = head.raw_path
    path = _unquoted(raw_path) if b"%" in raw_path else raw_path.decode("utf-8", "replace")
    host, _, port = head.client.rpartition(":")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.http_version,
        "method": head.method,
        "scheme": head.scheme,
        "path": path,
        "raw_path": raw_path,
        "root_path": head.root_path,
        "query_string": head.query,
        "headers": list(zip(flat[::2], flat[1::2], strict=True)),
        "client": (host, int(port)) if port.isdigit() else None,
        "server": None,
        "state": {},
    }


def call_receive(call: ServedCall) -> Callable[[], Any]:
    """Return the ASGI `receive` of a call."""
    ended = False

    async def receive() -> Message:
        nonlocal ended
        if ended:
            # ASGI: after the body only a disconnect can come. It shows as cancellation here.
            await asyncio.get_running_loop().create_future()
        data = await call.read()
        ended = call.body.ended and not call.body.pending
        return {"type": "http.request", "body": data, "more_body": not ended}

    return receive


def call_send(call: ServedCall) -> Callable[[Message], Any]:
    """Return the ASGI `send` of a call."""
    complete = False

    async def send(message: Message) -> None:
        nonlocal complete
        if message["type"] == "http.response.start":
            call.start(message["status"], answer_headers(message.get("headers", ())))
        elif message["type"] == "http.response.body" and not complete:
            complete = not message.get("more_body", False)
            if not await call.write(bytes(message.get("body", b"")), end=complete) and not complete:
                raise Gone("the client went away")

    return send


def answer_headers(pairs: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Return an answer's headers, names and values in turn, without what its Connection header names.

    Names go in lower case whatever user code wrote: the gateway knows by them what may not pass. Raises TypeError for
    what is not bytes: on the way such a header would fail where nobody ends the call.
    """
    headers = [part for name, value in pairs for part in (name.lower(), value)]
    if any(type(part) is not bytes for part in headers):
        raise TypeError("names and values of an answer's headers must be bytes")
    names = headers[::2]
    if b"connection" not in names:
        return headers
    values = headers[1::2]
    lists = [value.lower().split(b",") for name, value in zip(names, values, strict=True) if name == b"connection"]
    named = {b"connection", *(each.strip() for parts in lists for each in parts)}
    return [part for pair in zip(names, values, strict=True) if pair[0] not in named for part in pair]


def _is_whole(result: Any) -> bool:
    """Whether a Response has its whole body at hand, and nothing of its own to do with it or afterwards."""
    return (
        isinstance(result, Response)
        and type(result).__call__ is Response.__call__
        and hasattr(result, "body")
        and result.background is None
    )


def _chunk(chunk: Any) -> bytes:
    if isinstance(chunk, str):
        return chunk.encode()
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)
    raise TypeError(f"a generator yields str or bytes, not {type(chunk).__name__}")


def _json(value: Any) -> bytes:
    try:
        return _encode_json(value).encode()
    except ValueError as error:
        raise ValueError(f"the handler's result is not JSON, which has no NaN and no infinity: {error}") from None


def _unquoted(raw: bytes) -> str:
    return unquote_to_bytes(raw).decode("utf-8", "replace")


def _takes_request(target: Callable[..., Any]) -> bool:
    """Whether the handler wants the request; one without parameters gets none."""
    parameters = inspect.signature(target).parameters.values()
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)
