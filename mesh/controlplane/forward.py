"""Passing calls on to the instance that leads.

Owns one channel, to the leader of now. Never repeats a call itself, never passes on one that was passed on already, so
that two confused instances do not play ball. Called by `at_leader`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Never

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mesh.clock import SYSTEM
from mesh.connection import HandshakeFailed, channel, connect
from mesh.controlplane.store import StoreUnreachable
from mesh.controlplane.streams import write
from mesh.credentials import Credentials
from mesh.errors import Unreachable
from mesh.lifecycle import Tasks
from mesh.liveness import pings
from mesh.settings import MESSAGE_BYTES_MAX
from mesh.telemetry import LineLimit

log = logging.getLogger("mesh.controlplane")

FORWARDED = "x-mesh-forwarded"
TIMEOUT_S = 30.0
"""Seconds of a passed-on call whose caller set no deadline."""
OPTIONS = (
    *pings(),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.use_local_subchannel_pool", 1),
)
_PASSED_TRAILERS = ("grpc-status-details-bin",)
Stub = Callable[[grpc.aio.Channel], Any]
"""The generated stub of a service."""
_Context = grpc.aio.ServicerContext[Any, Any]


class NoLeader(Unreachable):
    """Nobody leads, or who led does not any more; nothing was done."""

    REASON = "NO_LEADER"

    def __init__(self) -> None:
        super().__init__("no control plane leads now", hint="repeat the command in a few seconds")


class Forwarder:
    """Calls the leader in a caller's place."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._address = ""
        self._channel: grpc.aio.Channel | None = None
        self._tasks = Tasks()
        self._lines = LineLimit(lines_max=1)

    async def unary(
        self,
        leader: str,
        service: Stub,
        method: str,
        request: Any,
        context: _Context,
        *,
        reads: bool = False,
    ) -> Any:
        """Return the leader's answer; its error becomes the caller's. Raises NoLeader if nothing was done there,
        StoreUnreachable if the leader cannot reach the store.

        A call that only `reads` may always be asked again: NoLeader then also if the leader was lost with it.
        """
        stub = service(await self._connected(leader))
        timeout_s = context.time_remaining() or TIMEOUT_S
        try:
            return await getattr(stub, method)(request, timeout=timeout_s, metadata=((FORWARDED, "1"),))
        except grpc.aio.AioRpcError as error:
            if _told(error).reason == StoreUnreachable.REASON:
                raise _store_unreachable(error) from None
            self._check_taken(error, leader)
            if reads and error.code() is grpc.StatusCode.UNAVAILABLE:
                raise NoLeader() from None
            await _pass_on(error, context)

    async def stream(self, leader: str, service: Stub, method: str, request: Any, context: _Context) -> None:
        """Write the leader's stream to the caller, until either ends. Raises NoLeader if there was none, PeerGone."""
        stub = service(await self._connected(leader))
        call = getattr(stub, method)(request, timeout=context.time_remaining(), metadata=((FORWARDED, "1"),))
        responses: AsyncIterator[Any] = call
        sent = False
        try:
            async for response in responses:
                sent = True
                await write(context, response)
        except grpc.aio.AioRpcError as error:
            self._check_taken(error, leader)
            await _pass_on(error, context, may_repeat=not sent)
        finally:
            call.cancel()

    async def close(self) -> None:
        """End all calls under way."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        await self._tasks.cancel()

    async def _connected(self, leader: str) -> grpc.aio.Channel:
        """Return a channel that is connected: a call that fails later may have been received."""
        if leader != self._address or self._channel is None:
            self._drop()
            self._address = leader
            self._channel = channel(leader, self._credentials, OPTIONS)
        opened = self._channel
        try:
            await connect(opened, leader)
        except Unreachable as error:
            if isinstance(error, HandshakeFailed):
                self._warn(error.message)
            if opened is self._channel:
                self._drop()  # it would pause for longer and longer before it tries again
            raise NoLeader() from None
        return opened

    def _check_taken(self, error: grpc.aio.AioRpcError, leader: str) -> None:
        """Raise NoLeader if it is this process that the leader does not take, not the caller."""
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            self._warn(f"{leader} leads and does not take this process's token: {error.details()}")
            raise NoLeader() from None

    def _warn(self, why: str) -> None:
        if self._lines.take(SYSTEM.monotonic()) is not None:
            log.warning("calls cannot be passed on: %s", why)

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            # In the background: calls to the old leader end in their own time.
            self._tasks.spawn(channel.close(TIMEOUT_S), name="close-channel")


def was_forwarded(context: _Context) -> bool:
    """Whether another instance passed this call on."""
    return any(key == FORWARDED for key, _ in context.invocation_metadata() or ())


async def _pass_on(error: grpc.aio.AioRpcError, context: _Context, *, may_repeat: bool = True) -> Never:
    if may_repeat and _told(error).reason == NoLeader.REASON:
        raise NoLeader()
    trailers = tuple((key, value) for key, value in error.trailing_metadata() or () if key in _PASSED_TRAILERS)
    await context.abort(error.code(), error.details() or "", trailers)


def _store_unreachable(error: grpc.aio.AioRpcError) -> StoreUnreachable:
    return StoreUnreachable(error.details() or "", hint=_told(error).metadata.get("hint", ""))


def _told(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    found = error_details_pb2.ErrorInfo()
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return found
    for detail in status.details if status else ():
        if detail.Unpack(found):
            break
    return found
