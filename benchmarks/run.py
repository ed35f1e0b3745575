"""`make bench`: our own figures, on this machine, in a few minutes.

Starts `meshctl run` as a user would and measures it from outside: time to the first answer, throughput and
latency, shedding, memory and idle CPU of the whole process tree. Writes benchmarks/results/latest.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "latest.json"
RUNS = 5
SECONDS = 3.0
STARTS = 5
IDLE_S = 10.0
DEADLINE_S = 60.0


class Mesh:
    """A `meshctl run` of our own, on free ports."""

    def __init__(self) -> None:
        meshctl = str(Path(sys.executable).with_name("meshctl"))
        ports = [part for name in ("port", "grpc-port", "control-port", "admin-port") for part in (f"--{name}", "0")]
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            [meshctl, "run", str(HERE / "config.yaml"), *ports, "-o", "json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"meshctl run failed with code {self.process.wait()}; run it by hand to see why")
        self.url = json.loads(line)["http"].rstrip("/")

    def first_answer_s(self) -> float:
        """Seconds from the start of the process to its first 200."""
        while True:
            try:
                with urllib.request.urlopen(self.url + "/", timeout=5) as response:
                    if response.status == 200:
                        return time.perf_counter() - self.started
            except urllib.error.URLError:
                if time.perf_counter() - self.started > DEADLINE_S:
                    raise

    def tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def load(url: str, connections: int, seconds: float = SECONDS, body: str = "") -> dict[str, Any]:
    """Run the generator in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load", url]
    command += ["--connections", str(connections), "--seconds", str(seconds), "--body", body]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60, cwd=HERE.parent)
    return json.loads(output.stdout)  # type: ignore[no-any-return]


def medians(runs: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, float]:
    """Return the median of each figure over the runs."""
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in keys}


def throughput(mesh: Mesh) -> dict[str, Any]:
    """No-op JSON at 1 and 64 connections, interleaved."""
    figures = ("per_second", "p50_ms", "p90_ms", "p99_ms")
    load(mesh.url + "/", 64, 1.0)
    runs: dict[int, list[dict[str, Any]]] = {1: [], 64: []}
    for _ in range(RUNS):
        for connections, taken in runs.items():
            run = load(mesh.url + "/", connections)
            assert set(run["by_status"]) == {"200"}, run["by_status"]
            taken.append(run)
    return {f"noop_{connections}_connections": medians(taken, figures) for connections, taken in runs.items()}


def shedding(mesh: Mesh) -> dict[str, Any]:
    """Refusals while the only slot is taken."""
    host, _, port = mesh.url.removeprefix("http://").partition(":")

    async def hold() -> list[dict[str, Any]]:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /full HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        await writer.drain()
        while (await asyncio.to_thread(load, mesh.url + "/full", 1, 0.2))["by_status"].keys() != {"503"}:
            pass
        runs = [await asyncio.to_thread(load, mesh.url + "/full", 64) for _ in range(RUNS)]
        writer.close()
        return runs

    runs = asyncio.run(hold())
    assert all(set(run["by_status"]) == {"503"} for run in runs)
    return {"shed_only_64_connections": medians(runs, ("per_second", "p50_ms", "p99_ms"))}


def idle(mesh: Mesh) -> dict[str, Any]:
    """Memory and CPU of the whole tree while nothing is asked of it."""
    before = sum(sum(process.cpu_times()[:2]) for process in mesh.tree())
    time.sleep(IDLE_S)
    processes = mesh.tree()
    spent = sum(sum(process.cpu_times()[:2]) for process in processes) - before
    resident = sum(process.memory_full_info().uss for process in processes)
    return {
        "processes": len(processes),
        "resident_mb": round(sum(process.memory_info().rss for process in processes) / 1e6, 1),
        "unique_mb": round(resident / 1e6, 1),
        "idle_cpu_percent": round(100 * spent / IDLE_S, 2),
    }


def with_wrk(mesh: Mesh) -> dict[str, Any]:
    """The same with wrk, where it is installed: a generator in C leaves more of the machine to us."""
    if (wrk := shutil.which("wrk")) is None:
        return {}
    rates = []
    for _ in range(RUNS):
        command = [wrk, "-t1", "-c64", f"-d{SECONDS:.0f}s", mesh.url + "/"]
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        rates.append(float(output.stdout.split("Requests/sec:")[1].split()[0]))
    return {"noop_64_connections_wrk": {"per_second": round(statistics.median(rates), 1)}}


def starts() -> dict[str, Any]:
    """Time from starting `meshctl run` to the first 200."""
    taken = []
    for _ in range(STARTS):
        mesh = Mesh()
        try:
            taken.append(mesh.first_answer_s())
        finally:
            mesh.stop()
    return {"start_to_first_200_s": round(statistics.median(taken), 3)}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    packages = ("grpcio", "protobuf", "granian", "uvloop", "starlette")
    return {
        "cpus": os.cpu_count(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def main() -> None:
    """Measure everything, print it and write it down."""
    results: dict[str, Any] = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine()}
    results.update(starts())
    mesh = Mesh()
    try:
        mesh.first_answer_s()
        steps: tuple[Callable[[Mesh], dict[str, Any]], ...] = (idle, throughput, with_wrk, shedding)
        for step in steps:
            results.update(step(mesh))
    finally:
        mesh.stop()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
