"""Servicers for the tests of native gRPC, async and sync; copied into the working directory of a replica.

`Ask.what` says what a method does. What happens is told by lines in the file `events`; who waits, waits for a file
`open-…`, both in the working directory. Imports nothing of the tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from native.v1 import native_pb2, native_pb2_grpc  # type: ignore[import-not-found]

import mesh

Told: Any = native_pb2.Told
SECRET = "the secret reason"


def note(line: str) -> None:
    with open("events", "a") as events:
        events.write(line + "\n")


def is_open(gate: str) -> bool:
    return not gate or os.path.exists(f"open-{gate}")


class Running:
    """Counts who runs and notes each new maximum."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = 0
        self.most = 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            if self.now > self.most:
                self.most = self.now
                note(f"most {self.most}")

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


class Odd(BaseException):
    """No Exception."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


RAISED: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError(SECRET),
    "BaseException": lambda: Odd(SECRET),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(SECRET),
    "GeneratorExit": lambda: GeneratorExit(SECRET),
    "StopIteration": lambda: StopIteration(SECRET),
    "StopAsyncIteration": lambda: StopAsyncIteration(SECRET),
    "CancelledError": lambda: asyncio.CancelledError(SECRET),
    "TimeoutError": lambda: TimeoutError(SECRET),
    "RpcError": lambda: grpc.RpcError(SECRET),
    "AbortError": lambda: grpc.aio.AbortError(SECRET),
    "MemoryError": lambda: MemoryError(SECRET),
    "ExceptionGroup": lambda: BaseExceptionGroup(SECRET, [ValueError(SECRET), Odd(SECRET)]),
    "surrogates": lambda: ValueError("\ud800" + SECRET),
    "unprintable": Unprintable,
    "huge": lambda: ValueError(SECRET * 1_000_000),
}


def metadata_of(word: str) -> tuple[Any, ...]:
    """Trailing metadata that user code may come up with."""
    return {
        "crlf": (("x-split", "a\r\nx-forged: yes"),),
        "upper": (("X-Upper", "yes"),),
        "space": (("x split", "yes"),),
        "empty": (("", "yes"),),
        "control": (("x-control", "a\0b"),),
        "unicode": (("x-unicode", "héllo"),),
        "number": (("x-number", 5),),
        "text-bin": (("x-text-bin", "text"),),
        "long": (("x-long", "a" * 64 * 1024),),
        "many": tuple((f"x-many-{i}", "a" * 1000) for i in range(64)),
        "vast": (("x-vast", "a" * 20_000_000),),
        "forged": (
            *(("grpc-status", "0"), ("grpc-message", "forged"), ("x-request-id", "forged"), ("content-type", "x")),
            *(("connection", "close"), ("te", "x"), ("content-length", "1"), ("host", "x"), ("grpc-encoding", "x")),
            *(("grpc-timeout", "1S"), ("grpc-retry-pushback-ms", "xyz"), ("transfer-encoding", "chunked")),
            *(("grpc-internal-encoding-request", "x"), ("x-mesh-shed", "1"), ("x-kept", "kept")),
            *(
                ("user-agent", "x"),
                ("grpc-accept-encoding", "x"),
                ("endpoint-load-metrics-bin", b"x"),
                ("lb-token", "x"),
            ),
        ),
    }[word]


def rich_status() -> bytes:
    """A google.rpc.Status with details of a type that nobody else knows."""
    info = AnyMessage()
    info.Pack(ErrorInfo(reason="OWN", domain="native", metadata={"key": "value"}))
    unknown = AnyMessage(type_url="type.googleapis.com/no.such.Type", value=b"\x08\x01")
    made: bytes = Status(code=9, message="its own status", details=[info, unknown]).SerializeToString()
    return made


class OwnStatus(grpc.Status):
    code = grpc.StatusCode.FAILED_PRECONDITION
    details = "its own status"
    trailing_metadata = (("grpc-status-details-bin", rich_status()), ("x-own", "yes"))


def seen(context: Any) -> str:
    """What the context says before anything was set, as JSON."""
    metadata = [
        (name, value.hex() if isinstance(value, bytes) else value) for name, value in context.invocation_metadata()
    ]
    named = [each.key for each in context.invocation_metadata()]
    return json.dumps(
        {
            "metadata": metadata,
            "named": named,
            "peer": context.peer(),
            "time_remaining": context.time_remaining(),
            "identities": context.peer_identities(),
            "identity_key": context.peer_identity_key(),
            "auth_context": context.auth_context(),
            "code": str(context.code()),
            "details": context.details(),
            "trailing": list(context.trailing_metadata() or ()),
        }
    )


def settle(ask: Any, context: Any) -> None:
    """Set what `ask` wants on a context of either kind, without ending the call."""
    word = ask.what
    if word == "code":
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details(f"no {ask.id}")
        context.set_trailing_metadata((("x-own", "yes"), ("x-own-bin", b"\0\xff"), ("grpc-retry-pushback-ms", "-1")))
        assert context.code() is grpc.StatusCode.NOT_FOUND and context.details() == f"no {ask.id}"
        assert next(iter(context.trailing_metadata())) == ("x-own", "yes")
    elif word == "ok-details":
        context.set_details("all is well")
        context.set_trailing_metadata((("x-own", "yes"),))
    elif word == "code-then-raise":
        context.set_code(grpc.StatusCode.DATA_LOSS)
        context.set_details("lost")
        raise ValueError(SECRET)
    elif word == "number":
        context.set_code(ask.count)
        context.set_details("a number")
    elif word == "details":
        context.set_code(grpc.StatusCode.ABORTED)
        context.set_details(
            {"none": None, "bytes": b"bytes", "number": 7, "vast": "a" * 20_000_000, "surrogates": "\ud800x"}[ask.id]
        )
    elif word == "metadata":
        context.set_trailing_metadata(metadata_of(ask.id))
    elif word == "compressed":
        context.set_compression(grpc.Compression.Gzip)
    elif word == "die":
        note("died")
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "raise":
        raise RAISED[ask.id]()
    elif word == "callback-raises":
        add = getattr(context, "add_done_callback", None)
        if add is not None:
            add(lambda _: (_ for _ in ()).throw(RAISED[ask.id]()))
        else:
            context.add_callback(lambda: (_ for _ in ()).throw(RAISED[ask.id]()))


ABORTS = ("abort", "abort-status", "abort-metadata", "abort-number", "abort-caught")


class AsyncProbe(native_pb2_grpc.ProbeServicer, native_pb2_grpc.SecondServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.running = Running()

    async def Unary(self, request: Any, context: Any) -> Any:
        return await self.answer(request, context)

    async def Repeat(self, request: Any, context: Any) -> Any:
        return await self.answer(request, context)

    async def Say(self, request: Any, context: Any) -> Any:
        return Told(text=f"second {request.id}")

    async def Many(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if request.what == "forever":
            try:
                while True:
                    yield Told(data=bytes(request.count))
                    await asyncio.sleep(0)
            finally:
                note(f"ended {request.id}")
        for i in range(request.count):
            yield Told(count=i, data=request.data)
        yield await self.answer(request, context)

    async def Sum(self, request_iterator: Any, context: Any) -> Any:
        count, last = 0, None
        try:
            async for ask in request_iterator:
                last, count = ask, count + 1
                note(f"got {ask.id}")
                if ask.what == "early":
                    return Told(text="early")
            note(f"whole {last.id if last else ''}")
        except BaseException as error:
            note(f"broken {last.id if last else ''} {type(error).__name__}")
            raise
        if last is None:
            return Told(text="nothing")
        told = await self.answer(last, context)
        told.count = count
        return told

    async def Chat(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async for ask in request_iterator:
            yield await self.answer(ask, context)

    async def answer(self, ask: Any, context: Any) -> Any:
        if ask.what == "gated":
            return await self.gated(ask, context)
        if ask.what == "seen":
            return Told(text=seen(context))
        if ask.what == "initial":
            await context.send_initial_metadata((("x-first", "yes"), ("x-first-bin", b"\0\xff")))
            try:
                await context.send_initial_metadata(())
            except grpc.aio.UsageError:
                return Told(text="once only")
        if ask.what == "done-callback":
            context.add_done_callback(lambda ended: note(f"callback {ask.id} {ended.done()} {ended.cancelled()}"))
        if ask.what in ABORTS:
            await self.abort(ask, context)
        if ask.what == "initial-wrong":
            await context.send_initial_metadata(metadata_of(ask.id))
        settle(ask, context)
        if ask.what == "none":
            return None
        if ask.what == "wrong-type":
            return "a text"
        if ask.what == "size":
            return Told(data=bytes(ask.count))
        return Told(text=ask.id, data=ask.data)

    async def abort(self, ask: Any, context: Any) -> None:
        if ask.what == "abort-status":
            await context.abort_with_status(OwnStatus)
        if ask.what == "abort-number":
            await context.abort(ask.count, "a number")
        if ask.what == "abort-metadata":
            await context.abort(grpc.StatusCode.ABORTED, "with metadata", metadata_of(ask.id))
        try:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "aborted", (("x-own", "yes"),))
        except BaseException:
            if ask.what != "abort-caught":
                raise

    async def gated(self, ask: Any, context: Any) -> Any:
        with self.running:
            note(f"start {ask.id}")
            try:
                while not is_open(ask.gate):
                    await asyncio.sleep(0.002)
            except asyncio.CancelledError:
                note(f"cancelled {ask.id} {context.cancelled()}")
                if ask.count:  # takes its time to clean up
                    while not is_open(f"clean-{ask.id}"):
                        await asyncio.sleep(0.002)
                raise
            note(f"end {ask.id}")
            return Told(text=ask.id, count=os.getpid())


class SyncProbe(native_pb2_grpc.ProbeServicer, native_pb2_grpc.SecondServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.running = Running()

    def Unary(self, request: Any, context: Any) -> Any:
        return self.answer(request, context)

    def Repeat(self, request: Any, context: Any) -> Any:
        return self.answer(request, context)

    def Say(self, request: Any, context: Any) -> Any:
        return Told(text=f"second {request.id}")

    def Many(self, request: Any, context: Any) -> Iterator[Any]:
        if request.what == "forever":
            try:
                while True:
                    yield Told(data=bytes(request.count))
            finally:
                note(f"ended {request.id}")
        for i in range(request.count):
            yield Told(count=i, data=request.data)
        yield self.answer(request, context)

    def Sum(self, request_iterator: Any, context: Any) -> Any:
        count, last = 0, None
        try:
            for ask in request_iterator:
                last, count = ask, count + 1
                note(f"got {ask.id}")
                if ask.what == "early":
                    return Told(text="early")
            note(f"whole {last.id if last else ''}")
        except BaseException as error:
            note(f"broken {last.id if last else ''} {type(error).__name__}")
            raise
        if last is None:
            return Told(text="nothing")
        told = self.answer(last, context)
        told.count = count
        return told

    def Chat(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        for ask in request_iterator:
            yield self.answer(ask, context)

    def answer(self, ask: Any, context: Any) -> Any:
        if ask.what == "gated":
            return self.gated(ask, context)
        if ask.what == "seen":
            return Told(text=seen(context))
        if ask.what == "initial":
            context.send_initial_metadata((("x-first", "yes"), ("x-first-bin", b"\0\xff")))
            try:
                context.send_initial_metadata(())
            except ValueError:
                return Told(text="once only")
        if ask.what == "done-callback":
            assert context.add_callback(lambda: note(f"callback {ask.id} {not context.is_active()} False"))
        if ask.what in ABORTS:
            self.abort(ask, context)
        if ask.what == "initial-wrong":
            context.send_initial_metadata(metadata_of(ask.id))
        settle(ask, context)
        if ask.what == "none":
            return None
        if ask.what == "wrong-type":
            return "a text"
        if ask.what == "size":
            return Told(data=bytes(ask.count))
        return Told(text=ask.id, data=ask.data)

    def abort(self, ask: Any, context: Any) -> None:
        if ask.what == "abort-status":
            context.abort_with_status(OwnStatus)
        if ask.what == "abort-number":
            context.abort(ask.count, "a number")
        if ask.what == "abort-metadata":
            context.set_trailing_metadata(metadata_of(ask.id))
            context.abort(grpc.StatusCode.ABORTED, "with metadata")
        context.set_trailing_metadata((("x-own", "yes"),))
        try:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "aborted")
        except BaseException:
            if ask.what != "abort-caught":
                raise

    def gated(self, ask: Any, context: Any) -> Any:
        context.add_callback(lambda: note(f"callback {ask.id}"))
        with self.running:
            note(f"start {ask.id}")
            while not is_open(ask.gate):
                if not context.is_active():
                    note(f"cancelled {ask.id} True")
                    while ask.count and not is_open(f"clean-{ask.id}"):
                        time.sleep(0.002)
                    break
                time.sleep(0.002)
            note(f"end {ask.id}")
            return Told(text=ask.id, count=os.getpid())


class StyledProbe(native_pb2_grpc.ProbeServicer):  # type: ignore[misc]
    """Streams in the other style of grpc.aio: the methods read and write through the context."""

    async def Many(self, request: Any, context: Any) -> None:
        for i in range(request.count):
            await context.write(Told(count=i))
        if request.what == "raise":
            raise RAISED[request.id]()

    async def Sum(self, _: Any, context: Any) -> Any:
        count = 0
        while await context.read() is not grpc.aio.EOF:
            count += 1
        return Told(count=count)

    async def Chat(self, _: Any, context: Any) -> None:
        while (ask := await context.read()) is not grpc.aio.EOF:
            await context.write(Told(text=ask.id))
        context.set_trailing_metadata((("x-own", "yes"),))

    async def Unary(self, request: Any, context: Any) -> Any:
        for _ in range(request.count):  # that is wrong: the answer is one message
            await context.write(Told(data=request.data))
        return Told(text="written")


class OtherProbe(native_pb2_grpc.ProbeServicer):  # type: ignore[misc]
    """The same service, in another application."""

    async def Unary(self, request: Any, context: Any) -> Any:
        return Told(text="other")


declared = mesh.deployment(name="Handler")
asynchronous = declared(AsyncProbe).bind()
synchronous = declared(SyncProbe).bind()
styled = declared(StyledProbe).bind()
other = declared(OtherProbe).bind()
