"""`make bench`: what connections, route tables and replicas cost a gateway, and how even it balances.

Starts `meshctl gateway` between simulated peers (`benchmarks.scale_peers`): two of them, whose control planes tell of 1
and of 100 applications with 10 replicas each. Memory is proportional (shared pages divided), its slope over connections
that are open and idle, and over requests that are in flight, each on a connection of its own. In-flight calls are
counted at the replicas each 5 ms, where what is on its way is not seen: max/mean of each replica's mean over time, and
the mean of what each look sees. Writes benchmarks/results/scale_out.json (50 s).
Run: python -m benchmarks.scale_out
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.forked import allow_many_files
from benchmarks.generators import closed, interleaved, summed_up
from benchmarks.report import ratio, write
from benchmarks.scale_peers import table
from benchmarks.trees import MESHCTL, Served
from mesh.clock import SYSTEM
from mesh.gateway.pipeline import Pipeline
from mesh.lifecycle import loop_factory
from mesh.settings import GatewaySettings

APPLICATIONS, REPLICAS = 100, 10
CONNECTIONS = (100, 500, 1000, 2000)
IN_FLIGHT = (100, 400, 800)
RUNS, SECONDS, IDLE_S, SETTLE_S = 5, 1.0, 3.0, 1.0
APPLIES = 7
READY_S = 20.0
ALL = frozenset({"200", "500"})


class Peers(Served):
    """What is around one gateway."""

    def __init__(self, applications: int) -> None:
        words = ("--applications", str(applications), "--replicas", str(REPLICAS))
        super().__init__([sys.executable, "-m", "benchmarks.scale_peers", *words], stdin=subprocess.PIPE)

    def counts(self) -> dict[str, Any]:
        """Return what was served since the last time."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("counts\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]


class Gateway(Served):
    """A gateway between peers."""

    def __init__(self, peers: Peers) -> None:
        ports = ("--port", "0", "--grpc-port", "0", "--admin-port", "0")
        super().__init__([MESHCTL, "gateway", "--control", str(peers.said["control"]), *ports, "-o", "json"])

    def roles(self) -> dict[int, str]:
        """All of it is the gateway."""
        return dict.fromkeys((process.pid for process in self.tree()), "gateway")

    def pipes(self) -> int:
        """Return how many connections it has, but for those that it listens for."""
        return sum(each.status == psutil.CONN_ESTABLISHED for p in self.tree() for each in p.net_connections("tcp"))

    def memory(self) -> float:
        """Return its proportional memory in bytes."""
        return float(sum(process.memory_full_info().pss for process in self.tree()))


@contextlib.contextmanager
def connected(gateway: Gateway) -> Iterator[list[socket.socket]]:
    """Give a list of connections that are closed in the end."""
    opened: list[socket.socket] = []
    try:
        yield opened
    finally:
        for each in opened:
            each.close()


def slope(gateway: Gateway, path: str, counts: tuple[int, ...], *, answered: bool) -> float:
    """Return the bytes of memory for each connection on which this was asked."""
    url = urlsplit(gateway.url)
    ask = f"GET {path} HTTP/1.1\r\nhost: benchmark\r\n\r\n".encode()
    memory = []
    with connected(gateway) as opened:
        for count in counts:
            while len(opened) < count:
                opened.append(one := socket.create_connection((url.hostname or "", url.port or 80), READY_S))
                one.sendall(ask)
                if answered and not one.recv(65536).startswith(b"HTTP/1.1 200"):
                    raise SystemExit(f"{path} was not answered with 200")
            time.sleep(SETTLE_S)
            memory.append(gateway.memory())
    return round(statistics.linear_regression(counts, memory).slope)


def resting(gateway: Gateway) -> dict[str, float]:
    """Return CPU and memory of a gateway of which nothing is asked."""
    before = gateway.cpu_s()
    time.sleep(IDLE_S)
    spent = gateway.cpu_s() - before
    return {"idle_cpu_percent": round(100 * spent / IDLE_S, 2), "proportional_mb": round(gateway.memory() / 1e6, 1)}


def tables(small: Gateway, large: Gateway) -> dict[str, Any]:
    """What a request costs with 1 application in the table, and with 100."""
    ends = time.monotonic() + READY_S
    while large.pipes() < APPLICATIONS * REPLICAS and time.monotonic() < ends:
        time.sleep(0.2)
    ways = {
        name: functools.partial(closed, gateway, "/app-000", connections=64, seconds=SECONDS)
        for name, gateway in (("applications_1", small), (f"applications_{APPLICATIONS}", large))
    }
    results: dict[str, Any] = {name: resting(each) for name, each in zip(ways, (small, large), strict=True)}
    taken = interleaved(ways, RUNS)
    for name, runs in taken.items():
        results[name].update(summed_up(runs))
    one, many = taken.values()
    results[f"applications_{APPLICATIONS}"]["cpu_to_1"] = ratio(many, one, "gateway_cpu_us")
    return results


async def applying(address: str) -> dict[str, float]:
    """Return ms that a snapshot of all takes: the first, and one that says the same again."""
    pipeline = Pipeline(GatewaySettings(), SYSTEM)
    snapshot = table(APPLICATIONS, REPLICAS, address)
    times = []
    for number in range(1, APPLIES + 1):
        snapshot.generation.number = number
        began = time.perf_counter()
        pipeline.apply(snapshot)
        times.append((time.perf_counter() - began) * 1000)
    await asyncio.sleep(SETTLE_S)
    await pipeline.close()
    return {"first_ms": round(times[0], 1), "again_ms": round(statistics.median(times[1:]), 1)}


def uneven(values: Sequence[float]) -> float:
    """Return max/mean."""
    return round(max(values) / statistics.fmean(values), 3)


def balance(gateway: Gateway, peers: Peers) -> dict[str, Any]:
    """Four equal replicas of 20 ms; the same with one that fails at once, and with one that refuses connections."""
    found: dict[str, Any] = {}
    for name in ("equal", "failing", "refusing"):
        peers.counts()
        closed_way = functools.partial(closed, gateway, f"/{name}", connections=64, seconds=2.0)
        run = closed_way(statuses=ALL if name == "failing" else frozenset({"200"}))
        counts = peers.counts()
        served = counts["failing" if name != "equal" else "equal"]
        found[name] = {"served": served, "per_second": round(run["per_second"])}
        if name == "equal":
            looks = counts["in_flight"]
            found[name]["served_max_to_mean"] = uneven(served)
            found[name]["in_flight_max_to_mean"] = uneven([statistics.fmean(each) for each in zip(*looks, strict=True)])
            found[name]["in_flight_max_to_mean_of_a_look"] = round(statistics.fmean(map(uneven, looks)), 3)
    failing = found["failing"]
    failing["share_of_failing"] = round(failing["served"][-1] / sum(failing["served"]), 3)
    failing["share_to_equal"] = round(4 * failing["share_of_failing"], 3)
    return found


def measure() -> dict[str, Any]:
    """Measure all."""
    with Peers(1) as near, Peers(APPLICATIONS) as far, Gateway(near) as small, Gateway(far) as large:
        small.first_answer_s("/app-000")
        large.first_answer_s("/app-000")
        found: dict[str, Any] = {"table": tables(small, large), "balance": balance(small, near)}
        found["memory"] = {
            "idle_connection_bytes": slope(small, "/app-000", CONNECTIONS, answered=True),
            "request_in_flight_bytes": slope(large, "/hold", IN_FLIGHT, answered=False),
        }
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            found["apply"] = runner.run(applying(str(far.said["replicas"])))
    return found


def main() -> None:
    """Measure, print and write down."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    allow_many_files()
    write("scale_out", measure())


if __name__ == "__main__":
    main()
