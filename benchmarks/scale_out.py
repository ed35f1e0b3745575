"""`make bench`: what connections, route tables, replicas and gateway processes cost, and how even a gateway balances.

Starts `meshctl gateway` between simulated peers (`benchmarks.scale_peers`). Routes: 1 replica, 10, and 1,000 that are
all of one application or 10 each of 100, of which one is asked, or all in turn; beside the CPU of a request stands how
many frames share a message, for that is what the difference comes from: its instructions, with a short table and with
a long one, are counted by `benchmarks.counted`. Memory is proportional (shared pages divided), over connections that
are open and idle, and over requests that are in flight, each on a connection of its own: the line through the points,
and how far the points are from it. Balance: what the gateway itself counts in flight
at each of four equal replicas, looked at each 5 ms (`benchmarks.scale_gateway`, `benchmarks.fairness`). Writes
benchmarks/results/scale_out.json (two minutes). Run: python -m benchmarks.scale_out; --only PART,... writes nothing.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.counted import counts
from benchmarks.fairness import of_looks
from benchmarks.forked import allow_many_files
from benchmarks.generators import GeneratorFailed, Run, closed, interleaved, measure, summed_up
from benchmarks.report import medians, ratio, write
from benchmarks.scale_peers import table
from benchmarks.trees import MESHCTL, Served
from mesh.clock import SYSTEM
from mesh.gateway.pipeline import Pipeline
from mesh.lifecycle import loop_factory
from mesh.settings import GatewaySettings

APPLICATIONS, REPLICAS = 100, 10
LARGE = f"applications_{APPLICATIONS}"
FRAMES = ("frames_per_message_in", "frames_per_message_out")
"""To the replicas, and back from them."""
ASKED = "GET, async handler"
ALL_REPLICAS = APPLICATIONS * REPLICAS
CONNECTIONS = (100, 500, 1000, 2000)
IN_FLIGHT = (100, 400, 800)
RUNS, SECONDS, IDLE_S, SETTLE_S = 5, 1.0, 3.0, 0.5
BALANCE_RUNS, BALANCE_S = 5, 0.8
PROCESSES_RUNS = 5
MEMORY_RUNS = 2
APPLIES = 7
READY_S = 30.0
OK, ALL = frozenset({"200"}), frozenset({"200", "500"})


class Peers(Served):
    """What is around one gateway."""

    def __init__(self, applications: int, replicas: int = REPLICAS) -> None:
        words = ("--applications", str(applications), "--replicas", str(replicas))
        super().__init__([sys.executable, "-m", "benchmarks.scale_peers", *words], stdin=subprocess.PIPE)

    def counts(self) -> dict[str, Any]:
        """Return what was served since the last time, and what went over pipes."""
        return asked(self, "counts")


class Gateway(Served):
    """A gateway between peers."""

    def __init__(self, peers: Peers, *, processes: int = 1) -> None:
        ports = ("--port", "0", "--grpc-port", "0", "--admin-port", "0")
        where = ("--control", str(peers.said["control"]), "--processes", str(processes))
        super().__init__([MESHCTL, "gateway", *where, *ports, "-o", "json"])
        self.peers = peers

    def roles(self) -> dict[int, str]:
        """All of it is the gateway."""
        return dict.fromkeys((process.pid for process in self.tree()), "gateway")

    def pipes(self) -> int:
        """Return how many connections it has, but for those that it listens for."""
        return sum(each.status == psutil.CONN_ESTABLISHED for p in self.tree() for each in p.net_connections("tcp"))

    def connected(self, pipes: int) -> None:
        """Wait until it has so many pipes. Raises GeneratorFailed if it never does."""
        ends = time.monotonic() + READY_S
        while (found := self.pipes()) < pipes:
            if time.monotonic() > ends:
                raise GeneratorFailed(f"a gateway has {found} pipes of {pipes}")
            time.sleep(0.2)

    def framed(self, way: Callable[[], Run]) -> Run:
        """Run a load; add how many frames shared a message, either way."""
        self.peers.counts()
        run = way()
        passed = self.peers.counts()["passed"]
        for direction in ("in", "out"):
            run[f"frames_per_message_{direction}"] = passed[f"frames_{direction}"] / passed[f"messages_{direction}"]
        return run

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


def memory_over(gateway: Gateway, path: str, counts: tuple[int, ...], *, answered: bool) -> list[float]:
    """Return the memory at so many connections on which this was asked."""
    url = urlsplit(gateway.url)
    ask = f"GET {path} HTTP/1.1\r\nhost: benchmark\r\n\r\n".encode()
    memory = []
    with connected(gateway) as opened:
        for count in counts:
            while len(opened) < count:
                opened.append(one := socket.create_connection((url.hostname or "", url.port or 80), READY_S))
                one.sendall(ask)
                if answered and not one.recv(65536).startswith(b"HTTP/1.1 200"):
                    raise GeneratorFailed(f"{path} was not answered with 200")
            time.sleep(SETTLE_S)
            memory.append(gateway.memory())
    return memory


def line_through(counts: Sequence[int], runs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the bytes for each of what was counted: the median slope of the runs, each slope, and points and residual.

    `points` are the medians of (count, bytes more than at the first); `residual` is the largest distance of one of
    them from their line, as a share of the whole rise.
    """
    slopes = [statistics.linear_regression(counts, memory).slope for memory in runs]
    rises = [statistics.median(memory[i] - memory[0] for memory in runs) for i in range(len(counts))]
    line = statistics.linear_regression(counts, rises)
    off = max(abs(rise - line.slope * n - line.intercept) for n, rise in zip(counts, rises, strict=True))
    return {
        "bytes": round(statistics.median(slopes)),
        "bytes_of_each_run": [round(each) for each in slopes],
        "points": [[n, round(rise)] for n, rise in zip(counts, rises, strict=True)],
        "residual": round(off / (max(rises) - min(rises)), 3),
    }


def memory(peers: Peers) -> dict[str, Any]:
    """What a connection that is idle takes, and a request that is in flight, each time of a new gateway."""
    idle, flying = [], []
    for _ in range(MEMORY_RUNS):
        with Gateway(peers) as gateway:
            gateway.first_answer_s("/app-000")
            idle.append(memory_over(gateway, "/app-000", CONNECTIONS, answered=True))
        with Gateway(peers) as gateway:
            gateway.first_answer_s("/app-000")
            flying.append(memory_over(gateway, "/hold", IN_FLIGHT, answered=False))
    of_idle, of_flying = line_through(CONNECTIONS, idle), line_through(IN_FLIGHT, flying)
    return {
        **{f"idle_connection_{name}": value for name, value in of_idle.items()},
        **{f"request_in_flight_{name}": value for name, value in of_flying.items()},
    }


def resting(gateway: Gateway) -> dict[str, float]:
    """Return CPU and memory of a gateway of which nothing is asked."""
    before = gateway.cpu_s()
    time.sleep(IDLE_S)
    spent = gateway.cpu_s() - before
    return {"idle_cpu_percent": round(100 * spent / IDLE_S, 2), "proportional_mb": round(gateway.memory() / 1e6, 1)}


def tables(few: Peers, wide: Peers, many: Peers) -> dict[str, Any]:
    """What a request costs with 10 and 1,000 replicas in the table: of 1 application, and of 100.

    Of 100 applications one is asked, then all are. Then there is one call at a pipe, and nothing to share a message
    with: so beside it stands one application that has as many replicas.
    """
    with Gateway(few) as small, Gateway(wide) as one, Gateway(many) as large:
        gateways = {"applications_1": small, "replicas_1000": one, LARGE: large}
        for gateway in gateways.values():
            gateway.first_answer_s("/app-000")
        one.connected(ALL_REPLICAS)
        large.connected(ALL_REPLICAS)
        results: dict[str, Any] = {name: resting(each) for name, each in gateways.items()}
        ways = {
            "replicas_1": functools.partial(spread, small, "/one"),
            "applications_1": functools.partial(spread, small, "/app-*"),
            f"{LARGE}_one_asked": functools.partial(spread, large, "/app-*"),
            "replicas_1000": functools.partial(spread, one, "/app-*"),
            LARGE: functools.partial(spread, large, "/app-*", APPLICATIONS),
        }
        taken = interleaved(ways, RUNS)
    for name, runs in taken.items():
        results[name] = results.get(name, {}) | summed_up(runs, *FRAMES)
    for name, base in ((f"{LARGE}_one_asked", "applications_1"), (LARGE, "replicas_1000"), (LARGE, "applications_1")):
        results[name] |= cpu_to(base, taken[name], taken[base])
    for name, more in (("applications_1", 0), (f"{LARGE}_one_asked", APPLICATIONS - 1)):
        results[name]["instructions"] = counts((ASKED,), more_applications=more, replicas=REPLICAS)[ASKED][
            "instructions"
        ]
    return results


def cpu_to(base: str, runs: list[Run], base_runs: list[Run]) -> dict[str, Any]:
    """Return the gateway's CPU over that of another way, pair by pair."""
    pairs = zip(runs, base_runs, strict=True)
    each = sorted(round(run["gateway_cpu_us"] / other["gateway_cpu_us"], 3) for run, other in pairs)
    return {f"cpu_to_{base}": statistics.median(each), f"cpu_to_{base}_of_each_run": each}


def spread(gateway: Gateway, path: str, paths: int = 1) -> Run:
    """Ask all paths in turn."""
    url = gateway.url + path
    way = functools.partial(measure, gateway, "scale_load", url, paths=paths, connections=64, seconds=SECONDS)
    run = gateway.framed(way)
    if set(run["by_status"]) != OK or run["broken"]:
        raise GeneratorFailed(f"{path} answered {run['by_status']}, {run['broken']} connections broke")
    return run


def processes(peers: Peers) -> dict[str, Any]:
    """The same two replicas behind 1 and 2 gateway processes."""
    with Gateway(peers) as one, Gateway(peers, processes=2) as two:
        ways = {}
        for name, gateway in (("gateway_processes_1", one), ("gateway_processes_2", two)):
            gateway.first_answer_s("/two")
            ways[name] = functools.partial(spread, gateway, "/two")
        taken = interleaved(ways, PROCESSES_RUNS)
    results: dict[str, Any] = {name: summed_up(runs, *FRAMES) for name, runs in taken.items()}
    first, second = taken.values()
    results["gateway_processes_2"]["ratio_to_1"] = ratio(second, first)
    results["gateway_processes_2"] |= cpu_to("gateway_processes_1", second, first)
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


class Looked(Served):
    """A gateway that tells what it has in flight."""

    def __init__(self, peers: Peers, *look_at: str) -> None:
        words = ("--control", str(peers.said["control"]), "--look-at", *look_at)
        super().__init__([sys.executable, "-m", "benchmarks.scale_gateway", *words], stdin=subprocess.PIPE)

    def looks(self) -> dict[str, list[list[int]]]:
        """Return what was in flight at each replica of what is looked at, at each look since the last time."""
        return asked(self, "looks")


def asked(served: Served, what: str) -> dict[str, Any]:
    """Write a line to a process and return the one that it answers with."""
    assert served.process.stdin is not None and served.process.stdout is not None
    served.process.stdin.write(f"{what}\n")
    served.process.stdin.flush()
    return json.loads(served.process.stdout.readline())  # type: ignore[no-any-return]


def balance(peers: Peers) -> dict[str, Any]:
    """Four equal replicas of 10 to 30 ms; of 20 ms all; and with one that fails at once."""
    ways = {"equal": ("equal", 64), "equal_256_connections": ("equal", 256)}
    ways |= {each: (each, 64) for each in ("steady", "failing")}
    with Looked(peers, "equal", "steady") as gateway:
        gateway.first_answer_s("/equal")

        def run(name: str, connections: int) -> Run:
            peers.counts()
            gateway.looks()
            statuses = ALL if name == "failing" else OK
            run = closed(gateway, f"/{name}", connections=connections, seconds=BALANCE_S, statuses=statuses)
            served = peers.counts()[name]
            looks = of_looks(gateway.looks().get(name, []))
            return {**run, "served": served, "served_max_to_mean": max(served) / statistics.fmean(served), **looks}

        taken = interleaved({key: functools.partial(run, *way) for key, way in ways.items()}, BALANCE_RUNS)
    found: dict[str, Any] = {}
    for key, runs in taken.items():
        keys = tuple(
            name
            for name, value in runs[0].items()
            if ("to_mean" in name or "even" in name) and isinstance(value, float)
        )
        found[key] = medians(runs, ("per_second", "looks", "in_flight_a_replica", *keys))
        found[key] |= {f"{name}_of_each_run": [round(each[name], 3) for each in runs] for name in keys}
        found[key]["served"] = [sum(each) for each in zip(*(run["served"] for run in runs), strict=True)]
    failing = found["failing"]
    shares = [run["served"][-1] / sum(run["served"]) for run in taken["failing"]]
    failing["share_of_failing"] = round(statistics.median(shares), 3)
    failing["share_of_failing_of_each_run"] = [round(share, 3) for share in shares]
    failing["share_to_equal"] = round(4 * failing["share_of_failing"], 3)
    failing["share_to_equal_of_each_run"] = [round(4 * share, 3) for share in shares]
    return found


def measured(only: set[str]) -> dict[str, Any]:
    """Measure all, or some parts."""

    def wanted(part: str) -> bool:
        return not only or part in only

    found: dict[str, Any] = {}
    with Peers(1) as few, Peers(1, ALL_REPLICAS) as wide, Peers(APPLICATIONS) as many:
        parts: dict[str, Callable[[], Any]] = {
            "table": lambda: tables(few, wide, many),
            "balance": lambda: balance(few),
            "processes": lambda: processes(few),
            "memory": lambda: memory(few),
            "apply": lambda: applied(many),
        }
        for part, work in parts.items():
            if wanted(part):
                began = time.monotonic()
                found[part] = work()
                print(f"{part} ({time.monotonic() - began:.1f} s): {json.dumps(found[part])}", file=sys.stderr)
    return found


def applied(peers: Peers) -> dict[str, float]:
    """Run `applying` on a loop as a gateway has it."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(applying(str(peers.said["replicas"])))


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", type=lambda text: set(text.split(",")), default=set(), metavar="PART,...")
    only: set[str] = parser.parse_args().only
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    allow_many_files()
    found = measured(only)
    if not only:
        write("scale_out", found)


if __name__ == "__main__":
    main()
