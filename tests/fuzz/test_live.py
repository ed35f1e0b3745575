"""Mutated messages and HTTP requests against a live gateway: each is answered as it must be, or its connection closed.

Between them good clients are served on connections that stay open. At the end nothing is left: no slot, no task, no
descriptor, no memory; and no log has a traceback.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import DecodeError

from mesh.transcode.path_text import PLAIN
from tests.fuzz import raw_client, text_mutations, wire_mutations
from tests.fuzz.http_mutations import Http, Sent, start
from tests.fuzz.inputs import Fuzz, Make, Outcome
from tests.fuzz.live import Live, live
from tests.fuzz.targets import EVERYTHING, SERVICE, Asked, Kind, Requests, same
from tests.support import native, rest
from tests.support.data_path import Connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKERS = 24
WARM = 100
GOOD_EVERY = 40
GRPC_SHARE = 0.04
"""Of HTTP requests, what goes to the gRPC listener as frames of HTTP/2."""
SENT_BYTES_MAX = 4000
"""Of a message whose answer says in a header what it was."""
INSIDE = re.compile(
    rb"Traceback \(most|File \"[/<]|\.py\", line|mesh\.(gateway|pipe|transcode)|object at 0x[0-9a-f]{8}"
)
"""Python's insides. Long enough not to be met by chance in a random body that is sent back."""
STATUSES = frozenset(
    (100, 101, 200, 204, 400, 404, 405, 408, 411, 412, 413, 414, 415, 417, 426, 431, 499, 501, 503, 504, 505)
)
"""What an HTTP request may be answered with. 500 only where a method gives back what no header can hold."""
HANDLER_FAILED = b'"reason": "HANDLER_FAILED"'
ASK_WORDS = ("", "a", "no-such", "Unary")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with live(tmp_path_factory.mktemp("fuzz")) as made:
        yield made


@pytest.fixture(scope="module")
def kind(fuzz: Fuzz) -> Kind:
    return Kind(EVERYTHING, fuzz.random("live"))


class Beside:
    """Lets a good client call, once in a while."""

    def __init__(self, running: Live) -> None:
        self._running = running
        self._count = 0

    async def served(self) -> None:
        self._count += 1
        if self._count % GOOD_EVERY == 0:
            await self._running.good()


class NativeCalls:
    """Mutated messages as native gRPC calls: to a servicer that parses them, and to one that sends them back."""

    def __init__(self, running: Live, kind: Kind, random: Random) -> None:
        self._channel = running.channel
        self._beside = Beside(running)
        self._everything = kind.wire
        self._asks = _wire_of(native.module("native_pb2").Ask, random)
        self._ask: Any = native.module("native_pb2").Ask
        self._told: Any = native.module("native_pb2").Told

    def make(self, random: Random) -> tuple[str, list[bytes]]:
        """Return a method and the messages to send."""
        if random.random() < 0.4:
            return f"/{SERVICE}/Create", [self._everything(random)[:SENT_BYTES_MAX]]
        method = random.choice(("Unary", "Unary", "Many", "Sum", "Chat", "Repeat"))
        count = random.choice((0, 1, 2, 3)) if method in ("Sum", "Chat") else 1
        return f"/{native.PROBE}/{method}", [_harmless(self._asks, self._ask, random) for _ in range(count)]

    async def check(self, call: tuple[str, list[bytes]]) -> Outcome:
        """Make a call, which must end with the status that its messages deserve."""
        path, messages = call
        await self._beside.served()
        received, code, said = await self._called(path, messages)
        assert not INSIDE.search(said.encode()), said
        if path.startswith(f"/{SERVICE}"):
            assert (code, received) == (grpc.StatusCode.OK, messages), (code, said)
            return "echoed"
        try:
            asks = [self._ask.FromString(message) for message in messages]
        except DecodeError:
            assert code is grpc.StatusCode.INVALID_ARGUMENT and "not a message of the type" in said, (code, said)
            return code.name
        assert code is grpc.StatusCode.OK, (code, said)
        answers = [self._told.FromString(message) for message in received]
        if not path.endswith("Many"):
            texts = [ask.id for ask in asks]
            expected = texts if path.endswith("Chat") else texts[-1:] or ["nothing"]
            assert [answer.text for answer in answers] == expected
        return code.name

    async def _called(self, path: str, messages: list[bytes]) -> tuple[list[bytes], grpc.StatusCode, str]:
        streams_in, streams_out = path.endswith(("Sum", "Chat")), path.endswith(("Many", "Chat"))
        make = getattr(self._channel, f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}")(
            path
        )
        call = make(iter(messages) if streams_in else messages[0], timeout=native.WAIT_S)
        received: list[bytes] = []
        try:
            if streams_out:
                async for message in call:
                    received.append(message)  # noqa: PERF401 - what came before an error counts
            else:
                received.append(await call)
        except grpc.aio.AioRpcError as error:
            return received, error.code(), f"{error.details()} {error.trailing_metadata()}"
        return received, await call.code(), await call.details()


def _wire_of(kind: Any, random: Random) -> wire_mutations.Wire:
    """Return a mutator of messages of a generated class."""
    starts = [wire_mutations.draw(kind.DESCRIPTOR, random) for _ in range(100)]
    for message in starts:
        _make_harmless(message)
    numbers = [field.number for field in kind.DESCRIPTOR.fields]
    return wire_mutations.Wire([wire_mutations.serialized(message) for message in starts], numbers, numbers)


def _make_harmless(ask: Any) -> None:
    """Take out what would let the servicer wait, or work for long: that is no fault of the message."""
    ask.gate, ask.count = "", ask.count % 5
    if ask.what not in ASK_WORDS:
        ask.what = ""


def _harmless(wire: Make[bytes], kind: Any, random: Random) -> bytes:
    """Return a mutated message that the servicer, if it can read it, answers at once."""
    while True:
        data = wire(random)
        try:
            ask = kind.FromString(data)
        except DecodeError:
            return data
        if not ask.gate and ask.what in ASK_WORDS and ask.count < 20:
            return data


class RestCalls:
    """Mutated requests in JSON, Connect's and gRPC-Web's forms, with what they must be answered with."""

    def __init__(self, running: Live, kind: Kind) -> None:
        self._address = running.http
        self._beside = Beside(running)
        self._requests = Requests(kind)
        self._idle: list[Connection] = []

    def make(self, random: Random) -> Asked:
        """Return a request that HTTP itself finds no fault with."""
        while True:
            asked = self._requests.make(random)
            values = (asked.content_type + asked.accept).encode("latin-1")
            sendable = not (asked.path + asked.query).translate(None, _IN_TARGETS) and not values.translate(
                None, _VISIBLE
            )
            usual = asked.method.isalpha() and asked.method.isupper() and asked.path.startswith(b"/e/")
            if usual and sendable and len(asked.body) < SENT_BYTES_MAX:
                return asked

    async def check(self, asked: Asked) -> Outcome:
        """Send a request; its answer must have the status that the tables by themselves find for it."""
        await self._beside.served()
        expected = self._requests.check(asked)
        connection = self._idle.pop() if self._idle else await Connection.open(self._address)
        connection.send(_written(asked))
        keep = False
        try:
            async with asyncio.timeout(native.WAIT_S):
                status, headers = await connection.head()
                length = 0 if asked.method == "HEAD" else int(headers.get("content-length", "0"))
                body = await connection.reader.readexactly(length)
            keep = headers.get("connection") != "close"
        finally:
            if keep:
                self._idle.append(connection)
            else:
                await connection.close()
        assert not INSIDE.search(body), body
        word = expected.split()[0]
        if word == "taken":
            echoed = self._requests.echoed(asked)
            if echoed is None:
                assert status == 500 and HANDLER_FAILED in body, (status, body)
                return "unanswerable"
            assert asked.method == "HEAD" or "WebWire" in expected or body == echoed or same(body, echoed), (
                body,
                echoed,
            )
        wanted = {"taken": (200,), "NoSuchPath": (404,), "WrongMethod": (405,), "MalformedPath": (400,)}
        if word in wanted:
            assert status in wanted[word], (status, expected, body)
        elif "WebWire" in expected or expected == "compressed":
            assert status == 200 and b"x-request-id" in "".join(headers).encode(), (status, expected, body)
        else:
            assert status in (400, 413, 415, 501), (status, expected, body)
        return f"{status} {word}"

    async def close(self) -> None:
        for connection in self._idle:
            await connection.close()


_VISIBLE = bytes(range(0x20, 0x7F))
_IN_TARGETS = PLAIN + b"%?"


def _written(asked: Asked) -> bytes:
    target = asked.path + (b"?" + asked.query if asked.query else b"")
    lines = [asked.method.encode() + b" " + target + b" HTTP/1.1", b"host: test"]
    if asked.content_type:
        lines.append(b"content-type: " + asked.content_type.encode())
    if asked.accept:
        lines.append(b"accept: " + asked.accept.encode())
    lines.append(b"content-length: %d" % len(asked.body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + asked.body


def starts() -> list[Sent]:
    """Return good requests of each kind, for plain HTTP and for each form of REST."""
    framed = b"\0\0\0\0\3\x12\1a"
    lines = b'{"id":"1"}\n{"id":"2","count":2}\n'
    return [
        start("GET", "/h/echo"),
        start("GET", "/h/echo?a=b%20c&d"),
        start("HEAD", "/h/echo"),
        start("DELETE", "/h/echo"),
        start("POST", "/h/echo", b"x" * 5000, "text/plain"),
        start("PUT", "/h/mirror", b"y" * 200, chunked=True),
        start("POST", "/h/mirror", b"z" * 140_000),
        start("POST", "/h/ignore", b"w" * 3000, chunked=True),
        start("OPTIONS", "/h/echo"),
        start("GET", "/-/routes"),
        start("GET", "/r/v1/do/a?id=1&count=2&numbers=1&numbers=2.5"),
        start("POST", "/r/v1/do", b'{"id":"1","count":5,"data":"AAAA","numbers":[1,"NaN"]}', "application/json"),
        start("PUT", "/r/v1/do/a", b"[1,2,3.5]", "application/json"),
        start("GET", "/r/v1/words/a"),
        start("GET", "/r/v1/many?count=3&id=1"),
        start("POST", "/r/v1/many", b'{"count":3}', "application/json"),
        start("POST", "/r/v1/sum/g", lines, "application/x-ndjson"),
        start("POST", "/r/v1/chat", lines, "application/x-ndjson", chunked=True),
        start("POST", "/r/v1/file", b"\0\1\2" * 100, "image/png"),
        start("GET", "/r/v1/download/a?count=3"),
        start("PUT", "/r/v1/receive/n", b"piece" * 50, "text/csv", chunked=True),
        start("POST", f"/r{rest.BARE}", b'{"id":"1"}', "application/json"),
        start("POST", f"/r{rest.BARE}", b"\x12\1a", "application/proto"),
        start("POST", f"/r{rest.BARE}", framed, "application/grpc-web"),
        start("POST", f"/r{rest.MANY}", framed, "application/grpc-web+proto"),
        start("POST", f"/r{rest.BARE}", b"AAAAAAMSAWE=", "application/grpc-web-text"),
        start("POST", "/e/v1/things", b'{"int32Value":5,"child":{"name":"a"}}', "application/json"),
        start("GET", "/e/v1/things/a?part.name=b&strings=c&time=2026-01-31T09%3A30%3A00Z"),
        start("PATCH", "/e/v1/parts/a%2Fb", b'{"weight":5}', "application/json"),
        start("POST", "/e/v1/attachments/a:echo", b"\xff\xfe", "image/png"),
    ]


def grpc_starts() -> list[Sent]:
    """Return good gRPC calls."""
    message = b"\0\0\0\0\3\x12\1a"
    paths = (f"/{native.PROBE}/Unary", f"/{native.PROBE}/Chat", f"/{SERVICE}/Create", "/no.Such/Method")
    more = ((b"te", b"trailers"), (b"x-own-bin", b"AAAA"), (b"grpc-timeout", b"5S"))
    made = [start("POST", path, message, "application/grpc") for path in paths]
    return [replace(sent, headers=(*sent.headers, *more)) for sent in made]


class HttpRequests:
    """Mutated HTTP requests, each on a connection of its own."""

    def __init__(self, running: Live, random: Random) -> None:
        self._addresses = (running.http, running.grpc)
        self._beside = Beside(running)
        ask: Any = rest.messages().Ask
        wire = _wire_of(ask, random)
        texts = text_mutations.Json(
            [b'{"id":"1","count":5,"data":"AAAA","numbers":[1,"NaN"]}'], ["id", "count", "data", "numbers"]
        )
        bodies: dict[bytes, Make[bytes]] = {
            b"application/json": texts,
            b"application/x-ndjson": lambda chance: b"\n".join(texts(chance) for _ in range(chance.randrange(4))),
            b"application/proto": lambda chance: _harmless(wire, ask, chance),
            b"application/grpc-web": lambda chance: _framed(_harmless(wire, ask, chance)),
        }
        self._http = Http(starts(), bodies, ["id", "count", "data", "numbers", "what", "no", "gate"])
        self._grpc = Http(grpc_starts(), {}, ["a"])
        self._count = 0

    def make(self, random: Random) -> tuple[bool, bytes]:
        """Return whether it is for the gRPC listener, and the bytes of a connection."""
        if random.random() < GRPC_SHARE:
            return True, self._grpc.second(random)
        return False, self._http(random)

    async def check(self, made: tuple[bool, bytes]) -> Outcome:
        """Send the bytes; the server must have answered, or at least closed the connection."""
        to_grpc, data = made
        await self._beside.served()
        self._count += 1
        told = await raw_client.exchange(self._addresses[to_grpc], data, self._count)
        assert not INSIDE.search(told.answer), bytes(told.answer[:5000])
        wrong = set(told.statuses) - STATUSES
        if wrong == {500}:
            assert told.statuses.count(500) == told.answer.count(HANDLER_FAILED), bytes(told.answer[:5000])
        else:
            assert not wrong, (wrong, bytes(told.answer[:5000]))
        if told.left:
            return "long"
        return str(told.statuses[-1]) if told.statuses else "HTTP/2" if told.answer else "closed"


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


async def test_messages_as_native_calls(fuzz: Fuzz, running: Live, kind: Kind) -> None:
    target = NativeCalls(running, kind, fuzz.random("native"))
    await fuzz.run_live("native calls (warm)", WARM, WORKERS, target.make, target.check)
    await running.good()
    before = await running.counts()
    await fuzz.run_live("native calls", fuzz.messages * 25 // 1000, WORKERS, target.make, target.check)
    await running.good()
    fuzz.report.append(f"  {await running.check(before)}, {running.good_calls} good calls of each kind")


async def test_messages_as_rest_calls(fuzz: Fuzz, running: Live, kind: Kind) -> None:
    target = RestCalls(running, kind)
    try:
        await fuzz.run_live("REST calls (warm)", WARM, WORKERS, target.make, target.check)
        await running.good()
        before = await running.counts()
        await fuzz.run_live("REST calls", fuzz.messages * 25 // 1000, WORKERS, target.make, target.check)
    finally:
        await target.close()
    await running.good()
    fuzz.report.append(f"  {await running.check(before)}, {running.good_calls} good calls of each kind")


async def test_http_requests(fuzz: Fuzz, running: Live) -> None:
    target = HttpRequests(running, fuzz.random("http"))
    await fuzz.run_live("HTTP requests (warm)", WARM, WORKERS, target.make, target.check)
    await running.good()
    before = await running.counts()
    await fuzz.run_live("HTTP requests", fuzz.requests, WORKERS, target.make, target.check)
    await running.good()
    fuzz.report.append(f"  {await running.check(before)}, {running.good_calls} good calls of each kind")
