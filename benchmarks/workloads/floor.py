"""The floor: what the HTTP server and gRPC's streams cost alone, beside a request that goes through both and mesh."""

from __future__ import annotations

import asyncio
import functools
import statistics
import sys
import time
from typing import Any

import grpc

from benchmarks.bare import METHOD
from benchmarks.generators import Run, closed, interleaved, summed_up
from benchmarks.report import medians
from benchmarks.trees import Served
from mesh.lifecycle import loop_factory

RUNS = 5
SECONDS = 1.0
FRAME_BYTES = 200
"""About what a frame of the pipe has for a request without a body."""
DEADLINE_S = 30.0


def floor(mesh: Served) -> dict[str, Any]:
    """Both alone, and mesh, at 1 and 64 connections; a stream carries 64 requests in one message, as pipes do."""
    with Served([sys.executable, "-m", "benchmarks.bare"]) as bare:
        address = str(bare.said["grpc"])
        ways: dict[str, functools.partial[Run]] = {}
        for count in (1, 64):
            for name, served in (("mesh", mesh), ("http_server", bare)):
                ways[f"{name}_{count}"] = functools.partial(closed, served, "/", connections=count, seconds=SECONDS)
            ways[f"stream_{count}"] = functools.partial(_echoes, address, count)
        taken = interleaved(ways, RUNS)
    figures = {name: summed_up(runs) for name, runs in taken.items() if not name.startswith("stream")}
    streams = {n: medians(runs, ("per_second", "p50_ms", "p99_ms")) for n, runs in taken.items() if n not in figures}
    return {f"floor_{name}": found for name, found in (figures | streams).items()}


def _echoes(address: str, frames: int) -> Run:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_echo(address, bytes(FRAME_BYTES * frames), frames))


async def _echo(address: str, message: bytes, frames: int) -> Run:
    """Send a message and take it back, again and again; rates count frames."""
    taken: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        stream: Any = channel.stream_stream(METHOD)()
        async with asyncio.timeout(DEADLINE_S):
            ends = time.perf_counter() + SECONDS
            while (began := time.perf_counter()) < ends:
                await stream.write(message)
                await stream.read()
                taken.append(time.perf_counter() - began)
        stream.cancel()
    ordered = sorted(taken)
    return {
        "per_second": frames * len(taken) / sum(taken),
        "p50_ms": statistics.median(ordered) * 1000,
        "p99_ms": ordered[len(ordered) * 99 // 100] * 1000,
    }
