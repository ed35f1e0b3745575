"""Where the CPU of a request goes, in gateway and replica, by part, in microseconds.

Starts `meshctl run` and loads it with requests to a handler that does nothing, over 64 connections and over one. First
the CPU of each thread is taken from the kernel (psutil) while nothing else looks on; then py-spy samples the stacks of
both processes, native frames included, under the same load. `stacks` puts samples into parts; the CPU of each thread is
shared out by them, its own and the kernel's apart. py-spy stops a process for some ten milliseconds for each sample, so
it takes few, and its own run gives shares only. It must be allowed to attach: root, or
`sysctl kernel.yama.ptrace_scope=0`.

With `--before REVISION` another version of mesh, checked out beside, is profiled in turn with this one, so that the
machine is the same for both. Writes benchmarks/results/profile.json. Takes three minutes, or six.
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks import stacks
from benchmarks.forked import die_with
from benchmarks.generators import generate
from benchmarks.report import write
from benchmarks.trees import FREE_PORTS, HERE, MESHCTL, Served

SAMPLES_PER_SECOND = {64: 20, 1: 50}
"""By connections. Stopped more often, batches of many connections would swell; one connection has none."""
NAMELESS = {"gateway": stacks.HTTP_SERVER, "replica": stacks.OTHER}
"""Whose the threads are that run no Python and have no name of their own: granian names none of its."""
PY_SPY = str(Path(sys.executable).with_name("py-spy"))
RUNS = 7
RUN_S = 2.0
SAMPLED_TIMES = 2
SAMPLED_S = 35
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
    """Gateway and replica of one version of mesh, and what was seen of them under one load."""

    def __init__(self, served: Served, commit: str, place: Path) -> None:
        self.commit = commit
        self._place = place
        self._url = served.url + "/"
        gateway, *others = served.tree()
        generate("load", self._url, connections=max(SAMPLES_PER_SECOND), seconds=WARM_UP_S)
        replicas = [process for process in others if "mesh.worker.replica" in process.cmdline()]
        replica = max(replicas, key=lambda process: sum(process.cpu_times()[:2]))
        self._processes = {"gateway": gateway, "replica": replica}
        self.begin()

    def begin(self) -> None:
        """Forget what was seen."""
        self._rates: list[float] = []
        self._rates_sampled: list[float] = []
        self._threads: dict[str, list[Threads]] = {name: [] for name in self._processes}
        self._seen: dict[str, list[stacks.Stack]] = {name: [] for name in self._processes}

    def load(self, connections: int) -> None:
        """Load without looking on; note the CPU of each thread for each request."""
        before = {name: cpu_of_threads(process) for name, process in self._processes.items()}
        run = generate("load", self._url, connections=connections, seconds=RUN_S, warm_up=0.0)
        assert set(run["by_status"]) == {"200"}, run["by_status"]
        self._rates.append(run["per_second"])
        for name, process in self._processes.items():
            self._threads[name].append(per_request(before[name], cpu_of_threads(process), run["requests"]))

    def sample(self, connections: int) -> None:
        """Load while py-spy samples both processes; note the stacks."""
        time = len(self._rates_sampled)
        files = {name: self._place / f"{self.commit}-{name}-{connections}-{time}.txt" for name in self._processes}
        with contextlib.ExitStack() as ending:
            samplers = {
                name: ending.enter_context(sampler(process.pid, files[name], SAMPLES_PER_SECOND[connections]))
                for name, process in self._processes.items()
            }
            run = generate("load", self._url, connections=connections, seconds=SAMPLED_S + 2.0)
            for name, process in samplers.items():
                output, _ = process.communicate(timeout=60)
                if process.returncode:
                    raise SystemExit(f"py-spy could not sample the {name} (see this module's docstring): {output}")
        self._rates_sampled.append(run["per_second"])
        for name, file in files.items():
            self._seen[name] += stacks.parse(file.read_text())

    def figures(self) -> dict[str, Any]:
        """Sum up what was seen since the last `begin`."""
        rate = statistics.median(self._rates)
        result: dict[str, Any] = {
            "per_second": round(rate, 1),
            "per_second_of_each_run": [round(each) for each in self._rates],
            "per_second_while_sampled": round(statistics.median(self._rates_sampled), 1),
        }
        for name, process in self._processes.items():
            threads, seen = medians(self._threads[name]), self._seen[name]
            parts = stacks.spent(seen, threads, names_of_threads(process), NAMELESS[name])
            us = sum(used.all for used in threads.values())
            loop_us = threads[process.pid].all
            result[name] = {
                "us_per_request": round(us, 1),
                "us_per_request_of_each_run": [
                    round(sum(used.all for used in run.values()), 1) for run in self._threads[name]
                ],
                "in_the_kernel_us": round(sum(used.system for used in threads.values()), 1),
                "processors_busy": round(us * rate / 1e6, 3),
                "loop_thread": {"us_per_request": round(loop_us, 1), "busy": round(loop_us * rate / 1e6, 3)},
                "samples": sum(stack.count for stack in seen if not stacks.in_kernel(stack.frames)),
                "parts_us": {part: round(each.us, 2) for part, each in parts.items()},
                "parts_error_us": {part: round(each.error_us, 2) for part, each in parts.items()},
            }
        return result


def profiled(versions: Mapping[str, Measured]) -> dict[str, Any]:
    """Load and sample all versions in turn, again and again; return the figures of each load and version."""
    loads: dict[str, Any] = {}
    for connections in SAMPLES_PER_SECOND:
        for measured in versions.values():
            measured.begin()
        for _ in range(RUNS):
            for measured in versions.values():
                measured.load(connections)
        for _ in range(SAMPLED_TIMES):
            for measured in versions.values():
                measured.sample(connections)
        loads[f"{connections}_connections"] = {name: measured.figures() for name, measured in versions.items()}
    return loads


def git(*words: str) -> str:
    """Run git here. Raises SystemExit if it fails."""
    done = subprocess.run(("git", *words), cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """Have a revision of this repository in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="mesh-before-") as passing:
        place = Path(passing, "mesh")
        git("worktree", "add", "--detach", str(place), revision)
        try:
            yield place
        finally:
            git("worktree", "remove", "--force", str(place))


def serve(directory: Path) -> Served:
    """Serve this handler with the version of mesh in a directory."""
    command = [MESHCTL, "run", "noop:noop", "--working-dir", str(HERE), *FREE_PORTS, "-o", "json"]
    return Served(command, {"PYTHONPATH": str(directory)})


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
    parser.add_argument("--before", metavar="REVISION", help="profile this one too, in turn")
    parser.add_argument("--stacks", type=Path, help="directory to keep the stacks in, for a flame graph of them")
    arguments = parser.parse_args()
    if not Path(PY_SPY).exists():
        raise SystemExit("py-spy is not installed; `make profile` installs it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with contextlib.ExitStack() as ending:
        place: Path = arguments.stacks or Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="mesh-")))
        place.mkdir(parents=True, exist_ok=True)
        revisions = {"before": arguments.before} if arguments.before else {}
        directories = {name: ending.enter_context(checkout(each)) for name, each in revisions.items()}
        versions: dict[str, Measured] = {}
        for name, directory in {**directories, "after": HERE.parent}.items():
            served = ending.enter_context(serve(directory))
            served.first_answer_s()
            versions[name] = Measured(served, git("rev-parse", "--short", revisions.get(name, "HEAD")), place)
        loads = profiled(versions)
    commits = {name: measured.commit for name, measured in versions.items()}
    write("profile", {"what": "µs of CPU for each request, by part", "commits": commits, "no_op": loads}, "py-spy")


if __name__ == "__main__":
    main()
