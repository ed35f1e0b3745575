"""What there is before the first request: time to start, memory, CPU when idle, and bytes on disk."""

from __future__ import annotations

import compileall
import re
import statistics
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

import mesh as package
from benchmarks.generators import closed
from benchmarks.trees import Mesh, Served

STARTS = 5
IDLE_S = 5.0


def one_replica() -> Mesh:
    """Serve one replica that does nothing."""
    return Mesh("noop:noop")


def start_up(_nothing: None) -> dict[str, Any]:
    """Seconds from starting `meshctl run` to the first 200, as installed."""
    # Installing compiles; from a checkout each process would compile again where Python is told to keep no bytecode.
    compileall.compile_dir(Path(package.__file__).parent, quiet=1)
    taken = []
    for _ in range(STARTS):
        with one_replica() as served:
            taken.append(served.first_answer_s())
    return {"start_to_first_200_s": round(statistics.median(taken), 3)}


def idle(served: Served) -> dict[str, Any]:
    """Memory and CPU of the whole tree while nothing is asked of it, and memory after a load of 64 connections."""
    served.first_answer_s()
    time.sleep(1.0)
    results: dict[str, Any] = {"processes": len(served.tree()), **_memory(served)}
    before = served.cpu_s()
    time.sleep(IDLE_S)
    results["idle_cpu_percent"] = round(100 * (served.cpu_s() - before) / IDLE_S, 2)
    closed(served, "/", connections=64, seconds=2.0)
    return {**results, "after_load": _memory(served)}


def _memory(served: Served) -> dict[str, float]:
    """Return MB of the tree: resident with shared pages counted in each process, divided among them, and not at all."""
    full = [process.memory_full_info() for process in served.tree()]
    return {
        "resident_mb": round(sum(each.rss for each in full) / 1e6, 1),
        "proportional_mb": round(sum(each.pss for each in full) / 1e6, 1),
        "unique_mb": round(sum(each.uss for each in full) / 1e6, 1),
    }


def installed(_nothing: None) -> dict[str, Any]:
    """MB on disk of mesh and all that it needs, without compiled Python, by their lists of files."""
    sizes = {name: _size(name) for name in sorted(_needed("mesh-serve", set())) if name != "mesh-serve"}
    own = [path for path in Path(package.__file__).parent.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    sizes["mesh-serve"] = sum(path.stat().st_size for path in own)
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:5]
    return {
        "installed": {
            "mb": round(sum(sizes.values()) / 1e6, 1),
            "packages": len(sizes),
            "largest_mb": {name: round(size / 1e6, 1) for name, size in largest},
        }
    }


def _needed(name: str, found: set[str]) -> set[str]:
    """Return the names of a package and of all that it requires here."""
    normal = re.sub(r"[-_.]+", "-", name).lower()
    if normal in found:
        return found
    try:
        requirements = distribution(normal).requires or []
    except PackageNotFoundError:
        return found
    found.add(normal)
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            _needed(requirement.name, found)
    return found


def _size(name: str) -> int:
    files = [Path(str(file.locate())) for file in distribution(name).files or () if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in files if path.is_file())
