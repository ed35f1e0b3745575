"""Calls that are wrong on purpose: each harms itself alone, and nobody is told what is inside.

Beside each of them a stream is open on the same connection and on the same pipe; it must stay alive.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import h2.connection
import pytest
from h2.config import H2Configuration
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

from tests.support import grpc_wire
from tests.support.gateways import until
from tests.support.native import PROBE, WAIT_S, Beside, NativePath, ask, module, native_path, stub_of, trailers
from tests.support.replicas import ReplicaProcess

KINDS = ["asynchronous", "synchronous"]
METHODS = ["Unary", "Many", "Sum", "Chat"]
INSIDE = re.compile(r"Traceback|File \"|\.py|secret reason|Unexpected <class")


@pytest.fixture
async def path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[NativePath]:
    with caplog.at_level(logging.INFO):
        async with native_path(tmp_path) as path:
            yield path
            await path.until_free()
    surprises = [record for record in caplog.records if record.exc_info]
    assert not surprises, "nothing of it is a surprise to the gateway"


@pytest.fixture(params=KINDS)
async def beside(request: pytest.FixtureRequest, path: NativePath) -> AsyncIterator[Beside]:
    """A stream beside the test, of an application of either kind."""
    await path.serve(request.param, ongoing=20)
    async with Beside(path.stub) as beside:
        yield beside


def begin(stub: Any, method: str, request: Any) -> Any:
    call = getattr(stub, method)
    return call(iter((request,)), timeout=WAIT_S) if method in ("Sum", "Chat") else call(request, timeout=WAIT_S)


async def drained(call: Any) -> None:
    if hasattr(call, "read"):
        _ = [message async for message in call]
    else:
        await call


async def failed(call: Any) -> grpc.aio.AioRpcError:
    """Return the error of a call of any kind, which tells nothing of what is inside."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await drained(call)
    error = raised.value
    assert not INSIDE.search(f"{error.details()} {error.trailing_metadata()}"), error
    return error


RAISED = [
    *("ValueError", "BaseException", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration"),
    *("StopAsyncIteration", "CancelledError", "TimeoutError", "RpcError", "AbortError", "MemoryError"),
    *("ExceptionGroup", "surrogates", "unprintable", "huge"),
]


async def test_exceptions_of_every_kind_in_methods_of_every_kind(path: NativePath, beside: Beside) -> None:
    for name in RAISED:
        for method in METHODS:
            error = await failed(begin(path.stub, method, ask(what="raise", id=name)))
            assert error.code() is grpc.StatusCode.INTERNAL, (name, method, error.details())
            assert "the log has the reason" in str(error.details())
        await beside.alive()
    log = path.replica.log
    assert log.count("method raised") >= len(RAISED) * len(METHODS)
    assert len(log) < 10_000_000


async def test_exceptions_in_callbacks(path: NativePath, beside: Beside) -> None:
    names = ("ValueError", "SystemExit", "BaseException", "CancelledError")
    for name, method in itertools.product(names, METHODS):
        call = begin(path.stub, method, ask(what="callback-raises", id=name))
        told = [message async for message in call] if hasattr(call, "read") else [await call]
        assert told[0].text == name
        await beside.alive()


UNSENDABLE = ["crlf", "upper", "space", "empty", "control", "unicode", "number", "text-bin", "vast"]


async def test_metadata_that_no_wire_can_carry(path: NativePath, beside: Beside) -> None:
    for name in UNSENDABLE:
        for what in ("metadata", "initial-wrong"):
            error = await failed(path.stub.Unary(ask(what=what, id=name)))
            assert error.code() is grpc.StatusCode.INTERNAL, (name, what)
            assert "x-forged" not in trailers(error)
            await beside.alive()
        error = await failed(begin(path.stub, "Chat", ask(what="abort-metadata", id=name)))
        assert error.code() in (grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL)
        await beside.alive()


async def test_metadata_larger_than_clients_take(path: NativePath, beside: Beside) -> None:
    whats = ("metadata", "abort-metadata", "initial-wrong")
    for name, what, method in itertools.product(("long", "many"), whats, METHODS):
        error = await failed(begin(path.stub, method, ask(what=what, id=name)))
        assert error.code() in (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.ABORTED,
        ), error
        await beside.alive()


async def test_names_that_are_not_user_codes_own(path: NativePath, beside: Beside) -> None:
    for what in ("metadata", "initial-wrong"):
        for method in METHODS:
            call = begin(path.stub, method, ask(what=what, id="forged"))
            told = [message async for message in call] if hasattr(call, "read") else [await call]
            assert told and await call.code() is grpc.StatusCode.OK, (what, method)
            found = dict((*await call.initial_metadata(), *await call.trailing_metadata()))
            assert found["x-kept"] == "kept"
            assert "forged" not in found.values() and "x-mesh-shed" not in found and "connection" not in found
            await beside.alive()
    error = await failed(path.stub.Unary(ask(what="abort-metadata", id="forged")))
    assert error.code() is grpc.StatusCode.ABORTED
    assert trailers(error)["x-request-id"] != "forged"


async def test_numbers_that_are_no_status(path: NativePath, beside: Beside) -> None:
    kinds = itertools.product((17, -1, 2**31 - 1, 99), ("number", "abort-number"), ("Unary", "Sum", "Chat"))
    for number, what, method in kinds:
        error = await failed(begin(path.stub, method, ask(what=what, count=number)))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "a number")
        await beside.alive()


MALFORMED = [b"\x0a\xff", b"\xff" * 20, b"\x0a\x02\xff\xfe", b"\x08", b"\x0a\x7fshort", b"\x07"]


async def test_messages_of_wrong_bytes(path: NativePath, beside: Beside) -> None:
    for data in MALFORMED:
        for method in METHODS:
            kind = "stream" if method in ("Sum", "Chat") else "unary"
            answers = "stream" if method in ("Many", "Chat") else "unary"
            make = getattr(path.channel, f"{kind}_{answers}")(f"/{PROBE}/{method}")
            error = await failed(make(iter((data,)) if kind == "stream" else data, timeout=WAIT_S))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (data, method, error)
            assert "not a message of the type" in str(error.details())
        await beside.alive()


async def test_a_replica_that_dies_of_a_call_harms_what_it_ran_only(path: NativePath) -> None:
    replicas = [await path.replica_of("asynchronous") for _ in range(4)]
    await path.gateways.publish(path.routed("asynchronous", *replicas))
    error = await failed(path.stub.Unary(ask(what="die")))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert (await path.stub.Unary(ask(id="1"))).text == "1"
    assert path.events().count("died") == 1, "what must not run twice does not"
    await until(lambda: len(living(replicas)) == 3, "the process is gone")
    path.replicas[:] = living(replicas)


def living(replicas: list[ReplicaProcess]) -> list[ReplicaProcess]:
    return [replica for replica in replicas if replica._process and replica._process.poll() is None]


class Wire:
    """One HTTP/2 connection with many streams, written byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str) -> None:
        self._reader, self._writer, self._authority = reader, writer, authority
        config = H2Configuration(
            header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self.answers: dict[int, grpc_wire.WireAnswer] = {}
        self.over: set[int] = set()

    @classmethod
    async def open(cls, address: str) -> Wire:
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)), address)

    def begin(self, path: str, headers: Any = (), *, usual: bool = True, before: Any = ()) -> int:
        """Send the head of a call and return its stream."""
        stream = self._h2.get_next_available_stream_id()
        self.answers[stream] = grpc_wire.WireAnswer()
        pseudo = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", self._authority))
        own = (("content-type", "application/grpc"), ("te", "trailers")) if usual else ()
        self._h2.send_headers(stream, [*pseudo, *before, *own, *headers])
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send bytes of a call."""
        for i in range(0, len(data), 16384):
            self._h2.send_data(stream, data[i : i + 16384])
        if end:
            self._h2.end_stream(stream)

    def reset(self, stream: int, code: int) -> None:
        """Break a call off."""
        self._h2.reset_stream(stream, code)
        self.over.add(stream)

    async def until(self, condition: Any) -> None:
        """Exchange bytes until `condition()` is true."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._writer.write(self._h2.data_to_send())
                await self._writer.drain()
                if condition():
                    return
                data = await self._reader.read(65536)
                assert data, "the connection was closed"
                for event in self._h2.receive_data(data):
                    self._event(event)
            self._writer.write(self._h2.data_to_send())

    async def ended(self, stream: int) -> grpc_wire.WireAnswer:
        """Return the answer to a call once it has ended."""
        await self.until(lambda: stream in self.over)
        return self.answers[stream]

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def _event(self, event: Any) -> None:
        if (answer := self.answers.get(getattr(event, "stream_id", 0))) is None:
            return
        if isinstance(event, ResponseReceived):
            answer.headers.update({str(name): str(value) for name, value in event.headers})
        elif isinstance(event, TrailersReceived):
            answer.trailers.update({str(name): str(value) for name, value in event.headers})
        elif isinstance(event, DataReceived):
            answer.data += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamReset):
            answer.reset = int(event.error_code)
            self.over.add(event.stream_id)
        elif isinstance(event, StreamEnded):
            self.over.add(event.stream_id)


class WireBeside:
    """A stream on a `Wire` that must stay alive."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._stream = wire.begin(f"/{PROBE}/Chat")
        self._count = 0

    async def alive(self) -> None:
        """Send a message and get its answer."""
        self._count += 1
        self._wire.send(self._stream, grpc_wire.framed(ask(id=f"beside {self._count}").SerializeToString()))
        answer = self._wire.answers[self._stream]
        await self._wire.until(lambda: len(whole(answer.data)) >= self._count or self._stream in self._wire.over)
        assert whole(answer.data)[-1] == f"beside {self._count}", answer

    async def end(self) -> None:
        """End the stream in good order."""
        self._wire.send(self._stream, b"", end=True)
        assert (await self._wire.ended(self._stream)).status == "0"


def whole(data: bytes | bytearray) -> list[str]:
    """Return the texts of the whole messages in `data`."""
    texts = []
    while len(data) >= 5 and len(data) >= 5 + (size := int.from_bytes(data[1:5], "big")):
        texts.append(str(module("native_pb2").Told.FromString(bytes(data[5 : 5 + size])).text))
        data = data[5 + size :]
    return texts


GOOD = grpc_wire.framed(b"")
HEADS: dict[str, list[tuple[str, str]]] = {
    "bad base64": [("x-own-bin", "!!!not base64!!!")],
    "base64 of wrong length": [("x-own-bin", "A")],
    "invalid UTF-8 in grpc-message": [("grpc-message", "\xff\xfe%ff%fe%zz")],
    "invalid UTF-8 in a value": [("x-own", "\xff\xfe\x80")],
    "control characters": [("x-own", "a\x01b\x7f")],
    "CR and LF": [("x-own", "a\r\nx-forged: yes")],
    "NUL": [("x-own", "a\0b")],
    "upper-case name": [("X-Upper", "yes")],
    "empty name": [("", "x")],
    "a space in the name": [("x own", "x")],
    "a bad time-out": [("grpc-timeout", "soon")],
    "a vast time-out": [("grpc-timeout", "99999999999H")],
    "a time-out of nothing": [("grpc-timeout", "0n")],
    "an unknown encoding": [("grpc-encoding", "zstd-9000")],
    "a status from a client": [("grpc-status", "17")],
    "64 KiB of metadata": [(f"x-many-{i}", "a" * 1000) for i in range(64)],
    "64 KiB in one value": [("x-long", "a" * 64 * 1024)],
    "64 KiB in one binary value": [("x-long-bin", "QUJD" * 16 * 1024)],
    "many names": [(f"x-{i}", "") for i in range(3000)],
    "connection": [("connection", "close")],
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "a second content-type": [("content-type", "text/plain")],
    "a late pseudo header": [(":path", "/other")],
    "a bad details header": [("grpc-status-details-bin", "!!!")],
    "an application of odd characters": [("application", "\xff\r\n")],
    "an odd request id": [("x-request-id", "\xff" * 300)],
    "another trace": [("grpc-trace-bin", "AAAA"), ("grpc-tags-bin", "AAAA")],
}


async def test_heads_that_are_wrong_harm_their_own_stream_only(path: NativePath) -> None:
    """On one HTTP/2 connection. Where the protocol wants the whole connection ended, another goes on."""
    await path.serve("asynchronous", ongoing=20)
    async with Beside(path.stub) as elsewhere:
        for name, headers in HEADS.items():
            wire = await Wire.open(path.gateways.gateway.grpc_address)
            beside = WireBeside(wire)
            await beside.alive()
            for method in ("Unary", "Chat"):
                stream = wire.begin(f"/{PROBE}/{method}", headers)
                wire.send(stream, GOOD, end=True)
                answer = await wire.ended(stream)
                assert answer.status or answer.reset is not None, name
                assert not INSIDE.search(str(answer)), name
                await beside.alive()
            await beside.end()
            wire.close()
            await elsewhere.alive()


BODIES: dict[str, bytes] = {
    "no message": b"",
    "half a prefix": b"\0\0",
    "half a message": b"\0\0\0\0\x05abc",
    "an unknown flag": b"\x05\0\0\0\0",
    "compressed without an encoding": b"\x01\0\0\0\x03abc",
    "a vast length": b"\0\xff\xff\xff\xff",
    "a length above the limit": b"\0\x04\0\0\0",
    "two messages": GOOD * 2,
    "a thousand messages": GOOD * 1000,
    "rubbish": b"GET / HTTP/1.1\r\n\r\n" * 10,
    "wrong bytes": grpc_wire.framed(b"\xff" * 50),
}


@pytest.mark.long
async def test_bodies_that_are_wrong_harm_their_own_stream_only(path: NativePath) -> None:
    await path.serve("asynchronous", ongoing=20)
    wire = await Wire.open(path.gateways.gateway.grpc_address)
    beside = WireBeside(wire)
    for name, body in BODIES.items():
        # The one message of a unary call that never comes is waited for until the client leaves: grpc's own way.
        for method in METHODS if len(body) >= 5 and name != "half a message" else ("Many", "Sum", "Chat"):
            for headers in ((), (("grpc-encoding", "gzip"),)):
                stream = wire.begin(f"/{PROBE}/{method}", headers)
                wire.send(stream, body, end=True)
                answer = await wire.ended(stream)
                assert answer.status or answer.reset is not None, name
                assert not INSIDE.search(str(answer)), (name, method, answer)
                await beside.alive()
    for code in range(14):  # broken off with each of HTTP/2's error codes, within a message
        for method in METHODS:
            stream = wire.begin(f"/{PROBE}/{method}")
            wire.send(stream, b"\0\0\0\0\x05abc")
            wire.reset(stream, code)
        await beside.alive()
    await beside.end()
    wire.close()


async def test_a_watcher_of_health_that_reads_nothing_holds_up_nobody(path: NativePath) -> None:
    """Its stream has no window: what is written to it waits for ever."""
    await path.serve("asynchronous")
    wire = await Wire.open(path.gateways.gateway.grpc_address)
    wire._h2.update_settings({4: 0})  # SETTINGS_INITIAL_WINDOW_SIZE
    await wire.until(lambda: True)
    stream = wire.begin("/grpc.health.v1.Health/Watch")
    wire.send(stream, grpc_wire.framed(b"\x0a" + bytes([len(PROBE)]) + PROBE.encode()), end=True)
    await wire.until(lambda: bool(wire.answers[stream].headers))
    for _ in range(3):
        await path.gateways.publish()
        await path.gateways.publish(path.routed("asynchronous", path.replica))
        check: Any = path.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"", timeout=WAIT_S) == b"\x08\x01"
    await asyncio.wait_for(path.gateways.gateway.drain(), WAIT_S)
    wire.close()


async def test_what_user_code_raises_is_in_the_log_with_the_request_id(path: NativePath) -> None:
    await path.serve("asynchronous")
    error = await failed(path.stub.Unary(ask(what="raise", id="ValueError"), metadata=(("x-request-id", "find-me"),)))
    assert trailers(error)["x-request-id"] == "find-me"
    lines = [line for line in path.replica.log.splitlines() if "find-me" in line]
    assert lines and "the secret reason" in lines[0]
    assert stub_of(path.channel)
