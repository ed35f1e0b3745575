"""Passing calls on to the instance that leads.

Owns one channel, to the leader of now. Never repeats a call and never passes on one that was passed on already, so
that two confused instances do not play ball. Called by `api`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from mesh.errors import Unreachable
from mesh.lifecycle import Tasks
from mesh.settings import MESSAGE_BYTES_MAX
from mesh.v1.deployment_service_pb2_grpc import DeploymentServiceStub

FORWARDED = "x-mesh-forwarded"
TIMEOUT_S = 30.0
"""Seconds of a passed-on call whose caller set no deadline."""
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
)
_PASSED_TRAILERS = ("grpc-status-details-bin",)


class Forwarder:
    """Calls the leader in a caller's place."""

    def __init__(self) -> None:
        self._address = ""
        self._channel: grpc.aio.Channel | None = None
        self._tasks = Tasks()

    async def unary(self, leader: str, method: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """Return the leader's answer; its error becomes the caller's."""
        try:
            return await getattr(self._stub(leader), method)(
                request, timeout=_remaining_s(context) or TIMEOUT_S, metadata=((FORWARDED, "1"),)
            )
        except grpc.aio.AioRpcError as error:
            await _pass_on(error, context)

    async def stream(self, leader: str, method: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Write the leader's stream to the caller, until either ends."""
        call = getattr(self._stub(leader), method)(request, timeout=_remaining_s(context), metadata=((FORWARDED, "1"),))
        responses: AsyncIterator[Any] = call
        try:
            async for response in responses:
                await context.write(response)
        except grpc.aio.AioRpcError as error:
            await _pass_on(error, context)
        finally:
            call.cancel()

    async def close(self) -> None:
        """End all calls under way."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        await self._tasks.cancel()

    def _stub(self, leader: str) -> DeploymentServiceStub:
        if leader != self._address or self._channel is None:
            if self._channel is not None:
                # In the background: calls to the old leader end in their own time.
                self._tasks.spawn(self._channel.close(TIMEOUT_S), name="close-channel")
            self._address = leader
            self._channel = grpc.aio.insecure_channel(leader, options=KEEPALIVE)
        return DeploymentServiceStub(self._channel)


def was_forwarded(context: grpc.aio.ServicerContext[Any, Any]) -> bool:
    """Whether another instance passed this call on."""
    return any(key == FORWARDED for key, _ in context.invocation_metadata() or ())


def _remaining_s(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    return context.time_remaining()


async def _pass_on(error: grpc.aio.AioRpcError, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    trailers = tuple((key, value) for key, value in error.trailing_metadata() or () if key in _PASSED_TRAILERS)
    await context.abort(error.code(), error.details() or "", trailers)


def no_leader() -> Unreachable:
    """Return the error while nobody leads."""
    return Unreachable("no control plane leads now", hint="repeat the command in a few seconds")
