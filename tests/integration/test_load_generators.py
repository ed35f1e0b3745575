"""The load generators of the benchmarks against a server that does what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EVENTS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"b\r\ndata: one\n\n\r\n" * 3 + b"0\r\n\r\n"
FULL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(answers: Sequence[bytes]) -> AsyncIterator[str]:
    """Answer requests with these in turn; with none, never."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                _, _, length = head.lower().partition(b"content-length: ")
                await reader.readexactly(int(length.split(b"\r\n")[0] or 0))
                if answers:
                    writer.write(answers[count % len(answers)])
                    count += 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}/"
    finally:
        server.close()


async def generate(module: str, *words: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"benchmarks.{module}", *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)  # type: ignore[no-any-return]


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_an_open_loop_accounts_for_every_request_that_was_due(processes: str) -> None:
    flags = ("--rate", "200", "--seconds", "0.5", "--warm-up", "0", "--arrivals", "even", "--connections", "4")
    async with serving([EVENTS, FULL]) as url:
        figures = await generate("open_loop", url, *flags, "--processes", processes, "--deadline", "60")
    assert figures["requests"] == 100
    assert {status: each["requests"] for status, each in figures["by_status"].items()} == {"200": 50, "503": 50}
    assert (figures["broken"], figures["dropped"], figures["timed_out"]) == (0, 0, 0)
    assert figures["p50_ms"] >= figures["late"]["p50_ms"] > 0


async def test_an_open_loop_gives_up_at_the_deadline_and_bounds_what_waits() -> None:
    flags = ("--rate", "200", "--seconds", "0.5", "--warm-up", "0", "--arrivals", "even", "--connections", "2")
    async with serving([]) as url:
        figures = await generate("open_loop", url, *flags, "--deadline", "0.8", "--waiting", "30")
    assert (figures["timed_out"], figures["dropped"]) == (32, 68)
    # What nobody answered took until it was given up, and counts among the latencies.
    assert {status: each["requests"] for status, each in figures["by_status"].items()} == {"0": 32}
    assert figures["p50_ms"] >= 800


async def test_a_closed_loop_counts_answers_bytes_and_events_over_processes() -> None:
    flags = ("--connections", "5", "--processes", "2", "--seconds", "0.3", "--warm-up", "0", "--body-bytes", "1000")
    async with serving([EVENTS]) as url:
        figures = await generate("load", url, *flags)
    assert figures["completed"] == figures["requests"] >= 5
    assert figures["events"] == 3 * figures["completed"]
    assert figures["body_bytes"] == 33 * figures["completed"]
    assert figures["broken"] == 0
    assert figures["cpu_s"]["client"] > 0
