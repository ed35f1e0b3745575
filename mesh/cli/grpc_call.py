"""One gRPC call by means of reflection: connect, learn what the server serves, send, and hand over the answers.

Owns the channel, the deadline and the two streams. All words are in `call_words`. Called by `call`.

Blocking, unlike all else: a command makes one call, and reading a file or a terminal blocks anyway. Besides, grpc.aio
may tell INTERNAL of a stream that the server refused while a request was being written.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from mesh.cli import call_words
from mesh.cli.json_input import JsonInput
from mesh.clock import SYSTEM
from mesh.errors import InvalidConfig, MeshError, NotFound, Problem, Unreachable
from mesh.gateway.reflection import METHOD, SERVICES
from mesh.gateway.reflectionrpc import reflection_pb2 as pb
from mesh.liveness import CONNECT_TIMEOUT_S
from mesh.settings import MESSAGE_BYTES_MAX
from mesh.transcode.schema import MethodSchema, Schema

FILES_MAX = 1000
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
)

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What to call."""

    method: str
    """SERVICE/METHOD or SERVICE.METHOD."""
    metadata: Metadata
    timeout_s: float


def call(address: str, asked: Asked, given: JsonInput, answered: Callable[[Any], None]) -> None:
    """Call the method with the JSON that is given; `answered` gets each answer as plain data, as it comes.

    Raises InvalidConfig for wrong JSON, NotFound for an unknown service or method, Unreachable, DeadlineExceeded, and
    what the other side answered as a MeshError.
    """
    if not address.rpartition(":")[2].isdecimal():
        raise InvalidConfig((Problem("", f"the address {address!r} has no port", "write HOST:PORT"),))
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        until = SYSTEM.monotonic() + asked.timeout_s

        def left_s() -> float:
            return max(0.001, until - SYSTEM.monotonic())

        _connect(channel, address, min(CONNECT_TIMEOUT_S, asked.timeout_s))
        schema, method = _described(channel, asked, address, left_s)
        _Exchange(channel, schema, method, given).run(asked.metadata, left_s, answered)


class _Exchange:
    """The call itself. An answer is read as a stream of one: on the wire it is the same."""

    def __init__(self, channel: grpc.Channel, schema: Schema, method: MethodSchema, given: JsonInput) -> None:
        self._channel = channel
        self._schema = schema
        self._method = method
        self._given = given
        self._call: Any = None
        self._started = threading.Event()
        self._wrong: MeshError | None = None

    def run(self, metadata: Metadata, left_s: Callable[[], float], answered: Callable[[Any], None]) -> None:
        method, schema = self._method, self._schema
        several = method.client_streaming
        make: Any = self._channel.stream_stream if several else self._channel.unary_stream
        start = make(
            method.rpc_path,
            request_serializer=_serialized,
            response_deserializer=schema.message_class(method.output).FromString,
        )
        # What is wrong with a single request is told before anything is called.
        request = self._requests() if several else call_words.request(self._given.whole(), method, schema)
        self._call = start(request, metadata=tuple(metadata), timeout=left_s())
        self._started.set()
        try:
            for message in self._call:
                answered(call_words.response(message, schema.pool))
        except grpc.RpcError as error:
            raise self._wrong or _told(error, schema.pool) from None
        finally:
            self._call.cancel()

    def _requests(self) -> Iterator[Message]:
        """Yield the requests, in a thread of gRPC's own. What is wrong with one ends the call."""
        try:
            for line in self._given.lines():
                yield call_words.request(line, self._method, self._schema)
        except MeshError as error:
            self._wrong = error
            self._started.wait()
            self._call.cancel()


def _connect(channel: grpc.Channel, address: str, timeout_s: float) -> None:
    """Wait until the channel is connected. Raises Unreachable as soon as connecting has failed once."""
    states: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
    channel.subscribe(states.put, try_to_connect=True)
    hint = "start a mesh with meshctl start, or name another server with --grpc-address"
    until = SYSTEM.monotonic() + timeout_s
    try:
        while (state := states.get(timeout=max(0.0, until - SYSTEM.monotonic()))) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                raise Unreachable(f"nobody listens at {address}", hint=hint)
    except queue.Empty:
        raise Unreachable(f"{address} does not take connections", hint=hint) from None
    finally:
        channel.unsubscribe(states.put)


class _Questions:
    """One version of reflection. Each question is a stream of its own."""

    def __init__(self, channel: grpc.Channel, service: str, metadata: Metadata, left_s: Callable[[], float]) -> None:
        self._ask: Any = channel.unary_stream(
            f"/{service}/{METHOD}",
            request_serializer=pb.ServerReflectionRequest.SerializeToString,
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )
        self._metadata = tuple(metadata)
        self._left_s = left_s

    def ask(self, **question: Any) -> pb.ServerReflectionResponse:
        """Return the answer to one question; an error is one too. Raises grpc.RpcError."""
        request = pb.ServerReflectionRequest(**question)
        call = self._ask(request, metadata=self._metadata, timeout=self._left_s())
        try:
            response: pb.ServerReflectionResponse = next(call)
        except StopIteration:
            raise MeshError("the server's reflection ended without an answer") from None
        finally:
            call.cancel()
        return response


def _described(
    channel: grpc.Channel, asked: Asked, address: str, left_s: Callable[[], float]
) -> tuple[Schema, MethodSchema]:
    """Learn of the method from the newest reflection service that there is."""
    for version in SERVICES:
        try:
            return _learned(_Questions(channel, version, asked.metadata, left_s), asked.method)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise _told(error, None) from None
    hint = "ask a gateway's gRPC port, or switch reflection on in that server"
    raise NotFound(f"{address} has no reflection: what it serves cannot be known", hint=hint)


def _learned(questions: _Questions, method: str) -> tuple[Schema, MethodSchema]:
    listed = questions.ask(list_services="")
    service, name = call_words.named(method, sorted(each.name for each in listed.list_services_response.service))
    described = questions.ask(file_containing_symbol=service)
    if described.HasField("error_response"):
        raise NotFound(f"the server does not describe {service}: {described.error_response.error_message}")
    files: dict[str, FileDescriptorProto] = {}
    asked: set[str] = set()
    _take(described, files)
    # Some servers send one file at a time.
    while missing := {needed for file in files.values() for needed in file.dependency} - files.keys() - asked:
        asked |= missing
        if len(asked) + len(files) > FILES_MAX:
            raise MeshError(f"{service} needs more than {FILES_MAX} .proto files")
        for needed in sorted(missing):
            _take(questions.ask(file_by_filename=needed), files)
    schema = Schema.load(FileDescriptorSet(file=files.values()).SerializeToString(), [service])
    return schema, call_words.chosen(schema.services[service], name)


def _take(answer: pb.ServerReflectionResponse, files: dict[str, FileDescriptorProto]) -> None:
    for data in answer.file_descriptor_response.file_descriptor_proto:
        try:
            file = FileDescriptorProto.FromString(data)
        except DecodeError:
            raise MeshError("the server's reflection sent a file that cannot be read") from None
        files.setdefault(file.name, file)


def _told(error: Any, pool: DescriptorPool | None) -> MeshError:
    trailers = [(str(name), value) for name, value in error.trailing_metadata() or ()]
    return call_words.failure(error.code().name, error.details() or "", trailers, pool)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()
