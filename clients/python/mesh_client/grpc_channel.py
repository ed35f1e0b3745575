"""gRPC channels for threads, whose calls are repeated within a budget and fail with typed errors.

Owns how each kind of call is attempted. Generated stubs take such a channel like any other. Decisions are in `course`
and `answers`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar

import grpc

from mesh_client import service_config
from mesh_client.connecting import PLAIN, Connection, open_channel
from mesh_client.course import Course
from mesh_client.grpc_call import Calls, Metadata, error_of
from mesh_client.policy import Policy
from mesh_client.repeating import repeat
from mesh_client.target import Target

S = TypeVar("S")


def channel(
    addresses: str | Sequence[str],
    *,
    policy: Policy | None = None,
    connection: Connection = PLAIN,
    metadata: Metadata = (),
    target: Target | None = None,
) -> Channel:
    """Return a channel to "host:port", to several of them in turn, or to any target that gRPC knows.

    `metadata` is sent with each call, such as ("application", NAME). Channels with the same `target` share its policy
    and budget. Nothing is connected yet. Whoever opens a channel closes it; it is its own context manager. Raises
    ValueError.
    """
    inner = open_channel(addresses, connection, service_config.balancing())
    return Channel(inner, Calls(target or Target(policy), connection.credentials, tuple(metadata)))


class Channel(grpc.Channel):
    """A grpc.Channel. `stub(GreeterStub)` returns a stub of it."""

    def __init__(self, inner: grpc.Channel, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls
        self.target = calls.target

    def stub(self, kind: Callable[[grpc.Channel], S]) -> S:
        """Return a generated stub whose calls go here."""
        return kind(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all calls and connections."""
        self._inner.close()

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        """Tell `callback` how the connection is, now and whenever that changes."""
        self._inner.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Tell it no more."""
        self._inner.unsubscribe(callback)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return UnaryUnary(self._inner.unary_unary(method, *args, **kwargs), method, self._calls)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return UnaryStream(self._inner.unary_stream(method, *args, **kwargs), method, self._calls)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return StreamUnary(self._inner.stream_unary(method, *args, **kwargs), self._calls)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return StreamStream(self._inner.stream_stream(method, *args, **kwargs), self._calls)


class UnaryUnary:
    """One request, one answer."""

    def __init__(self, inner: Any, path: str, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls
        self._idempotent = calls.idempotent(path)

    def __call__(self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        """Return the answer; `timeout` is seconds for all attempts. Raises MeshClientError."""
        return self.with_call(request, timeout, metadata, **more)[0]

    def with_call(
        self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any
    ) -> tuple[Any, grpc.Call]:
        """Return the answer and the call that brought it. Raises MeshClientError."""
        calls, target = self._calls, self._calls.target
        course = target.course(timeout_s=target.timeout_s(timeout), idempotent=self._idempotent)
        request_id = target.request_id()

        def start(seconds: float | None) -> Any:
            sent = calls.sent_with(metadata, request_id)
            return self._inner.future(request, timeout=seconds, metadata=sent, **more)

        def attempt(seconds: float | None) -> tuple[Any, grpc.Call]:
            after_s = target.hedge_after_s(course)
            began = target.clock.monotonic()
            try:
                if after_s is None or (seconds is not None and after_s >= seconds):
                    sent = calls.sent_with(metadata, request_id)
                    answered = self._inner.with_call(request, timeout=seconds, metadata=sent, **more)
                else:
                    answered = _hedged(target, course, start, (seconds, after_s))
            except grpc.RpcError as error:
                raise error_of(error) from error
            target.answered(target.clock.monotonic() - began)
            return answered  # type: ignore[no-any-return]

        return repeat(target, course, attempt, request_id=request_id)

    def future(self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        """Return gRPC's own future: sent once, and its errors are gRPC's."""
        target = self._calls.target
        sent = self._calls.sent_with(metadata, target.request_id())
        return self._inner.future(request, timeout=target.timeout_s(timeout), metadata=sent, **more)


def _hedged(
    target: Target, course: Course, start: Callable[[float | None], Any], times: tuple[float | None, float]
) -> tuple[Any, grpc.Call]:
    """Make an attempt, and another one beside it if it takes long; return the first answer. Raises grpc.RpcError."""
    seconds, after_s = times
    changed = threading.Semaphore(0)
    running = [start(seconds)]
    running[0].add_done_callback(lambda _: changed.release())
    try:
        waited = changed.acquire(timeout=after_s)
        if not waited and target.withdraw():
            running.append(start(course.begin(target.clock.monotonic())))
            running[1].add_done_callback(lambda _: changed.release())
        if not waited:
            changed.acquire()
        while len(running) > 1:
            done = [call for call in running if call.done()]
            if any(call.code() is grpc.StatusCode.OK for call in done):
                running.sort(key=lambda call: not (call.done() and call.code() is grpc.StatusCode.OK))
                break
            for call in done[: len(running) - 1]:
                running.remove(call)
            if len(running) > 1 or not running[0].done():
                changed.acquire()
        return running[0].result(), running[0]
    finally:
        for call in running:
            call.cancel()


class UnaryStream:
    """One request, many answers."""

    def __init__(self, inner: Any, path: str, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls
        self._idempotent = calls.idempotent(path)

    def __call__(self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Answers:
        """Begin the call. It may be sent again as long as nothing of its answer was read."""
        calls, target = self._calls, self._calls.target
        course = target.course(
            timeout_s=target.timeout_s(timeout, unary=False), idempotent=self._idempotent, stream=True
        )
        request_id = target.request_id()

        def start(seconds: float | None) -> Any:
            return self._inner(request, timeout=seconds, metadata=calls.sent_with(metadata, request_id), **more)

        return Answers(target, course, start, request_id)


class StreamUnary:
    """Many requests, one answer. Sent once: the requests are gone when it fails."""

    def __init__(self, inner: Any, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls

    def __call__(self, requests: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        """Return the answer. Raises MeshClientError."""
        return self.with_call(requests, timeout, metadata, **more)[0]

    def with_call(
        self, requests: Any, timeout: float | None = None, metadata: Any = None, **more: Any
    ) -> tuple[Any, grpc.Call]:
        """Return the answer and the call that brought it. Raises MeshClientError."""
        start, course, request_id = once(self._inner.with_call, self._calls, (requests, timeout, metadata), more)

        def attempt(seconds: float | None) -> tuple[Any, grpc.Call]:
            try:
                return start(seconds)  # type: ignore[no-any-return]
            except grpc.RpcError as error:
                raise error_of(error) from error

        return repeat(self._calls.target, course, attempt, request_id=request_id)

    def future(self, requests: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        """Return gRPC's own future: its errors are gRPC's."""
        target = self._calls.target
        sent = self._calls.sent_with(metadata, target.request_id())
        return self._inner.future(requests, timeout=target.timeout_s(timeout, unary=False), metadata=sent, **more)


class StreamStream:
    """Many requests, many answers. Sent once."""

    def __init__(self, inner: Any, calls: Calls) -> None:
        self._inner = inner
        self._calls = calls

    def __call__(self, requests: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Answers:
        """Begin the call."""
        start, course, request_id = once(self._inner, self._calls, (requests, timeout, metadata), more)
        return Answers(self._calls.target, course, start, request_id)


def once(
    inner: Any, calls: Calls, given: tuple[Any, float | None, Any], more: dict[str, Any]
) -> tuple[Callable[[float | None], Any], Course, str]:
    """Return what starts a call that cannot be repeated, its course and its id."""
    requests, timeout, metadata = given
    target = calls.target
    course = target.course(timeout_s=target.timeout_s(timeout, unary=False), idempotent=False, stream=True)
    course.spent = True
    request_id = target.request_id()

    def start(seconds: float | None) -> Any:
        return inner(requests, timeout=seconds, metadata=calls.sent_with(metadata, request_id), **more)

    return start, course, request_id


_END = object()


class Answers(Iterator[Any]):
    """The answers of a call, as they come. What else a grpc.Call has, this has too."""

    def __init__(self, target: Target, course: Course, start: Callable[[float | None], Any], request_id: str) -> None:
        self._target = target
        self._course = course
        self._start = start
        self._request_id = request_id
        self._read_any = False
        self._call = start(course.allowed_s(target.clock.monotonic()))
        self._fresh = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """Return the next answer. Raises MeshClientError."""
        answer = self._read() if self._read_any else self._first()
        if answer is _END:
            raise StopIteration
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def cancel(self) -> bool:
        """End the call."""
        return bool(self._call.cancel())

    def _first(self) -> Any:
        self._read_any = True
        return repeat(self._target, self._course, self._attempt, request_id=self._request_id)

    def _attempt(self, seconds: float | None) -> Any:
        if not self._fresh:
            self._call = self._start(seconds)
        self._fresh = False
        return self._read()

    def _read(self) -> Any:
        try:
            return next(self._call, _END)
        except grpc.RpcError as failed:
            error = error_of(failed)
            error.request_id = error.request_id or self._request_id
            error.attempts = max(1, self._course.attempts)
            raise error from failed
