"""What methods see of a gRPC call and what clients see of what they set: metadata, status, messages, compression."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support import grpc_wire
from tests.support.native import PROBE, WAIT_S, NativePath, ask, module, native_path, refused, stub_of, trailers

KINDS = ["asynchronous", "synchronous"]
LIMIT = 256 * 1024


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[NativePath]:
    async with native_path(tmp_path) as path:
        yield path


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_method_sees(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    given = (
        *(("x-own", "a"), ("x-own", "b"), ("x-own-bin", b"\0\xff"), ("x-empty", ""), ("x-empty-bin", b"")),
        *(("x-mesh-shed", "1"), ("x-forwarded-for", "1.2.3.4"), ("te", "trailers"), ("connection", "x-own")),
        *(("application", "default"), ("x-request-id", "mine")),
    )
    call = path.stub.Unary(ask(what="seen"), metadata=given, timeout=10)
    found = json.loads((await call).text)
    metadata = [tuple(pair) for pair in found["metadata"]]
    names = [name for name, _ in metadata]
    assert found["named"] == names
    assert [pair for pair in metadata if pair[0].startswith("x-own") or pair[0].startswith("x-empty")] == [
        *(("x-own", "a"), ("x-own", "b"), ("x-own-bin", "00ff"), ("x-empty", ""), ("x-empty-bin", "")),
    ]
    assert ("x-forwarded-for", "127.0.0.1") in metadata and ("x-request-id", "mine") in metadata
    assert not {"x-mesh-shed", "te", "connection", "application", "content-type", "grpc-timeout"} & set(names)
    assert "grpc-python-asyncio" in dict(metadata)["user-agent"]
    assert found["peer"].startswith("ipv4:127.0.0.1:")
    assert 5 < found["time_remaining"] <= 10.2, "gRPC's core rounds a deadline up, by one in a hundred at most"
    assert (found["identities"], found["identity_key"], found["auth_context"]) == (None, None, {})
    assert (found["details"], found["trailing"]) == ("", [])
    assert ("x-request-id", "mine") in tuple(await call.trailing_metadata())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_without_a_deadline_has_none(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    chat = path.stub.Chat(iter((ask(what="seen"),)))
    assert json.loads((await chat.read()).text)["time_remaining"] is None
    await chat.code()
    unary = json.loads((await path.stub.Unary(ask(what="seen"))).text)
    assert unary["time_remaining"] <= 60, "what the deployment allows"


@pytest.mark.parametrize("kind", KINDS)
async def test_initial_metadata(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    for call in (path.stub.Unary(ask(what="initial")), path.stub.Many(ask(what="initial"))):
        told = await call if not hasattr(call, "read") else await call.read()
        assert told.text == "once only"
        found = tuple(await call.initial_metadata())
        assert ("x-first", "yes") in found and ("x-first-bin", b"\0\xff") in found
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("kind", KINDS)
async def test_a_status_that_was_set_is_delivered_as_it_is(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    for call in (path.stub.Unary(ask(what="code", id="x")), path.stub.Chat(iter((ask(what="code", id="x"),)))):
        if hasattr(call, "read"):  # what was answered before the status came, does come
            assert (await call.read()).text == "x"
        error = await refused(call.read() if hasattr(call, "read") else call)
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no x")
        told = trailers(error)
        assert (told["x-own"], told["x-own-bin"], told["grpc-retry-pushback-ms"]) == ("yes", b"\0\xff", "-1")
        assert "grpc-status-details-bin" not in told


@pytest.mark.parametrize("kind", KINDS)
async def test_details_and_trailers_of_success(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    call = path.stub.Unary(ask(what="ok-details", id="x"))
    assert (await call).text == "x"
    assert ("x-own", "yes") in tuple(await call.trailing_metadata())
    # Clients of grpc do not tell the details of an OK; they are on the wire.
    request = grpc_wire.framed(ask(what="ok-details").SerializeToString())
    for method in ("Unary", "Chat"):
        answer = await grpc_wire.call(path.gateways.gateway.grpc_address, f"/{PROBE}/{method}", [request])
        assert (answer.status, answer.trailers["grpc-message"]) == ("0", "all is well")


@pytest.mark.parametrize("kind", KINDS)
async def test_abort(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    for what in ("abort", "abort-caught"):
        for call in (path.stub.Unary(ask(what=what)), path.stub.Many(ask(what=what))):
            error = await refused(call.read() if hasattr(call, "read") else call)
            assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "aborted"), what
            assert trailers(error)["x-own"] == "yes"


@pytest.mark.parametrize("kind", KINDS)
async def test_abort_with_status_passes_rich_details_unchanged(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    error = await refused(path.stub.Unary(ask(what="abort-status")))
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "its own status")
    assert trailers(error)["grpc-status-details-bin"] == module("native_service").rich_status()
    assert trailers(error)["x-own"] == "yes"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_exception_after_a_status_keeps_the_status(path: NativePath, kind: str) -> None:
    replica = await path.serve(kind)
    error = await refused(path.stub.Unary(ask(what="code-then-raise")))
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "lost")
    assert "the secret reason" in replica.log


@pytest.mark.parametrize("kind", KINDS)
async def test_done_callbacks(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    await path.stub.Unary(ask(what="done-callback", id="1"))
    await path.until_event("callback 1 True False")


@pytest.mark.parametrize("kind", KINDS)
async def test_details_of_any_type_are_told_as_text(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    details = {"none": "", "bytes": "bytes", "number": "7", "vast": "a" * 16384, "surrogates": "?x"}
    sizes = (("grpc.max_metadata_size", 1_000_000), ("grpc.absolute_max_metadata_size", 1_000_000))
    async with path.connect(*sizes) as channel:
        for given, told in details.items():
            error = await refused(stub_of(channel).Unary(ask(what="details", id=given)))
            assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, told)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_that_is_no_message_fails_the_call(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    for what in ("none", "wrong-type"):
        for call in (path.stub.Unary(ask(what=what)), path.stub.Chat(iter((ask(what=what),)))):
            error = await refused(call.read() if hasattr(call, "read") else call)
            assert error.code() is grpc.StatusCode.INTERNAL
            assert "the log has the reason under this request id" in str(error.details())
    await path.until_free()


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_up_to_the_limit(tmp_path: Path, kind: str) -> None:
    sizes = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
    async with native_path(tmp_path, message_bytes_max=LIMIT) as path:
        await path.serve(kind, ongoing=4)
        async with path.connect(*sizes) as channel:
            stub = stub_of(channel)
            fits = ask(data=bytes(LIMIT - 4))
            assert fits.ByteSize() == LIMIT
            assert (await stub.Unary(fits)).data == fits.data
            assert (await stub.Chat(iter((fits,))).read()).data == fits.data
            over = ask(data=bytes(LIMIT - 3))
            await refused_for_size(stub.Unary(over))
            await refused_for_size(stub.Sum(iter((over,))))
            await refused_for_size(stub.Chat(iter((over,))).read())
            # And the answers.
            assert len((await stub.Unary(ask(what="size", count=LIMIT - 4))).data) == LIMIT - 4
            assert len((await stub.Chat(iter((ask(what="size", count=LIMIT - 4),))).read()).data) == LIMIT - 4
            for size in (LIMIT - 3, 10 * LIMIT):
                await refused_for_size(stub.Unary(ask(what="size", count=size)))
                await refused_for_size(stub.Chat(iter((ask(what="size", count=size),))).read())
        await path.until_free()


async def refused_for_size(call: Any) -> None:
    error = await refused(call)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
    assert "larger" in str(error.details())
    assert "grpc-retry-pushback-ms" not in trailers(error), "it was not shed, and trying again is of no use"


async def test_messages_of_sixteen_mebibytes_and_no_more(path: NativePath) -> None:
    """With the limits as they are, and a limit of the gateway above the replica's own."""
    size = 16 * 1024 * 1024
    await path.serve("asynchronous")
    options = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
    async with path.connect(*options) as channel:
        fits = ask(data=bytes(size - 5))
        assert fits.ByteSize() == size
        assert len((await stub_of(channel).Unary(fits)).data) == size - 5
        await refused_for_size(stub_of(channel).Unary(ask(data=bytes(size - 4))))
        over = ask(data=bytes(size))
        for call in (stub_of(channel).Unary(over), stub_of(channel).Sum(iter((over,)))):
            error = await refused(call)
            assert "--message-bytes" in str(error.details()) and str(size) in str(error.details())
        await refused_for_size(stub_of(channel).Unary(ask(data=bytes(3 * size))))  # by grpc itself
    await path.until_free()


async def test_a_higher_limit_holds_to_the_end(tmp_path: Path) -> None:
    size = 24 * 1024 * 1024
    async with native_path(tmp_path, message_bytes_max=size) as path:
        await path.serve("asynchronous")
        options = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
        async with path.connect(*options) as channel:
            assert len((await stub_of(channel).Unary(ask(data=bytes(size - 5)))).data) == size - 5
        await path.until_free()


@pytest.mark.parametrize("kind", KINDS)
async def test_compression_both_ways(path: NativePath, kind: str) -> None:
    await path.serve(kind)
    data = b"abc" * 10_000
    request = grpc_wire.framed(ask(what="compressed", data=data).SerializeToString(), compressed=True)
    headers = [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip")]
    for method in ("Unary", "Many", "Sum", "Chat"):
        answer = await grpc_wire.call(path.gateways.gateway.grpc_address, f"/{PROBE}/{method}", [request], headers)
        assert answer.status == "0", answer
        assert answer.headers["grpc-encoding"] == "gzip" and answer.data[0] == 1
        (message,) = answer.messages()
        assert module("native_pb2").Told.FromString(message).data == data
        assert len(answer.data) < 1000
    compressed = path.stub.Unary(ask(data=data), compression=grpc.Compression.Deflate, timeout=WAIT_S)
    assert (await compressed).data == data


async def test_calls_side_by_side_keep_their_own(path: NativePath) -> None:
    """Metadata, status and messages of many calls at once on one connection are not mixed up."""
    await path.serve("asynchronous", ongoing=100, queued=1000)

    async def one(number: int) -> None:
        what = "code" if number % 3 == 0 else "seen"
        call = path.stub.Unary(ask(what=what, id=str(number)), metadata=(("x-number", str(number)),), timeout=WAIT_S)
        if what == "code":
            assert (await refused(call)).details() == f"no {number}"
        else:
            assert ["x-number", str(number)] in json.loads((await call).text)["metadata"]

    await asyncio.gather(*(one(number) for number in range(500)))
    await path.until_free()
