"""gRPC through the gateway, against the same servicer on a plain grpc.aio server called directly.

The same client, in processes of its own, for all; each server in its own processes. The plain server runs twice: as
grpc.aio comes, and with the process settings of mesh.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import greeter
from benchmarks.generators import Run, interleaved, measure, summed_up
from benchmarks.report import ratio
from benchmarks.trees import Served

RUNS = 5
SECONDS = 0.6
CONNECTIONS, STREAMS = 4, 16
PROCESSES = 2
"""Of the client: one takes a whole processor where many messages are on their way, and would be what is measured."""
UNARY_GOAL, BIDI_GOAL = 0.8, 1.0


@dataclass(frozen=True, slots=True)
class Servers:
    """The gateway with a replica behind it, and the plain servers."""

    directory: Path
    by_name: dict[str, Served]


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """Serve the greeter in all ways."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as place:
        directory = greeter.generate(Path(place))
        with (
            greeter.mesh_run(directory) as mesh,
            greeter.plain(directory, as_mesh=False) as plain,
            greeter.plain(directory, as_mesh=True) as tuned,
        ):
            yield Servers(directory, {"mesh": mesh, "plain": plain, "plain_as_mesh": tuned})


def unary(all_of: Servers) -> dict[str, Any]:
    """Unary calls, 4 connections with 16 calls at a time each."""
    return {"grpc_unary": _compared(all_of, UNARY_GOAL, kind="unary")}


def bidi(all_of: Servers) -> dict[str, Any]:
    """Messages on 4 × 16 bidi streams: each sent when the one before is answered, and 16 on their way at a time."""
    return {
        "grpc_bidi": _compared(all_of, BIDI_GOAL, kind="bidi"),
        "grpc_bidi_16_ahead": _compared(all_of, BIDI_GOAL, kind="bidi", ahead=16),
    }


def _compared(all_of: Servers, goal: float, **options: Any) -> dict[str, Any]:
    ways = {
        name: functools.partial(_load, served, all_of.directory, options) for name, served in all_of.by_name.items()
    }
    taken = interleaved(ways, RUNS)
    results: dict[str, Any] = {name: summed_up(runs) for name, runs in taken.items()}
    for name in sorted(set(taken) - {"mesh"}):
        results[f"ratio_to_{name}"] = ratio(taken["mesh"], taken[name])
    return {**results, "goal": goal}


def _load(served: Served, directory: Path, options: dict[str, Any]) -> Run:
    words = ("grpc_load", str(served.said["grpc"]), str(directory))
    options = {"connections": CONNECTIONS, "streams": STREAMS, "processes": PROCESSES, **options}
    return measure(served, *words, seconds=SECONDS, **options)
