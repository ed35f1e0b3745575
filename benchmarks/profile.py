"""Where the CPU of a request goes, in gateway and replica, by part, in microseconds.

Starts `meshctl run` and loads it with requests to a handler that does nothing, over 64 connections and over one. First
the CPU of each thread is taken from the kernel (psutil) while nothing else looks on; then py-spy samples the stacks of
both processes, native frames included, under the same load. `stacks` puts samples into parts; the CPU of each thread is
shared out by them, its own and the kernel's apart. py-spy stops a process for some ten milliseconds for each sample, so
it takes few, and its own run gives shares only. It must be allowed to attach: root, or
`sysctl kernel.yama.ptrace_scope=0`.

Writes benchmarks/results/profile.json; with `--name profile_before` that file. Takes two minutes. For the profile of
another version of mesh, have PYTHONPATH name a directory with it.
Run: python -m benchmarks.profile
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks import stacks
from benchmarks.forked import die_with
from benchmarks.generators import generate
from benchmarks.report import write
from benchmarks.trees import Mesh

SAMPLES_PER_SECOND = {64: 20, 1: 50}
"""By connections. Stopped more often, batches of many connections would swell; one connection has none."""
NAMELESS = {"gateway": stacks.HTTP_SERVER, "replica": stacks.OTHER}
"""Whose the threads are that run no Python and have no name of their own: granian names none of its."""
PY_SPY = str(Path(sys.executable).with_name("py-spy"))
RUNS = 5
RUN_S = 2.0
SAMPLED_S = 40
WARM_UP_S = 2.0
Threads = dict[int, stacks.Spent]


def cpu_of_threads(process: psutil.Process) -> Threads:
    """Return the seconds of CPU that each thread has used."""
    return {thread.id: stacks.Spent(thread.user_time, thread.system_time) for thread in process.threads()}


def per_request(before: Threads, after: Threads, requests: int) -> Threads:
    """Return the microseconds that each thread used between two looks for each request."""
    nothing = stacks.Spent()
    changes = {thread: (before.get(thread, nothing), used) for thread, used in after.items()}
    us = 1e6 / requests
    return {
        thread: stacks.Spent((used.user - old.user) * us, (used.system - old.system) * us)
        for thread, (old, used) in changes.items()
    }


def medians(runs: list[Threads]) -> Threads:
    """Return the median of each thread's use over the runs."""
    every = {thread: [run.get(thread, stacks.Spent()) for run in runs] for thread in runs[-1]}
    return {
        thread: stacks.Spent(
            statistics.median(each.user for each in used), statistics.median(each.system for each in used)
        )
        for thread, used in every.items()
    }


def names_of_threads(process: psutil.Process) -> dict[int, str]:
    """Return what the kernel calls each thread."""
    names = {}
    for thread in process.threads():
        with contextlib.suppress(OSError):
            names[thread.id] = Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text().strip()
    return names


class Measured:
    """Gateway and replica under load."""

    def __init__(self, mesh: Mesh, place: Path) -> None:
        self._place = place
        self.url = mesh.url + "/"
        self.gateway, *others = mesh.tree()
        generate("load", self.url, connections=max(SAMPLES_PER_SECOND), seconds=WARM_UP_S)
        replicas = [process for process in others if "mesh.worker.replica" in process.cmdline()]
        self.replica = max(replicas, key=lambda process: sum(process.cpu_times()[:2]))
        self.processes = {"gateway": self.gateway, "replica": self.replica}

    def cpu(self, connections: int) -> dict[str, Any]:
        """Load without looking on: microseconds for each request of each thread, medians of the runs."""
        taken: dict[str, list[Threads]] = {name: [] for name in self.processes}
        rates = []
        for _ in range(RUNS):
            before = {name: cpu_of_threads(process) for name, process in self.processes.items()}
            run = generate("load", self.url, connections=connections, seconds=RUN_S, warm_up=0.0)
            assert set(run["by_status"]) == {"200"}, run["by_status"]
            rates.append(run["per_second"])
            for name, process in self.processes.items():
                taken[name].append(per_request(before[name], cpu_of_threads(process), run["requests"]))
        threads = {name: medians(runs) for name, runs in taken.items()}
        return {"per_second": round(statistics.median(rates), 1), "threads": threads}

    def sampled(self, connections: int) -> tuple[dict[str, list[stacks.Stack]], float]:
        """Load while py-spy samples both processes; return the stacks, and the rate of requests meanwhile."""
        with contextlib.ExitStack() as ending:
            files = {name: self._place / f"{name}-{connections}.txt" for name in self.processes}
            samplers = {
                name: ending.enter_context(sampler(process.pid, files[name], SAMPLES_PER_SECOND[connections]))
                for name, process in self.processes.items()
            }
            run = generate("load", self.url, connections=connections, seconds=SAMPLED_S + 2.0)
            for name, process in samplers.items():
                output, _ = process.communicate(timeout=60)
                if process.returncode:
                    raise SystemExit(f"py-spy could not sample the {name} (see this module's docstring): {output}")
            return {name: stacks.parse(file.read_text()) for name, file in files.items()}, run["per_second"]

    def parts(self, connections: int) -> dict[str, Any]:
        """Return the figures of one kind of load."""
        cpu = self.cpu(connections)
        seen, rate = self.sampled(connections)
        result: dict[str, Any] = {"per_second": cpu["per_second"], "per_second_while_sampled": rate}
        for name, process in self.processes.items():
            threads = cpu["threads"][name]
            shares = stacks.spent(seen[name], threads, names_of_threads(process), NAMELESS[name])
            result[name] = {
                "us_per_request": round(sum(used.all for used in threads.values()), 1),
                "in_the_kernel_us": round(sum(used.system for used in threads.values()), 1),
                "samples": sum(stack.count for stack in seen[name] if not stacks.in_kernel(stack.frames)),
                "parts_us": {part: round(us, 2) for part, us in shares.items()},
            }
        return result


@contextlib.contextmanager
def sampler(pid: int, file: Path, rate: int) -> Iterator[subprocess.Popen[str]]:
    """Run py-spy on a process; it ends by itself, or here."""
    command = [PY_SPY, "record", "--pid", str(pid), "--output", str(file)]
    command += ["--format", "raw", "--function", "--threads", "--full-filenames", "--native"]
    command += ["--rate", str(rate), "--duration", str(SAMPLED_S)]
    end_with_us = functools.partial(die_with, os.getpid())
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=end_with_us
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="profile", help="name of the file in benchmarks/results")
    parser.add_argument("--stacks", type=Path, help="directory to keep the stacks in, for a flame graph of them")
    arguments = parser.parse_args()
    if not Path(PY_SPY).exists():
        raise SystemExit("py-spy is not installed; `make profile` installs it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="mesh-profile-") as passing:
        place: Path = arguments.stacks or Path(passing)
        place.mkdir(parents=True, exist_ok=True)
        with Mesh("noop:noop") as mesh:
            mesh.first_answer_s()
            measured = Measured(mesh, place)
            loads = {f"{connections}_connections": measured.parts(connections) for connections in SAMPLES_PER_SECOND}
    write(arguments.name, {"what": "µs of CPU for each request, by part", "no_op": loads}, "py-spy")


if __name__ == "__main__":
    main()
