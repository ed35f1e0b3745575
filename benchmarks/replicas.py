"""`make bench`: what a replica costs, and how a deploy of thirty on one machine comes up.

Starts `meshctl start` as a user would, deploys one no-op replica and then thirty, and reads their cost from outside:
the seconds from launch to ready that the worker logs, the CPU time each has taken by then, and its memory. Writes
benchmarks/results/replicas.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import write

HERE = Path(__file__).parent
MESHCTL = str(Path(sys.executable).with_name("meshctl"))
REPLICAS = 30
SINGLE_RUNS = 5
CONFIG = """\
applications:
  - name: noop
    route_prefix: /
    import_path: noop:noop
    runtime_env: {{working_dir: "{here}"}}
    code_version: "{mark}"
    deployments: [{{name: Noop, num_replicas: {count}}}]
"""


def deploy(address: str, directory: Path, count: int, mark: str) -> float:
    """Deploy and wait; return the seconds until it is served."""
    file = directory / "mesh.yaml"
    file.write_text(CONFIG.format(here=HERE, mark=mark, count=count))
    began = time.perf_counter()
    command = [MESHCTL, "deploy", str(file), "--address", address, "--timeout", "120"]
    subprocess.run(command, check=True, capture_output=True, timeout=150)
    return time.perf_counter() - began


def replicas(root: psutil.Process) -> list[psutil.Process]:
    return [p for p in root.children(recursive=True) if "mesh.worker.replica" in p.cmdline()]


def start_seconds(log: Path, skip: int) -> list[float]:
    """Return the seconds from "replica started" to "replica is ready" of each in the log, after `skip` lines."""
    started: dict[str, datetime] = {}
    taken = []
    for line in log.read_text().splitlines()[skip:]:
        entry = json.loads(line) if line.startswith("{") else {}
        at = str(entry.get("time"))
        if entry.get("message") == "replica started":
            started[entry["replica"]] = datetime.fromisoformat(at)
        elif entry.get("message") == "replica is ready" and entry["replica"] in started:
            taken.append((datetime.fromisoformat(at) - started[entry["replica"]]).total_seconds())
    return taken


def memory(processes: list[psutil.Process]) -> dict[str, float]:
    full = [process.memory_full_info() for process in processes]
    return {
        "resident_mb": round(statistics.median(each.rss for each in full) / 1e6, 1),
        "unique_mb": round(statistics.median(each.uss for each in full) / 1e6, 1),
    }


def measure(directory: Path) -> dict[str, Any]:
    log = directory / "log"
    ports = [part for name in ("port", "grpc-port", "control-port", "admin-port") for part in (f"--{name}", "0")]
    with log.open("w") as stderr:
        command = [MESHCTL, "start", "--data-dir", str(directory), *ports, "-o", "json", "--log-format", "json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["control"]
        for run in range(SINGLE_RUNS):
            deploy(address, directory, 1, f"single-{run}")
        single = start_seconds(log, 0)
        root = psutil.Process(process.pid)
        results: dict[str, Any] = {"one_replica": {"start_s": round(statistics.median(single), 3)}}
        results["one_replica"].update(memory(replicas(root)))
        skip = len(log.read_text().splitlines())
        seconds = deploy(address, directory, REPLICAS, "many")
        found = replicas(root)
        results["thirty_replicas"] = {
            "deploy_s": round(seconds, 2),
            "cpu_s_each": round(statistics.median(sum(p.cpu_times()[:2]) for p in found), 3),
            "start_s_each": round(statistics.median(start_seconds(log, skip)), 2),
            **memory(found),
        }
        return results
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    """Measure, print and write down."""
    with tempfile.TemporaryDirectory() as directory:
        write("replicas", measure(Path(directory)))


if __name__ == "__main__":
    main()
