"""gRPC unary calls through the gateway, against the same servicer on a plain grpc.aio server called directly.

The same client, in a process of its own, for all; each server in its own processes; runs are interleaved, so that the
machine's moods hit all. The plain server runs twice: as grpc.aio comes, and with the process settings of mesh.
Writes benchmarks/results/grpc_unary.json. Run: python -m benchmarks.grpc_unary
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import greeter
from benchmarks.report import ratio, summary, write

RUNS = 7
SECONDS = 3.0
CONNECTIONS, STREAMS = 4, 16
GOAL = 0.8


def load(served: greeter.Served, directory: Path, seconds: float) -> dict[str, Any]:
    """Run the generator once and add what a call cost each side, in µs of CPU."""
    command = [sys.executable, "-m", "benchmarks.grpc_load", served.said["grpc"], str(directory)]
    command += ["--connections", str(CONNECTIONS), "--streams", str(STREAMS), "--seconds", str(seconds)]
    before = served.cpu_s()
    output = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=seconds + 60, cwd=greeter.HERE.parent
    )
    run: dict[str, Any] = json.loads(output.stdout)
    run["server_cpu_us"] = (served.cpu_s() - before) / run["requests"] * 1e6
    run["client_cpu_us"] = run["client_cpu_s"] / run["requests"] * 1e6
    return run


def main() -> None:
    """Measure, print and write down."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as place:
        directory = greeter.generate(Path(place))
        with (
            greeter.mesh_run(directory) as mesh,
            greeter.plain(directory, as_mesh=False) as plain,
            greeter.plain(directory, as_mesh=True) as tuned,
        ):
            servers = {"mesh": mesh, "plain": plain, "plain_as_mesh": tuned}
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
            for served in servers.values():
                load(served, directory, 1.0)
            for _ in range(RUNS):
                for name, served in servers.items():
                    runs[name].append(load(served, directory, SECONDS))
    keys = ("per_second", "p50_ms", "p99_ms", "server_cpu_us", "client_cpu_us")
    results = {
        "what": f"unary calls, {CONNECTIONS} connections x {STREAMS} streams, medians of {RUNS} runs of {SECONDS:g} s",
        **{name: summary(taken, keys) for name, taken in runs.items()},
        "ratio": ratio(runs["mesh"], runs["plain"]),
        "ratio_to_plain_as_mesh": ratio(runs["mesh"], runs["plain_as_mesh"]),
        "goal": GOAL,
    }
    write("grpc_unary", results)


if __name__ == "__main__":
    main()
