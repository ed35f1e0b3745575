"""Three times the load that replicas can serve, for 20 s, by clients of several kinds: who keeps the goodput?

Open loop: requests begin by a schedule that waits for nothing, each with a deadline of 2 s, from a process of their
own. What replicas can serve at best is measured first, by as many requests at once as may run and wait. Kinds:
`mesh_client` as it comes, naive clients that repeat at once until the deadline, and clients that never repeat; all
over gRPC. Attempts are counted by the gateway: all that came, and those that ran at a replica. Writes
benchmarks/results/overload_clients.json. Run: python -m benchmarks.overload_clients
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import greeter
from benchmarks.latencies import percentiles
from benchmarks.report import write
from benchmarks.trees import Served

OVERLOAD = 3.0
SECONDS = 20.0
DEADLINE_S = 2.0
CHANNELS = 4
GOAL_ATTEMPTS, GOAL_GOODPUT = 1.2, 0.9
KINDS = ("mesh_client", "naive", "without_repeats")
Ask = Callable[[int], Awaitable[None]]
"""Makes request number N; raises if it fails."""


async def _asker(kind: str, address: str, stack: AsyncExitStack) -> Ask:
    import grpc
    import mesh_client

    messages, stubs = import_module("greeter_pb2"), import_module("greeter_pb2_grpc")
    request = messages.HelloRequest(name="world")
    own = (("grpc.use_local_subchannel_pool", 1),)
    calls = []
    target = mesh_client.Target()
    for _ in range(CHANNELS):
        channel: Any
        if kind == "mesh_client":
            channel = mesh_client.aio_channel(address, target=target, connection=mesh_client.Connection(options=own))
        else:
            channel = grpc.aio.insecure_channel(address, options=(*own, ("grpc.enable_retries", 0)))
        await stack.enter_async_context(channel)
        calls.append(stubs.GreeterStub(channel).SayHello)

    async def ask(number: int) -> None:
        await calls[number % CHANNELS](request, timeout=DEADLINE_S)

    return _at_once(ask, grpc.aio.AioRpcError) if kind == "naive" else ask


def _at_once(ask: Ask, failure: type[Exception]) -> Ask:
    """Return what repeats at once, as long as there is time."""

    async def again(number: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    return await ask(number)
                except failure:
                    pass

    return again


async def load(kind: str, address: str, *, rate: float, seconds: float) -> dict[str, Any]:
    """Begin `rate` requests a second; return what became of them."""
    outcomes: Counter[str] = Counter()
    latencies: list[float] = []
    in_time = 0
    async with AsyncExitStack() as stack:
        ask = await _asker(kind, address, stack)
        began = time.perf_counter()

        async def one(number: int) -> None:
            nonlocal in_time
            due = began + number / rate
            try:
                await ask(number)
            except Exception as error:
                outcomes[type(error).__name__] += 1
            else:
                outcomes["ok"] += 1
                now = time.perf_counter()
                latencies.append(now - due)
                in_time += now - began <= seconds

        running: set[asyncio.Task[None]] = set()
        count = int(rate * seconds)
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            task = asyncio.create_task(one(number))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
    found = percentiles(latencies) or dict.fromkeys(("p50_ms", "p99_ms"), 0.0)
    return {
        "requests": count,
        "outcomes": dict(outcomes),
        "per_second": round(in_time / seconds, 1),
        "p50_ms": round(found["p50_ms"]),
        "p99_ms": round(found["p99_ms"]),
        "seconds": round(time.perf_counter() - began, 1),
    }


async def peak(address: str, *, at_once: int, seconds: float) -> dict[str, Any]:
    """Keep so many requests running; return how many a second are answered."""
    answered = 0
    async with AsyncExitStack() as stack:
        ask = await _asker("without_repeats", address, stack)
        ends = time.perf_counter() + seconds

        async def one(number: int) -> None:
            nonlocal answered
            while time.perf_counter() < ends:
                await ask(number)
                answered += time.perf_counter() <= ends

        await asyncio.gather(*map(one, range(at_once)))
    return {"per_second": round(answered / seconds, 1)}


def in_a_process(directory: Path, address: str, *words: str, seconds: float) -> dict[str, Any]:
    """Run `load` or `peak` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.overload_clients", "--directory", str(directory)]
    command += ["--address", address, "--seconds", str(seconds), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds * 4 + 60)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def counted(admin: str) -> dict[str, float]:
    """Return what the gateway has counted: all that came, and what it shed."""
    with urllib.request.urlopen(f"{admin.rstrip('/')}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    totals = {}
    for name in ("mesh_requests_total", "mesh_requests_shed_total"):
        found = re.findall(rf"^{name}\{{[^}}]*\}} ([0-9.e+]+)$", text, re.MULTILINE)
        totals[name] = sum(map(float, found))
    return totals


def measured(kind: str, served: Served, directory: Path, *, rate: float, seconds: float) -> dict[str, Any]:
    """Run one kind of client and add the attempts that the gateway saw."""
    before, cpu = counted(served.said["admin"]), served.cpu_s()
    run = in_a_process(directory, served.said["grpc"], "--kind", kind, "--rate", str(rate), seconds=seconds)
    time.sleep(DEADLINE_S)
    after = counted(served.said["admin"])
    came, shed = (after[name] - before[name] for name in ("mesh_requests_total", "mesh_requests_shed_total"))
    run["attempts_per_request"] = round(came / run["requests"], 2)
    run["ran_per_request"] = round((came - shed) / run["requests"], 2)
    run["server_cpu_percent"] = round(100 * (served.cpu_s() - cpu) / run["seconds"])
    print(kind, json.dumps(run), file=sys.stderr)
    return run


def main() -> None:
    """Measure, print and write down; or be the process that does one part of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", help="where the generated code is")
    parser.add_argument("--address")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--at-once", type=int)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    if arguments.directory:
        sys.path.insert(0, arguments.directory)
        if arguments.kind:
            work: Any = load(arguments.kind, arguments.address, rate=arguments.rate, seconds=arguments.seconds)
        else:
            work = peak(arguments.address, at_once=arguments.at_once, seconds=arguments.seconds)
        print(json.dumps(uvloop.run(work)))
        return
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as place:
        directory = greeter.generate(Path(place))
        shutil.copy(greeter.HERE / "overload_service.py", directory)
        with greeter.mesh_run(directory, "overload_service:app") as served:
            write("overload_clients", results(served, directory, arguments.seconds))


def results(served: Served, directory: Path, seconds: float) -> dict[str, Any]:
    """Measure the peak, then all kinds of clients, each after the servers have calmed down."""
    sys.path.insert(0, str(directory))
    service = import_module("overload_service")
    may_run_and_wait = service.REPLICAS * service.ONGOING + service.QUEUED
    best = in_a_process(directory, served.said["grpc"], "--at-once", str(may_run_and_wait), seconds=seconds / 2)
    rate = OVERLOAD * service.CAPACITY
    runs = {kind: measured(kind, served, directory, rate=rate, seconds=seconds) for kind in KINDS}
    for run in runs.values():
        run["goodput_of_peak"] = round(run["per_second"] / best["per_second"], 3)
    return {
        "what": f"{rate:g} requests/s for {seconds:g} s, open loop, at replicas that serve {service.CAPACITY:g}/s",
        "peak_per_second": best["per_second"],
        "goals": {"attempts_per_request_max": GOAL_ATTEMPTS, "goodput_of_peak_min": GOAL_GOODPUT},
        **runs,
    }


if __name__ == "__main__":
    main()
