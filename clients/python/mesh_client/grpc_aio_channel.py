"""gRPC channels for event loops, whose calls are repeated within a budget and fail with typed errors.

Owns how each kind of call is attempted. Generated stubs take such a channel like any other. What a stub's method
returns here is a coroutine for one answer, and an asynchronous iterator for many. Decisions are in `course` and
`answers`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from mesh_client import service_config
from mesh_client.connecting import PLAIN, Connection, open_aio_channel
from mesh_client.course import Course
from mesh_client.grpc_call import Calls, Metadata, error_of
from mesh_client.grpc_channel import once
from mesh_client.policy import Policy
from mesh_client.repeating import repeat_async
from mesh_client.target import Target

S = TypeVar("S")


def aio_channel(
    addresses: str | Sequence[str],
    *,
    policy: Policy | None = None,
    connection: Connection = PLAIN,
    metadata: Metadata = (),
    target: Target | None = None,
) -> AioChannel:
    """Return a channel to "host:port", to several of them in turn, or to any target that gRPC knows.

    `metadata` is sent with each call, such as ("application", NAME). Channels with the same `target` share its policy
    and budget. Nothing is connected yet. Whoever opens a channel closes it; it is its own context manager. Raises
    ValueError.
    """
    inner = open_aio_channel(addresses, connection, service_config.balancing())
    return AioChannel(inner, Calls(target or Target(policy), connection.credentials, tuple(metadata)))


class AioChannel(grpc.aio.Channel):
    """A grpc.aio.Channel. `stub(GreeterStub)` returns a stub of it."""

    def __init__(self, inner: grpc.aio.Channel, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls
        self.target = calls.target

    def stub(self, kind: Callable[[grpc.aio.Channel], S]) -> S:
        """Return a generated stub whose calls go here."""
        return kind(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """End all calls, after `grace` seconds those that still run, and connections."""
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return how the connection is."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when that has changed."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return when it stands."""
        await self._inner.channel_ready()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return AioUnaryUnary(self._inner.unary_unary(method, *args, **kwargs), method, self._calls)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return AioUnaryStream(self._inner.unary_stream(method, *args, **kwargs), method, self._calls)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return AioStreamUnary(self._inner.stream_unary(method, *args, **kwargs), self._calls)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return AioStreamStream(self._inner.stream_stream(method, *args, **kwargs), self._calls)


class AioUnaryUnary:
    """One request, one answer."""

    def __init__(self, inner: Any, path: str, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls
        self._idempotent = calls.idempotent(path)

    async def __call__(self, request: Any, *, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        """Return the answer; `timeout` is seconds for all attempts. Raises MeshClientError."""
        calls, target = self._calls, self._calls.target
        course = target.course(timeout_s=target.timeout_s(timeout), idempotent=self._idempotent)
        request_id = target.request_id()

        async def attempt(seconds: float | None) -> Any:
            try:
                sent = calls.sent_with(metadata, request_id)
                return await self._inner(request, timeout=seconds, metadata=sent, **more)
            except grpc.aio.AioRpcError as error:
                raise error_of(error) from error

        return await repeat_async(target, course, attempt, request_id=request_id)


class AioUnaryStream:
    """One request, many answers."""

    def __init__(self, inner: Any, path: str, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls
        self._idempotent = calls.idempotent(path)

    def __call__(self, request: Any, *, timeout: float | None = None, metadata: Any = None, **more: Any) -> AioAnswers:
        """Begin the call. It may be sent again as long as nothing of its answer was read."""
        calls, target = self._calls, self._calls.target
        course = target.course(
            timeout_s=target.timeout_s(timeout, unary=False), idempotent=self._idempotent, stream=True
        )
        request_id = target.request_id()

        def start(seconds: float | None) -> Any:
            return self._inner(request, timeout=seconds, metadata=calls.sent_with(metadata, request_id), **more)

        return AioAnswers(target, course, start, request_id)


class AioStreamUnary:
    """Many requests, one answer. Sent once: the requests are gone when it fails."""

    def __init__(self, inner: Any, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls

    async def __call__(self, requests: Any, *, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        """Return the answer. Raises MeshClientError."""
        start, course, request_id = once(self._inner, self._calls, (requests, timeout, metadata), more)

        async def attempt(seconds: float | None) -> Any:
            try:
                return await start(seconds)
            except grpc.aio.AioRpcError as error:
                raise error_of(error) from error

        return await repeat_async(self._calls.target, course, attempt, request_id=request_id)


class AioStreamStream:
    """Many requests, many answers. Sent once. Requests are an iterator, asynchronous or not."""

    def __init__(self, inner: Any, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls

    def __call__(self, requests: Any, *, timeout: float | None = None, metadata: Any = None, **more: Any) -> AioAnswers:
        """Begin the call."""
        start, course, request_id = once(self._inner, self._calls, (requests, timeout, metadata), more)
        return AioAnswers(self._calls.target, course, start, request_id)


class AioAnswers(AsyncIterator[Any]):
    """The answers of a call, as they come. What else a grpc.aio.Call has, this has too."""

    def __init__(self, target: Target, course: Course, start: Callable[[float | None], Any], request_id: str) -> None:
        self._target = target
        self._course = course
        self._start = start
        self._request_id = request_id
        self._read_any = False
        self._call = start(course.allowed_s(target.clock.monotonic()))
        self._fresh = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Return the next answer. Raises MeshClientError."""
        answer = await (self._read() if self._read_any else self._first())
        if answer is grpc.aio.EOF:
            raise StopAsyncIteration
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def cancel(self) -> bool:
        """End the call."""
        return bool(self._call.cancel())

    async def aclose(self) -> None:
        """End the call."""
        self._call.cancel()

    async def _first(self) -> Any:
        self._read_any = True
        return await repeat_async(self._target, self._course, self._attempt, request_id=self._request_id)

    async def _attempt(self, seconds: float | None) -> Any:
        if not self._fresh:
            self._call = self._start(seconds)
        self._fresh = False
        return await self._read()

    async def _read(self) -> Any:
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError as failed:
            error = error_of(failed)
            error.request_id = error.request_id or self._request_id
            error.attempts = max(1, self._course.attempts)
            raise error from failed
