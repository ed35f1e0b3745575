"""No-op JSON with more replicas, and through more gateway processes. All of them share the processors there are."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.generators import closed, interleaved, summed_up
from benchmarks.report import ratio
from benchmarks.trees import HERE, Gateways, Mesh, Served

RUNS = 5
SECONDS = 0.6
CONNECTIONS = 64
REPLICAS = (1, 2, 4)
PROCESSES = (1, 2)


def mesh_of_replicas() -> Mesh:
    """Serve the same with 1, 2 and 4 replicas, at routes of these names."""
    return Mesh(str(HERE / "replicas.yaml"))


def replicas(mesh: Served) -> dict[str, Any]:
    """1, 2 and 4 replicas behind one gateway."""
    ways = {
        f"replicas_{count}": functools.partial(closed, mesh, f"/{count}", connections=CONNECTIONS, seconds=SECONDS)
        for count in REPLICAS
    }
    return _compared(ways, "replicas_1")


def gateways(mesh: Served) -> dict[str, Any]:
    """1 and 2 gateway processes before two replicas."""
    with Gateways(mesh, 1) as one, Gateways(mesh, 2) as two:
        ways = {
            f"gateway_processes_{count}": functools.partial(
                closed, served, "/2", connections=CONNECTIONS, seconds=SECONDS
            )
            for count, served in zip(PROCESSES, (one, two), strict=True)
        }
        return _compared(ways, "gateway_processes_1")


def _compared(ways: dict[str, functools.partial[dict[str, Any]]], base: str) -> dict[str, Any]:
    taken = interleaved(ways, RUNS)
    results: dict[str, Any] = {name: summed_up(runs) for name, runs in taken.items()}
    for name, runs in taken.items():
        if name != base:
            results[name][f"ratio_to_{base.rpartition('_')[2]}"] = ratio(runs, taken[base])
    return results
