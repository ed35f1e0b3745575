"""What there is before the first request: time to start, memory, CPU when idle, and bytes on disk."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.generators import closed
from benchmarks.peers.environments import THIS, Environments, size
from benchmarks.trees import Mesh, Served

STARTS = 5
INSTALL_S = 120.0
LARGEST = 5
IDLE_S = 3.0


def one_replica() -> Mesh:
    """Serve one replica that does nothing."""
    return Mesh("noop:noop")


@contextlib.contextmanager
def environment() -> Iterator[Path]:
    """Install mesh as its users do, in an environment that goes: compiled, and not editable. Its directory."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as place:
        yield Environments(Path(place), time.monotonic() + INSTALL_S).get("mesh", (THIS,))


def installed(place: Path) -> dict[str, Any]:
    """MB on disk of mesh and all that it needs: as pip leaves it, with byte code, and without."""
    measured = size(place)
    packages = next(place.glob("lib/python*/site-packages"))
    largest = sorted(((_bytes(each), each.name) for each in packages.iterdir()), reverse=True)[:LARGEST]
    return {
        "installed": {
            "mb": measured["installed_mb"],
            "byte_code_mb": measured["byte_code_mb"],
            "without_byte_code_mb": round(measured["installed_mb"] - measured["byte_code_mb"], 1),
            "packages": measured["packages"],
            "largest_mb": {name: round(count / 1e6, 1) for count, name in largest},
        }
    }


def start_up(place: Path) -> dict[str, Any]:
    """Seconds from starting `meshctl run` to the first 200, and the CPU of all processes until then."""
    taken, cpu = [], []
    for number in range(STARTS + 1):
        with Mesh("noop:noop", meshctl=(str(place / "bin" / "meshctl"),)) as served:
            seconds = served.first_answer_s()
            if number:  # the first one reads all of it from the disk
                taken.append(seconds)
                cpu.append(served.cpu_s())
    return {
        "start_to_first_200_s": round(statistics.median(taken), 3),
        "start_to_first_200_s_of_each_run": [round(each, 3) for each in taken],
        "start_cpu_s": round(statistics.median(cpu), 3),
    }


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


def _bytes(path: Path) -> int:
    """Return the bytes of a file, or of those in a directory."""
    files = (path,) if path.is_file() else (each for each in path.rglob("*") if each.is_file())
    return sum(each.stat().st_size for each in files)
