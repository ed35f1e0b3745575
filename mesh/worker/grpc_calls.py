"""Runs a servicer's methods for gRPC calls of all four kinds, async and sync.

Owns how grpcio's method handlers are called and what their ends mean. Knows nothing of slots or of the wire: it
gets `ServedCall`s and ends each exactly once. Called by `replica`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc

from mesh.errors import DecodingFailed
from mesh.lifecycle import Tasks
from mesh.pipe.messages import BadFraming
from mesh.pipe.served_call import ServedCall
from mesh.serving import encoding
from mesh.serving.current_request import Place
from mesh.serving.threads import Raised, Threads, caught
from mesh.telemetry import REPLICA_REQUESTS
from mesh.transcode.collect import behavior, is_async
from mesh.v1 import replica_service_pb2 as pb
from mesh.worker import current_call
from mesh.worker.grpc_context import Aborted, AsyncContext, BadMessage, CallGone, CallState, SyncContext
from mesh.worker.raised import log_raised

_UNIMPLEMENTED, _INVALID = grpc.StatusCode.UNIMPLEMENTED.value[0], grpc.StatusCode.INVALID_ARGUMENT.value[0]


class GrpcCalls:
    """Calls the methods of one servicer instance.

    `methods` maps "/package.Service/Method" to grpcio's own handler of it, bound to the instance. Sync methods
    run in `threads`.
    """

    def __init__(
        self,
        place: Place,
        methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
        threads: Threads,
    ) -> None:
        self._methods = {path.encode(): _Method(handler) for path, handler in methods.items()}
        self._by_name = {path.rpartition("/")[2]: _MethodByHandle(handler) for path, handler in methods.items()}
        self._threads = threads
        self._tasks = Tasks()
        self._closing = False
        self._place = place
        labels = (place.application, place.deployment)
        self._ok = REPLICA_REQUESTS.labels(*labels, "ok").inc
        self._error = REPLICA_REQUESTS.labels(*labels, "error").inc
        self._cancelled = REPLICA_REQUESTS.labels(*labels, "cancelled").inc

    def has(self, name: str) -> bool:
        """Whether a method of that name can be called by handles."""
        return name in self._by_name

    def serve(self, call: ServedCall) -> Callable[[], object]:
        """Start `call`, which came as gRPC or by a handle, and return what cancels it."""
        return self._tasks.spawn(self._serve(call), name="call").cancel

    async def close(self) -> None:
        """Cancel what runs. Threads of sync methods are left to end by themselves."""
        self._closing = True
        await self._tasks.cancel()

    async def _serve(self, call: ServedCall) -> None:
        current_call.enter(call, self._place)
        head = call.head
        method = self._by_name.get(head.method) if head.handle else self._methods.get(head.raw_path)
        if method is None:
            path = call.head.raw_path.decode("utf-8", "replace")[:200]
            call.answer_grpc([], b"", pb.Trailers(code=_UNIMPLEMENTED, message=f"there is no method {path}"))
            return
        state = CallState(call, method.serialize, method.deserialize, streams=method.response_streaming)
        try:
            if call.cancelled:  # before its first step
                raise asyncio.CancelledError
            if method.is_async:
                response = await _run_async(method, state)
            else:
                response = await self._run_sync(method, state)
            if call.cancelled:  # and the method took no notice
                raise CallGone
            await state.finish(response, unary=not method.response_streaming)
            self._ok()
        except BaseException as error:  # none of it may leave the event loop, nor keep the slot
            await self._raised(state, error)
        finally:
            state.end()

    async def _raised(self, state: CallState, error: BaseException) -> None:
        """End a call whose method raised: as it asked for, if that was `abort`."""
        call = state.call
        if call.cancelled or isinstance(error, CallGone) or (self._closing and _is_cancel(error)):
            self._cancelled()
            call.done()
            return
        try:
            if state.refused:
                # The status that the code set counts, also when it raised then, as generated methods do.
                if not isinstance(error, (Aborted, NotImplementedError)):
                    log_raised(call, error, "method")
                await state.finish(unary=False)
                self._ok()
                return
            if isinstance(error, BadMessage):
                state.set_status(grpc.StatusCode.INVALID_ARGUMENT, error.message, None)
                await state.finish(unary=False)
                self._error()
                return
        except Exception as cause:
            error = cause
        self._error()
        if isinstance(error, BadFraming):
            call.fail(error.message)
        else:
            call.fail(log_raised(call, error, "method"), error)

    async def _run_sync(self, method: _Method, state: CallState) -> Any:
        """Run a sync method in a thread and wait until it has returned, whatever the client does meanwhile."""
        context = SyncContext(state)
        argument = _requests(state, context) if method.request_streaming else await _one(state)
        copied = contextvars.copy_context()
        future = state.loop.run_in_executor(self._threads, copied.run, caught, _call_sync, method, argument, context)
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError:
                state.end()  # the thread cannot be interrupted; its callbacks can tell it
                if self._closing:
                    raise
        result = future.result()
        if isinstance(result, Raised):
            raise result.error
        return result


class _Method:
    """One method of a servicer instance."""

    __slots__ = ("behaviour", "deserialize", "is_async", "request_streaming", "response_streaming", "serialize")

    def __init__(self, handler: Any) -> None:
        self.request_streaming: bool = handler.request_streaming
        self.response_streaming: bool = handler.response_streaming
        self.behaviour = behavior(handler)
        self.serialize = handler.response_serializer or bytes
        self.deserialize = handler.request_deserializer or bytes
        self.is_async = is_async(self.behaviour)


class _MethodByHandle(_Method):
    """The same method, called by a handle: its messages travel as values do."""

    __slots__ = ("_takes",)

    def __init__(self, handler: Any) -> None:
        super().__init__(handler)
        # Generated: the bound FromString of the message's class.
        self._takes = getattr(self.deserialize, "__self__", None)
        self.serialize = _serialized
        self.deserialize = self._request

    def _request(self, data: bytes) -> Any:
        """Return the request message in the arguments of a call. Raises BadMessage."""
        try:
            given = encoding.decode(data)
        except DecodingFailed as error:
            raise BadMessage(error.message) from None
        takes = getattr(getattr(self._takes, "DESCRIPTOR", None), "full_name", "message")
        match given:
            case [[request], dict(kwargs)] if not kwargs and not self.request_streaming:
                if not isinstance(self._takes, type) or isinstance(request, self._takes):
                    return request
                raise BadMessage(f"the method takes a {takes}, not a {type(request).__name__}")
        many = "a stream of requests, which handles do not send" if self.request_streaming else f"one {takes}"
        raise BadMessage(f"the method takes {many}")


def _serialized(message: Any) -> bytes:
    return b"".join(encoding.encode(message, "the response"))


async def _run_async(method: _Method, state: CallState) -> Any:
    """Run an async method; return its response, if it has just one."""
    context = AsyncContext(state)
    argument = _incoming(state) if method.request_streaming else await _one(state)
    result = method.behaviour(argument, context)
    if not inspect.isasyncgen(result):
        return _given(state, method, await result)
    try:
        async for response in result:
            await state.write(response)
    finally:
        await result.aclose()
    return None


def _given(state: CallState, method: _Method, response: Any) -> Any:
    """Return a unary method's response. Raises TypeError where there is none and the status is OK."""
    if response is None and not method.response_streaming and state.code is None and not state.aborted:
        raise TypeError("the method returned None; it must return a response message, or set a status")
    return response


async def _one(state: CallState) -> Any:
    """Return the one request message of a unary call."""
    message = await state.read()
    if message is grpc.aio.EOF:
        raise BadFraming("the call carried no request message")
    return message


async def _incoming(state: CallState) -> Any:
    """Yield the request messages as they come."""
    while (message := await state.read()) is not grpc.aio.EOF:
        yield message


def _requests(state: CallState, context: SyncContext) -> Iterator[Any]:
    """Yield the request messages to a thread."""
    while (message := context.run(state.read())) is not grpc.aio.EOF:
        yield message


def _call_sync(method: _Method, argument: Any, context: SyncContext) -> Any:
    """Call a sync method, in its thread. Return its response, if it has just one."""
    result = method.behaviour(argument, context)
    if not method.response_streaming:
        return _given(context.state, method, result)
    try:
        for response in result:
            context.run(context.state.write(response))
    finally:
        if hasattr(result, "close"):
            result.close()
    return None


def _is_cancel(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError)
