"""Runs the load generators in processes of their own, and adds what a request cost each side.

One generator at a time, but for `meanwhile`. Owns the commands, and the interleaving of ways that are compared. Used by
the workloads.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.forked import die_with
from benchmarks.latencies import UNANSWERED
from benchmarks.report import medians
from benchmarks.trees import Served

ROOT = Path(__file__).parents[1]
SPARE_S = 60.0
CPU = ("gateway_cpu_us", "replica_cpu_us", "server_cpu_us", "client_cpu_us")
FIGURES = ("per_second", "p50_ms", "p90_ms", "p99_ms", "p999_ms", *CPU)
OK = frozenset({"200"})
OPEN_STATUSES = frozenset({"200", "503", str(UNANSWERED)})
Run = dict[str, Any]
Way = Callable[[], Run]


class GeneratorFailed(Exception):
    """A load generator could not do its work, or was not answered as it should be."""


def flags(options: Mapping[str, object]) -> list[str]:
    """Return options as they are written on a command line."""
    return [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]


class _Host:
    """The process that generators are forks of, from the first one on."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, module: str, words: list[str], limit_s: float) -> dict[str, Any]:
        """Return how a generator ended and what it wrote. Raises GeneratorFailed if it takes too long, or is lost."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"module": module, "words": words}).encode() + b"\n")
            process.stdin.flush()
            if select.select([process.stdout], [], [], limit_s)[0] and (line := process.stdout.readline()):
                return json.loads(line)  # type: ignore[no-any-return]
        except OSError as failure:
            self.end()
            raise GeneratorFailed(str(failure)) from failure
        except BaseException:  # what it says later would be taken for the answer to something else
            self.end()
            raise
        self.end()
        raise GeneratorFailed(f"{module} {' '.join(words)} did not end within {limit_s:g} s")

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.generator_host"]
        pipe, end_with_us = subprocess.PIPE, functools.partial(die_with, os.getpid())
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, preexec_fn=end_with_us)

    def end(self) -> None:
        """End it, with what it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


_host = _Host()
atexit.register(_host.end)


def generate(module: str, *words: str, seconds: float, **options: Any) -> Run:
    """Run a generator to its end and return what it says. Raises GeneratorFailed."""
    written = [*words, "--seconds", str(seconds), *flags(options)]
    done = _host.run(module, written, seconds + SPARE_S)
    if done["code"]:
        raise GeneratorFailed(f"benchmarks.{module} {' '.join(written)} failed:\n{done['complained']}")
    return json.loads(done["said"])  # type: ignore[no-any-return]


def measure(served: Served, module: str, *words: str, seconds: float, **options: Any) -> Run:
    """Run a generator; add the µs of CPU that each request cost each role, all servers, and the client."""
    roles = served.roles()
    run = generate(module, *words, seconds=seconds, watch=",".join(map(str, roles)), **options)
    spent: dict[str, float] = {}
    for name, cpu_s in run["cpu_s"].items():
        for role in ("client",) if name == "client" else {roles[int(name)], "server"}:
            spent[role] = spent.get(role, 0.0) + cpu_s
    count = max(1, run["completed"])
    return run | {f"{role}_cpu_us": cpu_s / count * 1e6 for role, cpu_s in spent.items()}


@contextlib.contextmanager
def meanwhile(module: str, *words: str, **options: Any) -> Iterator[None]:
    """Have a generator run beside something else; what it says is lost. Raises GeneratorFailed if it ends too soon."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *words, "--seconds", str(SPARE_S), *flags(options)]
    quiet = subprocess.DEVNULL
    end_with_us = functools.partial(die_with, os.getpid())
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd=ROOT, preexec_fn=end_with_us) as process:
        try:
            yield
            if process.poll() is not None:
                raise GeneratorFailed(f"{' '.join(command)} ended with {process.returncode}")
        finally:
            process.kill()


def closed(served: Served, path: str, *, seconds: float, statuses: frozenset[str] = OK, **options: Any) -> Run:
    """Run `load`; see that it was answered as it should be."""
    run = measure(served, "load", served.url + path, seconds=seconds, **options)
    if set(run["by_status"]) != statuses or run["broken"]:
        raise GeneratorFailed(f"{path} answered {run['by_status']}, {run['broken']} connections broke")
    return run


def opened(served: Served, path: str, *, rate: float, seconds: float, **options: Any) -> Run:
    """Run `open_loop`; add the rate and percentiles of what was answered with 200, and of what was refused.

    Raises GeneratorFailed if anything was answered otherwise. What was not answered in time is in the run, by itself.
    """
    run = measure(served, "open_loop", served.url + path, rate=rate, seconds=seconds, **options)
    if not OPEN_STATUSES.issuperset(run["by_status"]):
        raise GeneratorFailed(f"{path} answered {run['by_status']}")
    for name, status in (("admitted", "200"), ("shed", "503")):
        run[name] = run["by_status"].get(status, {"requests": 0, "per_second": 0.0})
    return run


def interleaved(ways: Mapping[str, Way], runs: int, *, in_turn: bool = False) -> dict[str, list[Run]]:
    """Run all ways one after another, again and again: what slows the machine for long slows all.

    `in_turn`: in the other order each second time, so that what one leaves behind slows each of them as often.
    """
    taken: dict[str, list[Run]] = {name: [] for name in ways}
    for number in range(runs):
        order = list(ways)[:: -1 if in_turn and number % 2 else 1]
        for name in order:
            taken[name].append(ways[name]())
    return taken


def summed_up(taken: list[Run], *more: str) -> dict[str, Any]:
    """Return medians of the usual figures and of `more`, and each rate."""
    rates = [round(run["per_second"]) for run in taken]
    return {**medians(taken, (*FIGURES, *more)), "per_second_of_each_run": rates}
