"""Large bodies both ways, small requests beside one, and streams of server-sent events."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.generators import CPU, Run, Way, closed, interleaved, meanwhile, opened, summed_up
from benchmarks.report import medians, ratio
from benchmarks.trees import Served

RUNS = 5
SECONDS = 0.6
SIZES = {"1mb": 1_000_000, "10mb": 10_000_000}
CONNECTIONS = 2
"""Bodies at a time."""
BESIDE_RATE, BESIDE_SECONDS = 300.0, 1.0
EVENTS = {
    "sse_50_chunks": ("/payloads/events_apart", 256, 1.2),
    "sse_50_chunks_in_turn": ("/payloads/events_in_turn", 64, 0.8),
    "sse_50_chunks_at_once": ("/payloads/events", 16, 0.5),
}
"""Where, on how many connections, for how many seconds. Who waits 1 ms between two needs many to reach the limit."""
EVENT_WARM_UP_S = 0.4
"""The first streams end by then."""
CHUNK_CPU = tuple(f"{key}_per_chunk" for key in CPU)


def bodies(mesh: Served) -> dict[str, Any]:
    """Bodies of 1 and 10 MB, to user code that reads them piece by piece and from user code, in MB/s."""
    ways = {}
    for name, size in SIZES.items():
        ways[f"body_{name}_up"] = functools.partial(_body, mesh, "/payloads/sink", size, body_bytes=size)
        ways[f"body_{name}_down"] = functools.partial(_body, mesh, f"/payloads/{size}", size)
    keys = ("mb_per_second", "p50_ms", "p99_ms", "gateway_cpu_us_per_mb", "replica_cpu_us_per_mb")
    return {name: medians(taken, keys) for name, taken in interleaved(ways, RUNS).items()}


def _body(mesh: Served, path: str, size: int, **options: Any) -> Run:
    run = closed(mesh, path, connections=CONNECTIONS, seconds=SECONDS, **options)
    megabytes = size / 1e6
    run["mb_per_second"] = run["per_second"] * megabytes
    return run | {f"{role}_cpu_us_per_mb": run[f"{role}_cpu_us"] / megabytes for role in ("gateway", "replica")}


def beside(mesh: Served) -> dict[str, Any]:
    """p99 of small requests, 300 a second in an open loop, alone and beside a 10 MB body that follows another."""
    ways = {
        "alone": functools.partial(_small, mesh),
        "beside_up": functools.partial(_small_beside, mesh, "/payloads/sink", body_bytes=SIZES["10mb"]),
        "beside_down": functools.partial(_small_beside, mesh, f"/payloads/{SIZES['10mb']}"),
    }
    _small(mesh)
    taken = interleaved(ways, RUNS)
    told: dict[str, Any] = {
        name: medians([run["admitted"] for run in runs], ("per_second", "p50_ms", "p99_ms"))
        for name, runs in taken.items()
    }
    alone = [run["admitted"] for run in taken["alone"]]
    for name in ("beside_up", "beside_down"):
        told[name]["p99_to_alone"] = ratio([run["admitted"] for run in taken[name]], alone, "p99_ms")
    return {"small_beside_10mb": {"rate": BESIDE_RATE, **told}}


def _small(mesh: Served) -> Run:
    return opened(mesh, "/payloads/small", rate=BESIDE_RATE, seconds=BESIDE_SECONDS, connections=32)


def _small_beside(mesh: Served, path: str, **options: Any) -> Run:
    with meanwhile("load", mesh.url + path, connections=1, **options):
        return _small(mesh)


def events(mesh: Served) -> dict[str, Any]:
    """Streams of 50 server-sent events of user code that waits between two, or lets others run, or does neither.

    Events are what user code yields, chunks what of HTTP came apart on the wire.
    """
    ways: dict[str, Way] = {name: functools.partial(_streamed, mesh, *what) for name, what in EVENTS.items()}
    taken = interleaved(ways, RUNS)
    more = ("http_chunks_per_second", "events_per_second", "chunks_per_answer", *CHUNK_CPU)
    return {name: summed_up(runs, *more) for name, runs in taken.items()}


def _streamed(mesh: Served, path: str, connections: int, seconds: float) -> Run:
    run = closed(mesh, path, connections=connections, seconds=seconds, warm_up=EVENT_WARM_UP_S)
    run["http_chunks_per_second"] = run["chunks"] / run["seconds"]
    run["events_per_second"] = run["events"] / run["seconds"]
    run["chunks_per_answer"] = per_answer = run["chunks"] / run["completed"]
    return run | {f"{key}_per_chunk": run[key] / per_answer for key in CPU}
