"""`meshctl call` as a process, against real gRPC servers: all four kinds, both reflections, errors and exit codes."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection, reflection_pb2

from mesh.gateway.reflection import METHOD, SERVICES, Reflection
from mesh.gateway.reflectionrpc import reflection_pb2 as v1
from tests.support.calls_service import CALLS, Calls, calls_schema, serving
from tests.support.mesh_process import Result, command, environment

OPENED = asyncio.subprocess.PIPE


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
async def server(calls: Calls) -> AsyncIterator[str]:
    """Address of a server with reflection."""
    schema = calls_schema()
    async with serving(*Reflection(lambda _: [schema]).handlers(), calls.handlers()) as address:
        yield address


async def start(*words: str, cwd: Path | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command("call", *words), stdin=OPENED, stdout=OPENED, stderr=OPENED, cwd=cwd, env=environment()
    )


async def meshctl(*words: str, stdin: str = "", cwd: Path | None = None) -> Result:
    process = await start(*words, cwd=cwd)
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 45)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


def lines(result: Result) -> list[Any]:
    assert result.code == 0, result.stderr
    assert result.stderr == ""
    return [json.loads(line) for line in result.stdout.splitlines()]


async def test_unary(server: str) -> None:
    more = {"@type": "type.googleapis.com/calls.v1.Note", "text": "inner"}
    value = {"text": "ä", "at": "2024-01-01T00:00:00Z", "more": more}
    result = await meshctl(f"{CALLS}/Unary", "-d", json.dumps({**value, "large": 5}), "--grpc-address", server)
    assert lines(result) == [{**value, "large": "5", "count": 1}]
    assert "ä" in result.stdout


async def test_without_data_the_request_is_empty(server: str) -> None:
    assert lines(await meshctl(f"/{CALLS}/Unary", "--grpc-address", server)) == [{"count": 1}]


async def test_server_streaming(server: str) -> None:
    result = await meshctl(f"{CALLS}.Many", "-d", '{"count": 3}', "--grpc-address", server)
    assert lines(result) == [{}, {"count": 1}, {"count": 2}]


async def test_client_streaming_from_a_file(server: str, tmp_path: Path) -> None:
    (tmp_path / "notes.ndjson").write_text('{"text": "a", "count": 2}\n\n{"text": "b", "count": 3}')
    result = await meshctl(f"{CALLS}/Sum", "-d", "@notes.ndjson", "--grpc-address", server, cwd=tmp_path)
    assert lines(result) == [{"text": "ab", "count": 5}]


async def test_client_streaming_of_many_lines_from_stdin(server: str) -> None:
    result = await meshctl(f"{CALLS}/Sum", "-d", "@-", "--grpc-address", server, stdin='{"count": 1}\n' * 20_000)
    assert lines(result) == [{"count": 20_000}]


async def test_a_stream_of_nothing(server: str) -> None:
    assert lines(await meshctl(f"{CALLS}/Sum", "--grpc-address", server)) == [{}]


async def test_unary_from_stdin_over_several_lines(server: str) -> None:
    result = await meshctl(f"{CALLS}/Unary", "-d", "@-", "--grpc-address", server, stdin='{\n"count":\n7}\n')
    assert lines(result) == [{"count": 8}]


async def test_bidi_answers_each_line_as_it_comes(server: str) -> None:
    process = await start(f"{CALLS}/Chat", "-d", "@-", "--grpc-address", server)
    assert process.stdin is not None
    assert process.stdout is not None
    for number in (1, 2):
        process.stdin.write(b'{"count": %d}\n' % number)
        answer = await asyncio.wait_for(process.stdout.readline(), 30)
        assert json.loads(answer) == {"count": number + 1}
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_bidi_that_the_server_ends_does_not_wait_for_stdin(server: str) -> None:
    process = await start(f"{CALLS}/Chat", "-d", "@-", "--grpc-address", server)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b'{"text": "bye"}\n')
    assert await asyncio.wait_for(process.wait(), 30) == 0
    assert await process.stderr.read() == b""


async def test_interrupted(server: str) -> None:
    process = await start(f"{CALLS}/Chat", "-d", "@-", "--grpc-address", server)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(b'{"text": "hi"}\n')
    await asyncio.wait_for(process.stdout.readline(), 30)
    process.send_signal(2)
    assert await asyncio.wait_for(process.wait(), 30) == 130
    assert b"Traceback" not in await process.stderr.read()


async def test_metadata(server: str, calls: Calls) -> None:
    words = ["-H", "X-One: 1", "-H", "x-one:2:3", "-H", f"x-raw-bin:{base64.b64encode(b'01').decode()}"]
    await meshctl(f"{CALLS}/Unary", *words, "--application", "old", "--grpc-address", server)
    sent = [pair for pair in calls.metadata if pair[0] in ("x-one", "x-raw-bin", "application")]
    assert sent == [("x-one", "1"), ("x-one", "2:3"), ("x-raw-bin", b"01"), ("application", "old")]


async def test_yaml(server: str) -> None:
    more = {"more": {"@type": "type.googleapis.com/calls.v1.Note", "count": 2}}
    result = await meshctl(f"{CALLS}/Unary", "-d", json.dumps(more), "-o", "yaml", "--grpc-address", server)
    assert result.stdout.startswith("---\ncount: 1\nmore:\n")


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("NOT_FOUND", 3),
        ("UNAVAILABLE", 5),
        ("RESOURCE_EXHAUSTED", 1),
    ],
)
async def test_statuses(server: str, code: str, exit_code: int) -> None:
    result = await meshctl(f"{CALLS}/Unary", "-d", json.dumps({"text": code}), "--grpc-address", server)
    assert result.code == exit_code
    assert result.stdout == ""
    first, second, third, *_ = result.stderr.splitlines()
    assert first == f"error: {code}: you asked for {code}"
    assert second.startswith('  why: ErrorInfo {"reason": "ASKED_FOR"')
    assert third == "       no.such.Type (2 bytes)"


async def test_answers_before_an_error_are_written(server: str) -> None:
    result = await meshctl(f"{CALLS}/Many", "-d", '{"text": "ABORTED", "count": 2}', "--grpc-address", server)
    assert result.code == 1
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.startswith("error: ABORTED: you asked for ABORTED\n")


async def test_timeout(server: str) -> None:
    words = [f"{CALLS}/Unary", "-d", '{"text": "forever"}', "--timeout", "0.3", "--grpc-address", server]
    result = await meshctl(*words)
    assert result.code == 6
    assert result.stderr.endswith("  fix: --timeout allows more time\n")


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        ([f"{CALLS}/unary"], 3, f"{CALLS} has no method unary", f"did you mean {CALLS}/Unary?"),
        (["calls.v2.Calls/Unary"], 3, "the server has no service calls.v2.Calls", f"did you mean {CALLS}/Unary?"),
        (
            [f"{CALLS}/Unary", "-d", '{"txt": 1}'],
            2,
            "--data:1: calls.v1.Note has no field 'txt'",
            "did you mean 'text'?",
        ),
        ([f"{CALLS}/Unary", "-d", '{"a"\n:]'], 2, "--data:2:2: Expecting value", "write JSON for calls.v1.Note"),
        ([f"{CALLS}/Sum", "-d", '{}\n\n{"count": "x"}'], 2, "--data:3: Failed to parse count", "write JSON for"),
        ([f"{CALLS}/Unary", "-d", "@/nowhere"], 3, "no file /nowhere", "write -d @FILE"),
        ([f"{CALLS}/Unary", "-d", "@/"], 1, "cannot read /: Is a directory", None),
        ([f"{CALLS}/Unary", "-H", "a"], 2, "-H 'a' is no metadata", "write NAME:VALUE"),
    ],
)
async def test_wrong_use(server: str, words: list[str], code: int, message: str, hint: str | None) -> None:
    result = await meshctl(*words, "--grpc-address", server)
    assert (result.code, result.stdout) == (code, "")
    first, *rest = result.stderr.splitlines()
    assert first.startswith(f"error: {message}")
    assert rest == [] if hint is None else rest[-1].startswith(f"  fix: {hint}")


async def test_nobody_listens() -> None:
    result = await meshctl(f"{CALLS}/Unary", "--grpc-address", "127.0.0.1:1")
    assert result.code == 5
    assert result.stderr.startswith("error: nobody listens at 127.0.0.1:1\n  fix: start a mesh with meshctl start")
    assert (await meshctl(f"{CALLS}/Unary", "--grpc-address", "nowhere")).code == 2


async def test_a_server_without_reflection(calls: Calls) -> None:
    async with serving(calls.handlers()) as address:
        result = await meshctl(f"{CALLS}/Unary", "--grpc-address", address)
    assert result.code == 3
    assert result.stderr.startswith(f"error: {address} has no reflection")


async def test_the_older_reflection_of_another_server(calls: Calls) -> None:
    servicer = reflection.aio.ReflectionServicer([CALLS], calls.service.file.pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    older = grpc.method_handlers_generic_handler(SERVICES[1], {METHOD: handler})
    async with serving(older, calls.handlers()) as address:
        assert lines(await meshctl(f"{CALLS}/Unary", "--grpc-address", address)) == [{"count": 1}]


async def test_a_stream_that_is_refused_at_once_is_told_as_it_was() -> None:
    schema = calls_schema()
    async with serving(*Reflection(lambda _: [schema]).handlers()) as address:
        result = await meshctl(f"{CALLS}/Sum", "-d", "@-", "--grpc-address", address, stdin='{"count": 1}\n' * 5_000)
    assert result.code == 3
    assert result.stderr.startswith("error: UNIMPLEMENTED: ")


@pytest.mark.parametrize("known", [True, False])
async def test_a_server_that_sends_one_file_at_a_time(calls: Calls, known: bool) -> None:
    """It sends what is asked for and no more; if it cannot send what comes with mesh, that is taken from here."""
    pool: Any = calls.service.file.pool

    async def answered(requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
        async for request in requests:
            response = v1.ServerReflectionResponse()
            if request.file_containing_symbol:
                file = pool.FindFileContainingSymbol(request.file_containing_symbol)
                response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
            elif request.file_by_filename and known:
                file = pool.FindFileByName(request.file_by_filename)
                response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
            elif request.file_by_filename:
                response.error_response.error_code = 5
            else:
                response.list_services_response.service.add(name=CALLS)
            yield response

    handler = grpc.stream_stream_rpc_method_handler(
        answered, v1.ServerReflectionRequest.FromString, v1.ServerReflectionResponse.SerializeToString
    )
    single = grpc.method_handlers_generic_handler(SERVICES[0], {METHOD: handler})
    async with serving(single, calls.handlers()) as address:
        assert lines(await meshctl(f"{CALLS}/Unary", "--grpc-address", address)) == [{"count": 1}]


def test_it_loads_nothing_heavy_before_it_is_called() -> None:
    import subprocess

    code = (
        "import sys, mesh.cli.commands; print([m for m in ('grpc', 'google.protobuf', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=environment())
    assert done.stdout == "[]\n", done.stderr
