"""How side-by-side figures are summed up, and written down with the facts of the machine."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
Run = Mapping[str, Any]
EACH = "_of_each_run"
"""What the figures of each run are named after that of all."""
BEGAN = time.time()
"""When this was loaded: each program that measures loads it first."""
LOAD_BEFORE = os.getloadavg()
MADE = (":!benchmarks/results", ":!docs/performance", ":!docs/performance.md")
"""What measuring writes: a change of it is no change of what is measured."""
GIT_S = 10.0
TOLD = (
    *("PYTHONDONTWRITEBYTECODE", "PYTHONOPTIMIZE", "PYTHONHASHSEED", "PYTHONMALLOC", "PYTHONDEVMODE"),
    *("PYTHONASYNCIODEBUG", "PYTHONUNBUFFERED", "PYTHONNODEBUGRANGES", "PYTHONPERFSUPPORT", "PYTHONTRACEMALLOC"),
    *("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GRPC_VERBOSITY", "GRPC_TRACE"),
    *("GRPC_EXPERIMENTS", "GRPC_POLL_STRATEGY", "UVLOOP_USE_LIBUV"),
)
"""Variables of the environment that change what Python or gRPC costs."""
FLAGS = ("optimize", "dont_write_bytecode", "dev_mode", "debug", "isolated", "no_site")


def medians(runs: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the median of each figure over the runs, and those of each run; of a figure that some lack, nothing."""
    told: dict[str, Any] = {}
    for key in keys:
        if all(key in run for run in runs):
            told[key] = round(statistics.median(run[key] for run in runs), 3)
            told[f"{key}{EACH}"] = [round(run[key], 3) for run in runs]
    return told


def summary(runs: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the medians, and every rate, so that the spread shows."""
    return {**medians(runs, keys), f"per_second{EACH}": [round(run["per_second"]) for run in runs]}


def ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], key: str = "per_second") -> float:
    """Return the median of the ratios of neighbouring runs: what slows the machine for long slows both."""
    pairs = zip(ours, theirs, strict=True)
    return round(statistics.median(float(our[key] / their[key]) for our, their in pairs), 3)


def machine() -> dict[str, Any]:
    """What the figures were taken on, and of which code. What cannot be told is None."""
    packages = ("grpcio", "protobuf", "granian", "uvloop", "starlette")
    return {
        "cpus": os.cpu_count(),
        "cpu_model": named(_text("/proc/cpuinfo"), "model name"),
        "memory_mb": megabytes(named(_text("/proc/meminfo"), "MemTotal")),
        "load_average_before": [round(each, 2) for each in LOAD_BEFORE],
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_flags": {name: int(flag) for name in FLAGS if (flag := getattr(sys.flags, name))},
        "environment": {name: value for name in TOLD if (value := os.environ.get(name)) is not None},
        **code(),
        "packages": {name: version(name) for name in packages},
    }


def named(text: str, name: str) -> str | None:
    """Return what follows "NAME:" at the start of a line; None without one."""
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None


def megabytes(text: str | None) -> int | None:
    """Return the millions of bytes of "N kB"; None if it is something else."""
    count, _, unit = (text or "").partition(" ")
    return round(int(count) * 1024 / 1e6) if unit == "kB" and count.isdigit() else None


def code() -> dict[str, Any]:
    """Return the commit of this checkout, its tree of mesh, and whether files are others; None where git is not."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *MADE)
    tree = _git("rev-parse", "--short=12", "HEAD:mesh")
    return {"commit": commit, "mesh_tree": tree, "changed": None if status is None else bool(status)}


def _git(*words: str) -> str | None:
    command = ["git", "-C", str(ROOT), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _text(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""


def instant(seconds: float) -> str:
    """Return a time in seconds since 1970 as the files have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def written(results: Mapping[str, Any]) -> str:
    """Return the text of a file: what is within what is indented, and a list of numbers is one line."""
    # No string has a line's end in it: what is found is a list.
    return re.sub(r"\[\n[\d\s.,eE+-]+\]", lambda found: json.dumps(json.loads(found[0])), json.dumps(results, indent=2))


def write(name: str, results: dict[str, Any], *packages: str) -> None:
    """Print the results and write them to benchmarks/results/NAME.json."""
    facts = machine()
    facts["packages"].update({package: version(package) for package in packages})
    took = round(time.time() - BEGAN)
    text = written({"at": instant(BEGAN), "took_s": took, "machine": facts, **results})
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
