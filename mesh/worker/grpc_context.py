"""The context that a servicer's methods get: `grpc.aio.ServicerContext`, and grpc's sync one for sync methods.

Owns the state of one gRPC call as user code may read and set it. Sends through its `ServedCall`; runs nothing.
Made by `grpc_calls`, one for each call.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError

from mesh.errors import MeshError
from mesh.pipe.messages import Messages, framed
from mesh.pipe.served_call import ServedCall
from mesh.v1 import replica_service_pb2 as pb
from mesh.worker.grpc_metadata import Metadatum, checked, flattened, received
from mesh.worker.raised import text_of, traceback_of

Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]

_OK, _UNKNOWN = 0, 2
_REQUEST_BYTES_MAX = 2**31 - 1
"""What protobuf itself can read. The limit that counts is the gateway's, where the message came in."""
DETAILS_CHARS_MAX = 16 * 1024
"""Of a status. Most clients take less than that for all trailers together."""

log = logging.getLogger("mesh.replica")


class Aborted(grpc.aio.AbortError):
    """User code ended the call with `abort`."""


class CallGone(grpc.RpcError):
    """The client gave the call up while user code was about to read or write."""


class BadMessage(MeshError):
    """A request's bytes are no message of the method's type."""


class CallState:
    """What both kinds of context share: metadata, status, messages, and who wants to know of the end."""

    def __init__(self, call: ServedCall, serialize: Serializer, deserialize: Deserializer, *, streams: bool) -> None:
        """`streams`: the method answers with a stream of messages, not with just one."""
        self.call = call
        self.streams = streams
        self.started = False
        """Whether the initial metadata was sent."""
        self.aborted = False
        self.over = False
        self.code: Any = None
        self.details = ""
        self.compression = 0
        self.plain_next = False
        self.trailing: tuple[tuple[str, str | bytes], ...] = ()
        self.callbacks: list[Callable[[], None]] = []
        self._serialize = serialize
        self._deserialize = deserialize
        self._messages = Messages(_REQUEST_BYTES_MAX)
        loop = asyncio.get_running_loop()
        self.loop = loop
        timeout_ms = call.head.timeout_ms
        self._deadline = loop.time() + timeout_ms / 1000 if timeout_ms else None

    def metadata(self) -> tuple[Metadatum, ...]:
        """The call's metadata."""
        return received(self.call.head.headers)

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - self.loop.time())

    def peer(self) -> str:
        """The client as grpc writes it: "ipv4:127.0.0.1:5000"."""
        client = self.call.head.client
        if client.count(":") < 2:
            return f"ipv4:{client}" if client else "unknown"
        host, _, port = client.rpartition(":")
        return f"ipv6:{quote('[' + host.strip('[]') + ']', safe=':')}:{port}"

    def set_status(self, code: Any, details: str, trailing: Iterable[tuple[str, str | bytes]] | None) -> None:
        """What `abort` sets. Raises ValueError for OK, as grpc does."""
        if number_of(code) == _OK:
            code, details = grpc.StatusCode.UNKNOWN, "abort() was called with the status OK"
        self.code = code
        self.set_details(details)
        self.aborted = True
        if trailing:
            self.trailing = checked(trailing)

    def set_details(self, details: Any) -> None:
        """Set the text of the status, as grpc takes it: bytes are UTF-8."""
        text = details.decode("utf-8", "replace") if isinstance(details, bytes) else str(details or "")
        self.details = text[:DETAILS_CHARS_MAX].encode("utf-8", "replace").decode()

    @property
    def refused(self) -> bool:
        """Whether user code set a status other than OK."""
        return self.aborted or number_of(self.code) != _OK

    async def read(self) -> Any:
        """Return the next request message, `grpc.aio.EOF` at the end. Raises CallGone, BadFraming, BadMessage."""
        while (message := self._messages.next()) is None:
            if self.call.cancelled:
                raise CallGone("the client gave the call up")
            data = await self.call.read()
            if not data:
                self._messages.end()
                return grpc.aio.EOF
            self._messages.feed(data)
        try:
            return self._deserialize(message)
        except DecodeError:
            raise BadMessage("the request is not a message of the type that the method takes") from None

    async def write(self, message: Any) -> None:
        """Send a response message, as the client takes it. Raises CallGone, UsageError."""
        if not self.streams:
            raise grpc.aio.UsageError("a method with one response returns it; it must not write it")
        if self.aborted:
            raise grpc.aio.UsageError("the call was aborted")
        data = self._framed(message)
        self.start(())
        if not await self.call.write(data):
            raise CallGone("the client gave the call up")

    def start(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Send the initial metadata, unless it was sent."""
        if not self.started:
            flat = flattened(metadata)
            self.started = True
            self.call.start(0, flat, self.compression)

    async def finish(self, response: Any = None, *, unary: bool) -> None:
        """End the call with the status that was set, and the one message of a unary answer."""
        trailers = self.trailers()
        data = self._framed(response) if unary and trailers.code == _OK else b""
        if self.started:
            if data:
                await self.call.write(data)
            self.call.finish_grpc(trailers)
        elif not self.call.answer_grpc([], data, trailers, self.compression):
            self.start(())
            await self.call.write(data)
            self.call.finish_grpc(trailers)

    def _framed(self, message: Any) -> bytes:
        plain, self.plain_next = self.plain_next, False
        return framed(self._serialize(message), plain=plain)

    def trailers(self) -> pb.Trailers:
        """Return the status and trailing metadata as they stand."""
        return pb.Trailers(code=number_of(self.code), message=self.details, metadata=flattened(self.trailing))

    def end(self) -> None:
        """The call is over: tell whoever asked. Never raises."""
        if self.over:
            return
        self.over = True
        for callback in self.callbacks:
            tell(callback)
        self.callbacks.clear()


def tell(callback: Callable[[], None]) -> None:
    """Call a callback of user code. Never raises."""
    try:
        callback()
    except BaseException as error:
        fields = {"traceback": traceback_of(error)}
        log.error("a callback of a finished call raised: %s", text_of(error), extra=fields)


def _tell_in_a_thread(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    loop.run_in_executor(None, tell, callback)


class AsyncContext(grpc.aio.ServicerContext[Any, Any]):
    """For async methods."""

    def __init__(self, state: CallState) -> None:
        self.state = state

    async def read(self) -> Any:  # noqa: D102
        return await self.state.read()

    async def write(self, message: Any) -> None:  # noqa: D102
        await self.state.write(message)

    async def abort(  # noqa: D102
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        if self.state.aborted:
            raise grpc.aio.UsageError("abort was called already")
        self.state.set_status(code, details, trailing_metadata)
        raise Aborted

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:  # noqa: D102
        await self.abort(status.code, status.details, status.trailing_metadata)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:  # noqa: D102
        if self.state.started:
            raise grpc.aio.UsageError("initial metadata was sent already")
        self.state.start(initial_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:  # noqa: D102
        self.state.trailing = checked(trailing_metadata)

    def trailing_metadata(self) -> Any:  # noqa: D102
        return self.state.trailing

    def invocation_metadata(self) -> Any:  # noqa: D102
        return self.state.metadata()

    def set_code(self, code: Any) -> None:  # noqa: D102
        self.state.code = code

    def code(self) -> Any:  # noqa: D102
        return self.state.code

    def set_details(self, details: str) -> None:  # noqa: D102
        self.state.set_details(details)

    def details(self) -> str:  # noqa: D102
        return self.state.details

    def set_compression(self, compression: grpc.Compression) -> None:  # noqa: D102
        self.state.compression = int(compression)

    def disable_next_message_compression(self) -> None:  # noqa: D102
        self.state.plain_next = True

    def peer(self) -> str:  # noqa: D102
        return self.state.peer()

    def peer_identities(self) -> None:  # noqa: D102
        return None

    def peer_identity_key(self) -> None:  # noqa: D102
        return None

    def auth_context(self) -> dict[str, Iterable[bytes]]:  # noqa: D102
        return {}

    def time_remaining(self) -> float | None:  # type: ignore[override]  # noqa: D102
        return self.state.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:  # noqa: D102
        if self.state.over:
            callback(self)
        else:
            self.state.callbacks.append(lambda: callback(self))

    def cancelled(self) -> bool:  # noqa: D102
        return self.state.call.cancelled

    def done(self) -> bool:  # noqa: D102
        return self.state.over


class SyncContext(grpc.ServicerContext):
    """For sync methods, which run in threads: what touches the call goes to the event loop and is waited for."""

    def __init__(self, state: CallState) -> None:
        self.state = state

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run `work` on the event loop and return its result. For threads only. Raises CallGone."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self.state.loop).result()
        except (asyncio.CancelledError, concurrent.futures.CancelledError):
            raise CallGone("the client gave the call up") from None

    def is_active(self) -> bool:  # noqa: D102
        return not (self.state.over or self.state.call.cancelled)

    def time_remaining(self) -> float | None:  # type: ignore[override]  # noqa: D102
        return self.state.time_remaining()

    def cancel(self) -> bool:  # noqa: D102
        self.state.set_status(grpc.StatusCode.CANCELLED, "the method cancelled the call", None)
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:  # noqa: D102
        if not self.is_active():
            return False
        # Not on the event loop: it may block, or ask this context for something that needs the loop.
        state = self.state
        later = partial(_tell_in_a_thread, state.loop, callback)
        state.loop.call_soon_threadsafe(lambda: state.callbacks.append(later) if not state.over else later())
        return True

    def invocation_metadata(self) -> Any:  # noqa: D102
        return self.state.metadata()

    def peer(self) -> str:  # noqa: D102
        return self.state.peer()

    def peer_identities(self) -> None:  # noqa: D102
        return None

    def peer_identity_key(self) -> None:  # noqa: D102
        return None

    def auth_context(self) -> dict[str, Any]:  # noqa: D102
        return {}

    def set_compression(self, compression: grpc.Compression) -> None:  # noqa: D102
        self.state.compression = int(compression)

    def disable_next_message_compression(self) -> None:  # noqa: D102
        self.state.plain_next = True

    def send_initial_metadata(self, initial_metadata: Any) -> None:  # noqa: D102
        if self.state.started:
            raise ValueError("initial metadata was sent already")

        async def send() -> None:
            self.state.start(initial_metadata)

        self.run(send())

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:  # noqa: D102
        self.state.trailing = checked(trailing_metadata)

    def trailing_metadata(self) -> Any:  # noqa: D102
        return self.state.trailing

    def abort(self, code: Any, details: str) -> NoReturn:  # noqa: D102
        self.state.set_status(code, details, None)
        raise Aborted

    def abort_with_status(self, status: Any) -> NoReturn:  # noqa: D102
        self.state.set_status(status.code, status.details, status.trailing_metadata)
        raise Aborted

    def set_code(self, code: Any) -> None:  # noqa: D102
        self.state.code = code

    def code(self) -> Any:  # noqa: D102
        return self.state.code

    def set_details(self, details: str) -> None:  # noqa: D102
        self.state.set_details(details)

    def details(self) -> str:  # noqa: D102
        return self.state.details


def number_of(code: Any) -> int:
    """Return a status code's number. What is no status code counts as UNKNOWN."""
    if code is None:
        return _OK
    if isinstance(code, grpc.StatusCode):
        return int(code.value[0])
    if isinstance(code, int) and 0 <= code <= 16:
        return int(code)
    return _UNKNOWN
