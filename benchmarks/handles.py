"""`make bench`: what a call by handle costs, beside what the gateway pays for a call on the same kind of pipe.

Starts `meshctl run` with one deployment and calls it from this process in both ways, in turn, at 1 and 64 at once: as
the gateway does (frame, admission, deadline, answer), and by a handle, which also encodes arguments and reads a value.
Then arrays of 1 MB by handle. Writes benchmarks/results/handles.json.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy
import psutil

from benchmarks.report import write
from mesh.clock import SYSTEM
from mesh.credentials import OPEN
from mesh.gateway.exchange import Exchange, Exchanges
from mesh.lifecycle import Tasks, loop_factory, tune_memory
from mesh.pipe.call import Call
from mesh.pipe.dispatch import Dispatcher
from mesh.serving.handle import DeploymentHandle, get_handle
from mesh.settings import GatewaySettings
from mesh.v1 import replica_service_pb2 as pb
from mesh.worker.handles import Handles

HERE = Path(__file__).parent
RUNS = 5
SECONDS = 0.6
ARRAYS = 200
TIMEOUT_S = 30.0
HEADERS = [
    *(b"host", b"127.0.0.1:8000"),
    *(b"accept", b"*/*"),
    *(b"user-agent", b"benchmark"),
    *(b"x-forwarded-for", b"127.0.0.1"),
    *(b"x-forwarded-proto", b"http"),
    *(b"x-forwarded-host", b"127.0.0.1:8000"),
]
One = Callable[[], Awaitable[object]]


class AsGateway:
    """Calls as `gateway/http_front` does, without HTTP."""

    def __init__(self, dispatcher: Dispatcher, *, idempotent: bool) -> None:
        self._dispatcher = dispatcher
        self._idempotent = idempotent
        self._exchanges = Exchanges(GatewaySettings(), SYSTEM, Tasks())

    async def __call__(self) -> None:
        frame = pb.RequestFrame()
        head = frame.open
        head.method = "GET" if self._idempotent else "POST"
        head.raw_path = b"/"
        head.headers.extend(HEADERS)
        head.request_id = SYSTEM.request_id()
        head.timeout_ms = int(TIMEOUT_S * 1000)
        head.scheme = "http"
        head.http_version = "1.1"
        head.client = "127.0.0.1:50000"
        head.end = True
        call = Call(frame, self._dispatcher.loop, idempotent=self._idempotent, body_follows=False)
        self._dispatcher.submit(call, head.request_id)
        exchange = Exchange(self._exchanges, self._dispatcher, call, TIMEOUT_S)
        try:
            await call.head
            assert call.body.whole and await call.read() == b'{"ok":true}'
        finally:
            exchange.end()


def by_handle(handle: DeploymentHandle) -> One:
    """Return what calls by a handle, with a deadline too."""
    bounded = handle.options(timeout_s=TIMEOUT_S)

    async def call() -> None:
        assert await bounded.remote() == {"ok": True}

    return call


async def measure(one: One, at_once: int, replica: psutil.Process) -> dict[str, float]:
    """Call for a while; return the rate, and microseconds for each call."""
    ends = time.perf_counter() + SECONDS
    count = 0

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < ends:
            await one()
            count += 1

    own, other, began = time.process_time(), sum(replica.cpu_times()[:2]), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    took = time.perf_counter() - began
    own_us = (time.process_time() - own) / count * 1e6
    replica_us = (sum(replica.cpu_times()[:2]) - other) / count * 1e6
    return {
        "per_second": count / took,
        "us": took / count * 1e6,
        "caller_cpu_us": own_us,
        "replica_cpu_us": replica_us,
        "cpu_us": own_us + replica_us,
    }


async def compared(ways: dict[str, One], replica: psutil.Process) -> dict[str, Any]:
    """Measure all ways in turn; the ratios are medians of neighbouring runs."""
    results: dict[str, Any] = {}
    for at_once in (1, 64):
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(RUNS):
            for name, one in ways.items():
                runs[name].append(await measure(one, at_once, replica))
        told = {
            name: {key: round(statistics.median(run[key] for run in taken), 1) for key in taken[0]}
            for name, taken in runs.items()
        }
        for key in ("us", "cpu_us", "caller_cpu_us"):
            for base in ("gateway", "gateway_post"):
                pairs = zip(runs["handle"], runs[base], strict=True)
                ratio = statistics.median(ours[key] / theirs[key] for ours, theirs in pairs)
                told[f"handle_to_{base}"] = {**told.get(f"handle_to_{base}", {}), key: round(ratio, 3)}
        results[f"{at_once}_at_once"] = told
    return results


async def arrays(handle: DeploymentHandle) -> dict[str, Any]:
    """Send, get, and send and get an array of 1 MB, one after another."""
    array = numpy.arange(125_000, dtype="f8")
    ways: dict[str, One] = {
        "sent": lambda: handle.take.remote(array),
        "got": lambda: handle.make.remote(array.size),
        "sent_and_got": lambda: handle.echo.remote(array),
    }
    results = {}
    for name, one in ways.items():
        taken = []
        for _ in range(ARRAYS):
            began = time.perf_counter()
            await one()
            taken.append((time.perf_counter() - began) * 1000)
        ordered = sorted(taken)
        results[name] = {"p50_ms": round(ordered[ARRAYS // 2], 3), "p90_ms": round(ordered[ARRAYS * 9 // 10], 3)}
    return {"bytes": array.nbytes, **results}


async def run(control: str, replica: psutil.Process) -> dict[str, Any]:
    """Measure against a mesh that runs."""
    handles = Handles("benchmark", (control,), OPEN, SYSTEM)
    handles.install()
    handle = get_handle("default", "Child")
    dispatcher = handles.reach("default", "Child").dispatcher
    await handle.remote()
    tune_memory()
    ways: dict[str, One] = {
        "gateway": AsGateway(dispatcher, idempotent=True),
        "gateway_post": AsGateway(dispatcher, idempotent=False),
        "handle": by_handle(handle),
    }
    try:
        return {"noop": await compared(ways, replica), "array": await arrays(handle)}
    finally:
        await handles.close()


def main() -> None:
    """Measure, print and write down."""
    meshctl = str(Path(sys.executable).with_name("meshctl"))
    ports = [part for name in ("port", "grpc-port", "control-port", "admin-port") for part in (f"--{name}", "0")]
    command = [meshctl, "run", "child:child", "--working-dir", str(HERE), *ports, "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"meshctl run failed with code {process.wait()}; run it by hand to see why")
            children = psutil.Process(process.pid).children(recursive=True)
            (replica,) = [child for child in children if "mesh.worker.replica" in child.cmdline()]
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                results = runner.run(run(json.loads(line)["control"], replica))
        finally:
            process.terminate()
            process.wait(30)
    write("handles", results, "msgpack", "numpy")


if __name__ == "__main__":
    main()
