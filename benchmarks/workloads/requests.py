"""Small requests: no-op JSON at many or few connections, an echo, a chain of handles, and refusals only."""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.generators import GeneratorFailed, Way, closed, interleaved, summed_up
from benchmarks.report import ratio
from benchmarks.trees import Served
from benchmarks.workloads import floor, other_clients

RUNS = 5
SECONDS = 0.6
CONNECTIONS = (1, 16, 64, 256, 1024)
FEW_AND_MANY = (1, 64)
ECHO_BYTES = 10_000
FULL_S = 10.0
SHED = frozenset({"503"})


def noop(mesh: Served) -> dict[str, Any]:
    """No-op JSON at 1 to 1,024 connections, with other clients, by sync code in a thread; and the floor; in turn."""
    with floor.bare() as bare:
        ways: dict[str, Way] = {
            f"noop_{count}_connections": functools.partial(closed, mesh, "/", connections=count, seconds=SECONDS)
            for count in CONNECTIONS
        }
        for count in FEW_AND_MANY:
            ways[f"noop_sync_{count}_connections"] = functools.partial(
                closed, mesh, "/sync", connections=count, seconds=SECONDS
            )
        ways |= other_clients.ways(mesh) | floor.ways(bare, SECONDS)
        for served, path in ((mesh, "/"), (mesh, "/sync"), (bare, "/")):
            closed(served, path, connections=64, seconds=SECONDS)
        taken = interleaved(ways, RUNS)
    results: dict[str, Any] = {name: summed_up(runs) for name, runs in taken.items()}
    many = results["noop_1024_connections"]
    many["ratio_to_64_connections"] = ratio(taken["noop_1024_connections"], taken["noop_64_connections"])
    many["p99_to_p50"] = round(many["p99_ms"] / many["p50_ms"], 2)
    for count in FEW_AND_MANY:
        handed, direct = taken[f"noop_sync_{count}_connections"], taken[f"noop_{count}_connections"]
        results[f"noop_sync_{count}_connections"]["ratio_to_async"] = ratio(handed, direct)
        results[f"noop_sync_{count}_connections"]["replica_cpu_to_async"] = ratio(handed, direct, "replica_cpu_us")
    return results


def echo(mesh: Served) -> dict[str, Any]:
    """10 KB there and back, at 64 connections."""
    way = functools.partial(closed, mesh, "/payloads/echo", connections=64, seconds=SECONDS, body_bytes=ECHO_BYTES)
    return {"echo_10kb": summed_up(interleaved({"echo": way}, RUNS)["echo"])}


def chain(mesh: Served) -> dict[str, Any]:
    """A request that goes through three deployments, each calling the next by its handle, at 1 and 64 connections."""
    ways = {
        f"handle_chain_{count}_connections": functools.partial(
            closed, mesh, "/chain", connections=count, seconds=SECONDS
        )
        for count in FEW_AND_MANY
    }
    return {name: summed_up(runs) for name, runs in interleaved(ways, RUNS).items()}


def shed(mesh: Served) -> dict[str, Any]:
    """Refusals at 64 connections while the only slot is taken and nothing may wait."""
    with _full(mesh):
        way = functools.partial(closed, mesh, "/full", connections=64, seconds=SECONDS, statuses=SHED)
        return {"shed_only_64_connections": summed_up(interleaved({"shed": way}, RUNS)["shed"])}


@contextlib.contextmanager
def _full(mesh: Served) -> Iterator[None]:
    """Take the only slot of /full."""
    host, _, port = mesh.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 5) as holder:
        holder.sendall(f"GET /full HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        ends = time.monotonic() + FULL_S
        while time.monotonic() < ends:
            with socket.create_connection((host, int(port)), 5) as other:
                other.sendall(f"GET /full HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                other.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    if other.recv(12) == b"HTTP/1.1 503":
                        break
        else:
            raise GeneratorFailed("/full never refused")
        yield
