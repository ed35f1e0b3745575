"""Small requests: no-op JSON at many or few connections, an echo, a chain of handles, and refusals only."""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.generators import GeneratorFailed, closed, interleaved, summed_up
from benchmarks.report import ratio
from benchmarks.trees import Served

RUNS = 5
WRK_RUNS = 3
SECONDS = 1.0
CONNECTIONS = (1, 16, 64, 256, 1024)
ECHO_BYTES = 10_000
FULL_S = 10.0
STREAMS = 64
_H2LOAD = re.compile(
    r"^finished in [^,]+, (?P<rate>[\d.]+) req/s.*^requests: .* (?P<done>\d+) done, .*"
    r"^status codes: (?P<ok>\d+) 2xx",
    re.MULTILINE | re.DOTALL,
)
SHED = frozenset({"503"})


def noop(mesh: Served) -> dict[str, Any]:
    """No-op JSON at 1 to 1,024 connections; the rate at 1,024 against that at 64."""
    ways = {
        f"noop_{count}_connections": functools.partial(closed, mesh, "/", connections=count, seconds=SECONDS)
        for count in CONNECTIONS
    }
    closed(mesh, "/", connections=64, seconds=1.0)
    taken = interleaved(ways, RUNS)
    results: dict[str, Any] = {name: summed_up(runs) for name, runs in taken.items()}
    many = results["noop_1024_connections"]
    many["ratio_to_64_connections"] = ratio(taken["noop_1024_connections"], taken["noop_64_connections"])
    many["p99_to_p50"] = round(many["p99_ms"] / many["p50_ms"], 2)
    return results


def noop_wrk(mesh: Served) -> dict[str, Any]:
    """The same with wrk, where it is installed: a generator in C leaves more of the machine to mesh."""
    if (wrk := shutil.which("wrk")) is None:
        return {}
    results = {}
    for connections in (64, 1024):
        rates = []
        for _ in range(WRK_RUNS):
            command = [wrk, "-t1", f"-c{connections}", "-d1s", mesh.url + "/"]
            output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
            rates.append(float(output.stdout.split("Requests/sec:")[1].split()[0]))
        name = f"noop_{connections}_connections_wrk"
        results[name] = {"per_second": round(statistics.median(rates), 1), "per_second_of_each_run": rates}
    return results


def noop_h2(mesh: Served) -> dict[str, Any]:
    """The same over HTTP/2 without TLS, as many streams on one connection, with h2load where it is installed."""
    if (h2load := shutil.which("h2load")) is None:
        return {}
    command = [h2load, "-c1", f"-m{STREAMS}", "-D1", mesh.url + "/"]
    rates = []
    for _ in range(RUNS):
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        rates.append(rate_of_h2load(output.stdout))
    figures = {"per_second": round(statistics.median(rates), 1), "per_second_of_each_run": rates}
    return {f"noop_h2_{STREAMS}_streams": figures}


def rate_of_h2load(output: str) -> float:
    """Return the requests per second that h2load tells of. Raises GeneratorFailed unless all were answered with 2xx."""
    found = _H2LOAD.search(output)
    if found is None or found["done"] == "0" or found["ok"] != found["done"]:
        raise GeneratorFailed(f"h2load was not answered as it should be:\n{output}")
    return float(found["rate"])


def echo(mesh: Served) -> dict[str, Any]:
    """10 KB there and back, at 64 connections."""
    way = functools.partial(closed, mesh, "/payloads/echo", connections=64, seconds=1.0, body_bytes=ECHO_BYTES)
    return {"echo_10kb": summed_up(interleaved({"echo": way}, RUNS)["echo"])}


def chain(mesh: Served) -> dict[str, Any]:
    """A request that goes through three deployments, each calling the next by its handle, at 1 and 64 connections."""
    ways = {
        f"handle_chain_{count}_connections": functools.partial(closed, mesh, "/chain", connections=count, seconds=1.0)
        for count in (1, 64)
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
