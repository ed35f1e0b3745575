"""`make bench`: what a replica costs, and how a deploy of thirty on one machine comes up.

Starts `meshctl start` as a user would, from an environment that mesh was installed in, compiled; deploys one no-op
replica and then thirty, and reads their cost from outside: the seconds from launch to ready that the worker logs, the
CPU time each has taken by then, and its memory. Writes benchmarks/results/replicas.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import write
from benchmarks.trees import FREE_PORTS, Served
from benchmarks.workloads import footprint

HERE = Path(__file__).parent
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


def deploy(meshctl: str, address: str, file: Path, count: int, mark: str) -> float:
    """Deploy and wait; return the seconds until it is served."""
    file.write_text(CONFIG.format(here=HERE, mark=mark, count=count))
    began = time.perf_counter()
    command = [meshctl, "deploy", str(file), "--address", address, "--timeout", "120"]
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


def measure(meshctl: str, directory: Path) -> dict[str, Any]:
    log, file = directory / "log", directory / "mesh.yaml"
    command = [meshctl, "start", "--data-dir", str(directory / "data"), *FREE_PORTS, "-o", "json"]
    with log.open("w") as errors, Served([*command, "--log-format", "json"], errors=errors) as served:
        address = str(served.said["control"])
        for run in range(SINGLE_RUNS + 1):
            deploy(meshctl, address, file, 1, f"single-{run}")
        single = start_seconds(log, 0)[1:]  # the first one reads all of it from the disk
        root = psutil.Process(served.process.pid)
        results: dict[str, Any] = {"one_replica": {"start_s": round(statistics.median(single), 3)}}
        results["one_replica"]["start_s_of_each"] = [round(each, 3) for each in single]
        results["one_replica"].update(memory(replicas(root)))
        skip = len(log.read_text().splitlines())
        seconds = deploy(meshctl, address, file, REPLICAS, "many")
        found = replicas(root)
        results["thirty_replicas"] = {
            "deploy_s": round(seconds, 2),
            "cpu_s_each": round(statistics.median(sum(p.cpu_times()[:2]) for p in found), 3),
            "start_s_each": round(statistics.median(start_seconds(log, skip)), 2),
            **memory(found),
        }
    return results


def main() -> None:
    """Measure, print and write down."""
    with tempfile.TemporaryDirectory() as directory, footprint.environment() as place:
        write("replicas", measure(str(place / "bin" / "meshctl"), Path(directory)))


if __name__ == "__main__":
    main()
