"""gRPC's interoperability cases, driven with generated stubs; those that need cloud credentials are left out.

What a case demands is in the public description of these tests. Compression: Python's API shows no compressed flag,
so a tap between client and server reads it off the wire. Asserted are

- client_compressed: a stub's message goes out with the flag and `grpc-encoding: gzip`, and is answered as usual; a
  stream whose first message is compressed and whose second is not is added up rightly (written byte by byte: a stub
  compresses all messages of a call or none). Not asserted is the probe for INVALID_ARGUMENT: no Python server is told
  whether a message was compressed.
- server_compressed: the flag of every response, as the request wants it.
"""

from __future__ import annotations

import asyncio
import importlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from tests.support import grpc_wire
from tests.support.grpc_tap import Tap
from tests.support.interop_protos import compile_into, importable
from tests.support.mesh_process import FREE_PORTS, MeshProcess

SUPPORT = Path(__file__).parents[1] / "support"

SERVICE = "grpc.testing.TestService"
DEADLINE_S = 20.0
LARGE_REQUEST, LARGE_RESPONSE = 271_828, 314_159
REQUESTS, RESPONSES = (27_182, 8, 1_828, 45_904), (31_415, 9, 2_653, 58_979)
INITIAL = ("x-grpc-test-echo-initial", "test_initial_metadata_value")
TRAILING = ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab")
PLAIN_MESSAGE = "test status message"
SPECIAL_MESSAGE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the generated modules, which can be imported from now on."""
    directory = compile_into(tmp_path_factory.mktemp("interop"))
    importable(directory)
    return directory


@pytest.fixture(scope="session")
def pb(generated: Path) -> SimpleNamespace:
    """The generated messages and stubs."""
    names: dict[str, Any] = {}
    for module in ("empty_pb2", "messages_pb2", "test_pb2_grpc"):
        names |= vars(importlib.import_module(f"protos.grpc.testing.{module}"))
    return SimpleNamespace(**names)


@pytest.fixture(scope="session")
def gateway(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of the gRPC listener of a whole mesh that serves TestService as a deployment."""
    code = tmp_path_factory.mktemp("interop-app")
    shutil.copytree(generated, code, dirs_exist_ok=True)
    shutil.copy(SUPPORT / "interop_service.py", code)
    with MeshProcess("run", "interop_service:app", "--working-dir", str(code), *FREE_PORTS) as mesh:
        yield mesh.grpc


@pytest.fixture(params=["direct", "gateway"])
async def address(request: pytest.FixtureRequest, pb: SimpleNamespace) -> AsyncIterator[str]:
    """host:port where TestService is served: every case below runs against each."""
    if request.param == "gateway":
        yield request.getfixturevalue("gateway")
        return
    service = importlib.import_module("tests.support.interop_service")
    server = grpc.aio.server()
    pb.add_TestServiceServicer_to_server(service.TestService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as opened:
        yield opened


@pytest.fixture
def stub(pb: SimpleNamespace, channel: grpc.aio.Channel) -> Any:
    return pb.TestServiceStub(channel)


@pytest.fixture
async def tap(address: str) -> AsyncIterator[Tap]:
    async with Tap(address) as tapped:
        yield tapped


@pytest.fixture
async def tapped_stub(pb: SimpleNamespace, tap: Tap) -> AsyncIterator[Any]:
    """A stub whose calls the tap sees."""
    async with grpc.aio.insecure_channel(tap.address) as opened:
        yield pb.TestServiceStub(opened)


@pytest.fixture
def synchronously(pb: SimpleNamespace, address: str) -> Callable[[Callable[[Any], None]], Any]:
    """Runs a function with a stub of the synchronous API, in a thread."""

    def run(case: Callable[[Any], None]) -> None:
        with grpc.insecure_channel(address) as opened:
            case(pb.TestServiceStub(opened))

    return lambda case: asyncio.to_thread(run, case)


def payload(pb: SimpleNamespace, size: int) -> Any:
    return pb.Payload(body=bytes(size))


def large(pb: SimpleNamespace, **fields: Any) -> Any:
    return pb.SimpleRequest(response_size=LARGE_RESPONSE, payload=payload(pb, LARGE_REQUEST), **fields)


def pings(pb: SimpleNamespace) -> list[Any]:
    return [
        pb.StreamingOutputCallRequest(response_parameters=[{"size": wanted}], payload=payload(pb, sent))
        for sent, wanted in zip(REQUESTS, RESPONSES, strict=True)
    ]


def downloads(pb: SimpleNamespace) -> Any:
    return pb.StreamingOutputCallRequest(response_parameters=[{"size": size} for size in RESPONSES])


def uploads(pb: SimpleNamespace) -> list[Any]:
    return [pb.StreamingInputCallRequest(payload=payload(pb, size)) for size in REQUESTS]


def golden(pb: SimpleNamespace) -> Any:
    return pb.SimpleResponse(payload=payload(pb, LARGE_RESPONSE))


async def refused(awaitable: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(awaitable, DEADLINE_S)
    return raised.value


async def test_empty_unary(pb: SimpleNamespace, stub: Any) -> None:
    assert await stub.EmptyCall(pb.Empty(), timeout=DEADLINE_S) == pb.Empty()


async def test_empty_unary_is_empty_on_the_wire(pb: SimpleNamespace, tap: Tap, tapped_stub: Any) -> None:
    assert await tapped_stub.EmptyCall(pb.Empty(), timeout=DEADLINE_S) == pb.Empty()
    (call,) = tap.calls
    assert (call.request.sizes, call.response.sizes) == ([0], [0])
    assert call.response.headers["grpc-status"] == "0"


async def test_large_unary(pb: SimpleNamespace, stub: Any) -> None:
    assert await stub.UnaryCall(large(pb), timeout=DEADLINE_S) == golden(pb)


async def test_client_streaming(pb: SimpleNamespace, stub: Any) -> None:
    call = stub.StreamingInputCall(timeout=DEADLINE_S)
    for request in uploads(pb):
        await call.write(request)
    await call.done_writing()
    assert (await call).aggregated_payload_size == sum(REQUESTS) == 74_922


async def test_server_streaming(pb: SimpleNamespace, stub: Any) -> None:
    call = stub.StreamingOutputCall(downloads(pb), timeout=DEADLINE_S)
    assert [response.payload.body async for response in call] == [bytes(size) for size in RESPONSES]
    assert await call.code() is grpc.StatusCode.OK


async def test_ping_pong(pb: SimpleNamespace, stub: Any) -> None:
    call = stub.FullDuplexCall(timeout=DEADLINE_S)
    for request, size in zip(pings(pb), RESPONSES, strict=True):
        await call.write(request)
        assert (await call.read()).payload.body == bytes(size)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_half_duplex_answers_after_the_last_request(pb: SimpleNamespace, stub: Any) -> None:
    call = stub.HalfDuplexCall(timeout=DEADLINE_S)
    for request in pings(pb):
        await call.write(request)
    await call.done_writing()
    assert [len(response.payload.body) async for response in call] == list(RESPONSES)


async def test_empty_stream(stub: Any) -> None:
    call = stub.FullDuplexCall(timeout=DEADLINE_S)
    await call.done_writing()
    assert [response async for response in call] == []
    assert await call.code() is grpc.StatusCode.OK


async def test_cacheable_unary_is_told_how_long_it_may_be_kept(pb: SimpleNamespace, stub: Any) -> None:
    call = stub.CacheableUnaryCall(pb.SimpleRequest(), timeout=DEADLINE_S)
    assert int((await call).payload.body) > 0
    assert dict(await call.initial_metadata())["cache-control"] == "max-age=60, public"


@pytest.mark.parametrize("compressed", [True, False])
async def test_client_compressed_unary(pb: SimpleNamespace, tap: Tap, tapped_stub: Any, compressed: bool) -> None:
    compression = grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression
    request = large(pb, expect_compressed={"value": compressed})
    response = await tapped_stub.UnaryCall(request, compression=compression, timeout=DEADLINE_S)
    assert response == golden(pb)
    (call,) = tap.calls
    assert call.request.compressed == [compressed]
    assert call.request.headers.get("grpc-encoding", "identity") == ("gzip" if compressed else "identity")


async def test_client_compressed_streaming_by_a_stub(pb: SimpleNamespace, tap: Tap, tapped_stub: Any) -> None:
    call = tapped_stub.StreamingInputCall(iter(uploads(pb)), compression=grpc.Compression.Gzip, timeout=DEADLINE_S)
    assert (await call).aggregated_payload_size == sum(REQUESTS)
    (seen,) = tap.calls
    # A message that gzip would make longer (8 zeros) goes as it is.
    assert seen.request.compressed == [True, False, True, True]
    assert seen.request.headers["grpc-encoding"] == "gzip"


async def test_client_compressed_streaming(pb: SimpleNamespace, address: str) -> None:
    messages = [
        grpc_wire.framed(
            pb.StreamingInputCallRequest(
                expect_compressed={"value": compressed}, payload=payload(pb, size)
            ).SerializeToString(),
            compressed=compressed,
        )
        for size, compressed in ((27_182, True), (45_904, False))
    ]
    answer = await grpc_wire.call(address, f"/{SERVICE}/StreamingInputCall", messages, [("grpc-encoding", "gzip")])
    assert answer.status == "0"
    (response,) = map(pb.StreamingInputCallResponse.FromString, answer.messages())
    assert response.aggregated_payload_size == 73_086


@pytest.mark.parametrize("compressed", [True, False])
async def test_server_compressed_unary(pb: SimpleNamespace, tap: Tap, tapped_stub: Any, compressed: bool) -> None:
    request = large(pb, response_compressed={"value": compressed})
    assert await tapped_stub.UnaryCall(request, timeout=DEADLINE_S) == golden(pb)
    (call,) = tap.calls
    assert call.response.compressed == [compressed]


async def test_server_compressed_streaming(pb: SimpleNamespace, tap: Tap, tapped_stub: Any) -> None:
    wanted = [{"compressed": {"value": True}, "size": 31_415}, {"compressed": {"value": False}, "size": 92_653}]
    call = tapped_stub.StreamingOutputCall(
        pb.StreamingOutputCallRequest(response_parameters=wanted), timeout=DEADLINE_S
    )
    assert [len(response.payload.body) async for response in call] == [31_415, 92_653]
    (seen,) = tap.calls
    assert seen.response.compressed == [True, False]


async def test_custom_metadata_unary(pb: SimpleNamespace, stub: Any) -> None:
    call = stub.UnaryCall(large(pb), metadata=(INITIAL, TRAILING), timeout=DEADLINE_S)
    assert await call == golden(pb)
    assert INITIAL in tuple(await call.initial_metadata())
    assert TRAILING in tuple(await call.trailing_metadata())


async def test_custom_metadata_full_duplex(pb: SimpleNamespace, stub: Any) -> None:
    call = stub.FullDuplexCall(metadata=(INITIAL, TRAILING), timeout=DEADLINE_S)
    await call.write(
        pb.StreamingOutputCallRequest(
            response_parameters=[{"size": LARGE_RESPONSE}], payload=payload(pb, LARGE_REQUEST)
        )
    )
    await call.done_writing()
    assert [len(response.payload.body) async for response in call] == [LARGE_RESPONSE]
    assert INITIAL in tuple(await call.initial_metadata())
    assert TRAILING in tuple(await call.trailing_metadata())


@pytest.mark.parametrize("message", [PLAIN_MESSAGE, SPECIAL_MESSAGE], ids=["plain", "special_status_message"])
async def test_status_code_and_message_unary(pb: SimpleNamespace, stub: Any, message: str) -> None:
    request = pb.SimpleRequest(response_status={"code": 2, "message": message})
    error = await refused(stub.UnaryCall(request, timeout=DEADLINE_S))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, message)


@pytest.mark.parametrize("message", [PLAIN_MESSAGE, SPECIAL_MESSAGE], ids=["plain", "special_status_message"])
async def test_status_code_and_message_full_duplex(pb: SimpleNamespace, stub: Any, message: str) -> None:
    call = stub.FullDuplexCall(timeout=DEADLINE_S)
    await call.write(pb.StreamingOutputCallRequest(response_status={"code": 2, "message": message}))
    await call.done_writing()
    error = await refused(call.read())
    assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, message)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_each_status_code_arrives_as_it_is(pb: SimpleNamespace, stub: Any, code: grpc.StatusCode) -> None:
    request = pb.SimpleRequest(response_status={"code": code.value[0], "message": PLAIN_MESSAGE})
    call = stub.UnaryCall(request, timeout=DEADLINE_S)
    assert (await call.code(), await call.details()) == (code, PLAIN_MESSAGE)


async def test_unknown_payload_type_is_refused(pb: SimpleNamespace, stub: Any) -> None:
    error = await refused(stub.UnaryCall(pb.SimpleRequest(response_type=7), timeout=DEADLINE_S))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_unimplemented_method(pb: SimpleNamespace, stub: Any) -> None:
    error = await refused(stub.UnimplementedCall(pb.Empty(), timeout=DEADLINE_S))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_unimplemented_service(pb: SimpleNamespace, channel: grpc.aio.Channel) -> None:
    stub = pb.UnimplementedServiceStub(channel)
    error = await refused(stub.UnimplementedCall(pb.Empty(), timeout=DEADLINE_S))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_cancel_after_begin(stub: Any) -> None:
    call = stub.StreamingInputCall(timeout=DEADLINE_S)
    assert call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED


async def test_cancel_after_first_response(pb: SimpleNamespace, stub: Any) -> None:
    call = stub.FullDuplexCall(timeout=DEADLINE_S)
    await call.write(pings(pb)[0])
    assert len((await call.read()).payload.body) == RESPONSES[0]
    assert call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED


async def test_timeout_on_sleeping_server(pb: SimpleNamespace, stub: Any) -> None:
    call = stub.FullDuplexCall(timeout=0.1)
    await call.write(pb.StreamingOutputCallRequest(payload=payload(pb, REQUESTS[0])))
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_timeout_while_the_server_waits_before_a_response(pb: SimpleNamespace, stub: Any) -> None:
    request = pb.StreamingOutputCallRequest(response_parameters=[{"size": 1}, {"size": 1, "interval_us": 60_000_000}])
    call = stub.StreamingOutputCall(request, timeout=2.0)
    assert len((await call.read()).payload.body) == 1
    assert (await refused(call.read())).code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_synchronous_empty_and_large_unary(pb: SimpleNamespace, synchronously: Any) -> None:
    def case(stub: Any) -> None:
        assert stub.EmptyCall(pb.Empty(), timeout=DEADLINE_S) == pb.Empty()
        assert stub.UnaryCall(large(pb), timeout=DEADLINE_S) == golden(pb)

    await synchronously(case)


async def test_synchronous_streams(pb: SimpleNamespace, synchronously: Any) -> None:
    def case(stub: Any) -> None:
        sizes = [len(response.payload.body) for response in stub.StreamingOutputCall(downloads(pb), timeout=DEADLINE_S)]
        assert sizes == list(RESPONSES)
        added = stub.StreamingInputCall(iter(uploads(pb)), timeout=DEADLINE_S)
        assert added.aggregated_payload_size == sum(REQUESTS)
        waiting = [*pings(pb), None]
        requests: SimpleQueue[Any] = SimpleQueue()
        requests.put(waiting.pop(0))
        answered = []
        for response in stub.FullDuplexCall(iter(requests.get, None), timeout=DEADLINE_S):
            answered.append(len(response.payload.body))
            requests.put(waiting.pop(0))
        assert answered == list(RESPONSES)
        assert list(stub.FullDuplexCall(iter(()), timeout=DEADLINE_S)) == []

    await synchronously(case)


async def test_synchronous_metadata_and_status(pb: SimpleNamespace, synchronously: Any) -> None:
    def case(stub: Any) -> None:
        response, call = stub.UnaryCall.with_call(large(pb), metadata=(INITIAL, TRAILING), timeout=DEADLINE_S)
        assert response == golden(pb)
        assert INITIAL in call.initial_metadata()
        assert TRAILING in call.trailing_metadata()
        with pytest.raises(grpc.RpcError) as raised:
            stub.UnaryCall(
                pb.SimpleRequest(response_status={"code": 2, "message": SPECIAL_MESSAGE}), timeout=DEADLINE_S
            )
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.UNKNOWN, SPECIAL_MESSAGE)

    await synchronously(case)


async def test_synchronous_cancel_after_first_response(pb: SimpleNamespace, synchronously: Any) -> None:
    def case(stub: Any) -> None:
        requests: SimpleQueue[Any] = SimpleQueue()
        requests.put(pings(pb)[0])
        call = stub.FullDuplexCall(iter(requests.get, None), timeout=DEADLINE_S)
        assert len(next(call).payload.body) == RESPONSES[0]
        call.cancel()
        assert call.code() is grpc.StatusCode.CANCELLED
        requests.put(None)

    await synchronously(case)
