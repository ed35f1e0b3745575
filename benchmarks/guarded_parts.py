"""The parts of a request that `benchmarks.guard` watches, each alone, and the work they are compared with.

Each work is one call of some microseconds that leaves things as it found them. Parts are called through what other
modules use of them, so that a change inside a part is seen and one of its tests is not needed here.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

import numpy

from benchmarks import greeter
from benchmarks.guarded_path import Ask, GuardedPath, greeter_directory
from mesh import access_log
from mesh.access_log import LINES_MAX, AccessLog
from mesh.clock import SYSTEM
from mesh.controlplane import publish
from mesh.errors import Overloaded
from mesh.gateway import answer
from mesh.gateway.heads import answer_headers, check_size, read_head
from mesh.gateway.rest_table import Endpoint, RestTable
from mesh.gateway.routes import RouteTable
from mesh.gateway.traffic import Traffic
from mesh.lifecycle import loop_factory
from mesh.model import Generation
from mesh.pipe.admission import Line
from mesh.pipe.balance import Balance
from mesh.pipe.codec import REQUESTS, RESPONSES, Chunk
from mesh.pipe.flow import CHUNK_BYTES
from mesh.pipe.messages import framed, sole
from mesh.pipe.outbox import Outbox
from mesh.pipe.slots import Slots
from mesh.serving.encoding import decode, encode
from mesh.settings import GatewaySettings
from mesh.telemetry import REPLICA_REQUESTS
from mesh.transcode.json_write import JsonOptions
from mesh.transcode.router import Match
from mesh.transcode.schema import Schema
from mesh.v1 import discovery_service_pb2, replica_service_pb2
from mesh.wire import from_proto, to_proto

Work = Callable[[], object]
APPLICATIONS, REPLICAS, FRAMES, ASKS = 100, 10, 64, 32
HEADERS = (
    (b"host", b"api.example.com"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"content-type", b"application/json"),
    (b"content-length", b"512"),
    (b"connection", b"keep-alive"),
    (b"authorization", b"Bearer 0123456789abcdef0123456789abcdef"),
    (b"x-request-id", b"5f2b1c3e9a7d4e0f8b6a1c2d3e4f5a6b"),
    (b"x-forwarded-for", b"203.0.113.7"),
)
SMALL = {"name": "Ada", "scores": [1, 2.5, None, True], "nested": {"a": "b" * 20, "c": [1, 2, 3]}}


@dataclass(frozen=True)
class Part:
    """One part; `copies`: most of its time is copying memory, so it is compared with that."""

    work: Work
    copies: bool = False


class Backend:
    """What a balance is over."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.open = self.ranked = False
        self.failures = 0


@dataclass
class Waiter:
    """What stands in a line."""

    order: int


def reference() -> Work:
    """Return work like that of the parts: calls, dicts, bytes, a small message there and back."""
    frame = replica_service_pb2.ResponseFrame

    def put(seen: dict[bytes, int], name: bytes) -> None:
        seen[name] = seen.get(name, 0) + len(name)

    def work() -> object:
        seen: dict[bytes, int] = {}
        for number in range(12):
            name = b"name-%d" % (number & 7)
            put(seen, name)
            if name in seen and name.startswith(b"name-"):
                seen[name] += 1
        message = frame(call=7, done=True)
        message.head.status = 200
        message.head.headers.extend([b"content-type", b"application/json"])
        read = frame.FromString(message.SerializeToString())
        return sum(seen.values()) + read.head.status

    return work


def copying() -> Work:
    """Return work that copies a megabyte."""
    source = bytearray(1_000_000)
    return lambda: bytes(source)


def parts() -> dict[str, Part]:
    """Return all parts, by the name that findings have."""
    return {
        **_gateway(),
        **_pipe(),
        **_told(),
        **_rest(),
        **_values(),
        **_snapshots(),
        **_whole(),
    }


def _gateway() -> dict[str, Part]:
    settings = GatewaySettings()
    table = RouteTable({f"/team/application-{n}": n for n in range(APPLICATIONS)})
    flat = [b"content-type", b"application/json", b"cache-control", b"no-store", b"x-version", b"7"]
    shed = Overloaded("Request dropped due to backpressure", retry_after_s=1.3)

    def head() -> object:
        read = read_head(HEADERS, client="127.0.0.1", scheme="http")
        check_size(read, settings, fields=len(HEADERS), path_bytes=20, query_bytes=0)
        return read

    def balance() -> Work:
        over: Balance[Backend] = Balance(100)
        for _ in range(REPLICAS):
            over.open(Backend())

        def pick() -> None:
            taken = [over.acquire() for _ in range(4)]
            for backend in taken:
                assert backend is not None
                over.release(backend)

        return pick

    def line() -> Work:
        waiting: Line[Waiter] = Line(2)
        first, second, third = (Waiter(order) for order in range(3))

        def decide() -> None:
            waiting.offer(first)
            waiting.offer(second)
            assert waiting.offer(third) is not None
            waiting.leave(first)
            waiting.pop()

        return decide

    return {
        "head of a request": Part(head),
        "headers of an answer": Part(lambda: answer_headers(flat, "5f2b1c3e9a7d4e0f", framed_here=True)),
        f"route of {APPLICATIONS}": Part(lambda: table.match(b"/team/application-77/v1/items/3")),
        f"choice of a replica of {REPLICAS}": Part(balance()),
        "admission: line, shed, leave": Part(line()),
        "problem body of a shed request": Part(lambda: answer.problem(shed, "5f2b1c3e9a7d4e0f")),
        "request id": Part(SYSTEM.request_id),
    }


def _pipe() -> dict[str, Part]:
    pb = replica_service_pb2
    flat = [part for header in HEADERS for part in header]

    def request() -> replica_service_pb2.RequestFrame:
        frame = pb.RequestFrame(call=7)
        head = frame.open
        head.method, head.raw_path, head.request_id = "GET", b"/team/application-77", "5f2b1c3e9a7d4e0f"
        head.headers.extend(flat)
        head.timeout_ms, head.scheme, head.http_version, head.client = 30_000, "http", "1.1", "127.0.0.1:50000"
        head.end = head.idempotent = True
        return frame

    def response() -> replica_service_pb2.ResponseFrame:
        frame = pb.ResponseFrame(call=7, done=True)
        head = frame.head
        head.status, head.data, head.end = 200, b'{"ok":true}', True
        head.headers.extend([b"content-type", b"application/json", b"content-length", b"11"])
        return frame

    def requests() -> bytes:
        return REQUESTS.encode([request() for _ in range(8)])

    def responses() -> bytes:
        return RESPONSES.encode([response() for _ in range(8)])

    asked, answered = requests(), responses()
    chunks = [Chunk(7, bytes(CHUNK_BYTES), end=False) for _ in range(4)]
    streamed = REQUESTS.encode(chunks)

    def read_requests() -> int:
        return sum(len(frame.open.headers) for frame in REQUESTS.decode(asked) if not isinstance(frame, Chunk))

    def read_responses() -> int:
        return sum(len(frame.head.data) for frame in RESPONSES.decode(answered) if not isinstance(frame, Chunk))

    slots = Slots(2)

    def take() -> None:
        for caller in (1, 2, 3):
            slots.take(caller, offered=False)
        slots.release()
        slots.take(3, offered=True)
        slots.release()
        slots.release()

    message = framed(b"x" * 200)
    return {
        "frames of 8 requests written": Part(requests),
        "frames of 8 requests read": Part(read_requests),
        "frames of 8 answers written": Part(responses),
        "frames of 8 answers read": Part(read_responses),
        "1 MB of body frames written": Part(lambda: REQUESTS.encode(chunks), copies=True),
        "1 MB of body frames read": Part(lambda: list(REQUESTS.decode(streamed)), copies=True),
        f"writer of {FRAMES} frames": Part(_writer()),
        "slots of a replica": Part(take),
        "framing of a gRPC message": Part(lambda: sole(framed(message), 1 << 20)),
    }


def _writer() -> Work:
    """Return what puts frames and has a writer write them, on a loop of its own."""
    loop = asyncio.new_event_loop()
    written = 0

    async def write(frames: list[int]) -> None:
        nonlocal written
        written += len(frames)

    async def send() -> None:
        outbox: Outbox[int] = Outbox(write)
        for number in range(FRAMES):
            outbox.put(number)
        outbox.end()
        await outbox.run()

    return lambda: loop.run_until_complete(send())


def _told() -> dict[str, Part]:
    traffic = Traffic("http", SYSTEM)
    ended = REPLICA_REQUESTS.labels("guard", "guard", "ok").inc
    loop = asyncio.new_event_loop()
    nowhere: TextIO = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    handler = logging.StreamHandler(nowhere)
    written = AccessLog(handler, "gateway", as_json=True)

    async def lines() -> None:
        access_log.current = written
        for _ in range(LINES_MAX):  # the last of them has all written
            traffic.log("GET", "/team/application-77", 200, SYSTEM.monotonic(), "5f2b1c3e9a7d4e0f")
        access_log.current = None

    return {
        "metrics of a request": Part(lambda: traffic.count("/team", "GET", 200, SYSTEM.monotonic())),
        "metrics of a replica": Part(ended),
        f"{LINES_MAX} lines of the access log": Part(lambda: loop.run_until_complete(lines())),
    }


def _rest() -> dict[str, Part]:
    schema = Schema.load((greeter_directory() / greeter.DESCRIPTOR_SET).read_bytes())
    table = RestTable(schema, "/team", JsonOptions())
    path = f"/team/{greeter.NAME}/SayHello".encode()
    found = table.match("POST", path)
    assert isinstance(found, Match)
    endpoint: Endpoint = found.value
    body = b'{"name": "world", "times": 3, "formal": true, "titles": ["Dr", "Prof"]}'
    reply = endpoint.response_class(message="Hello world!", number=3, formal=True).SerializeToString()

    def read() -> bytes:
        return endpoint.binding.request((), b"", body, "application/json").SerializeToString()

    def written() -> Any:
        return endpoint.binding.response(endpoint.response_class.FromString(reply))

    return {
        "REST: method of a path": Part(lambda: table.match("POST", path)),
        "REST: JSON to message": Part(read),
        "REST: message to JSON": Part(written),
    }


def _whole() -> dict[str, Part]:
    """Requests as a whole, from what a server calls to user code and back, some in a turn of the loop."""
    loop = (loop_factory() or asyncio.new_event_loop)()
    path = loop.run_until_complete(_started())

    def work(ask: Ask) -> Work:
        async def some() -> None:
            for _ in range(ASKS):
                await ask()

        return lambda: loop.run_until_complete(some())

    return {f"whole: {kind}": Part(work(ask)) for kind, ask in path.kinds().items()}


async def _started() -> GuardedPath:
    path = GuardedPath()
    await path.start()
    return path


def _values() -> dict[str, Part]:
    array = numpy.arange(125_000, dtype="f8")
    arguments = [(1, "two"), {"three": array[:4]}]
    small, typed, large = (b"".join(encode(value)) for value in (SMALL, arguments, array))
    received = bytearray(large)
    return {
        "handle: small value encoded": Part(lambda: encode(SMALL)),
        "handle: small value decoded": Part(lambda: decode(small)),
        "handle: tuple and array encoded": Part(lambda: encode(arguments)),
        "handle: tuple and array decoded": Part(lambda: decode(typed)),
        "handle: 1 MB array encoded": Part(lambda: b"".join(encode(array)), copies=True),
        "handle: 1 MB array decoded": Part(lambda: decode(received)),
    }


def _snapshots() -> dict[str, Part]:
    pb = discovery_service_pb2
    endpoints = tuple(publish.Endpoint(f"replica-{n}", f"127.0.0.1:{50_000 + n}") for n in range(REPLICAS))
    deployments = (publish.RoutedDeployment("Model", 100, 100, 30.0, endpoints),)
    applications = tuple(
        publish.RoutedApplication(f"application-{n}", f"/team/application-{n}", "Model", "", deployments)
        for n in range(APPLICATIONS // 10)
    )
    snapshot = publish.Snapshot(Generation(1, 7), applications)
    packed = to_proto(snapshot, pb.Snapshot).SerializeToString()
    return {
        f"snapshot of {len(applications)} × {REPLICAS} written": Part(
            lambda: to_proto(snapshot, pb.Snapshot).SerializeToString()
        ),
        f"snapshot of {len(applications)} × {REPLICAS} read": Part(
            lambda: from_proto(pb.Snapshot.FromString(packed), publish.Snapshot)
        ),
    }
