"""`make bench`: our own figures, on this machine, in a few minutes.

Starts mesh as a user would and measures it from outside. Owns the table of workloads; what each is, is said in its
function. All of them: python -m benchmarks.run, which writes benchmarks/results/latest.json. Some of them, printed
only: python -m benchmarks.run --only noop,overload
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from benchmarks.forked import allow_many_files
from benchmarks.report import write
from benchmarks.trees import HERE, Mesh
from benchmarks.workloads import bodies, footprint, grpc_calls, overload, requests, scale, watched


@dataclass(frozen=True, slots=True)
class Group:
    """Workloads that share what serves them."""

    serve: Callable[[], AbstractContextManager[Any]]
    workloads: dict[str, Callable[[Any], dict[str, Any]]]


GROUPS = (
    Group(contextlib.nullcontext, {"installed": footprint.installed, "start_up": footprint.start_up}),
    Group(footprint.one_replica, {"idle": footprint.idle, "watched": watched.watched}),
    Group(
        lambda: Mesh(str(HERE / "config.yaml")),
        {
            "noop": requests.noop,
            "noop_wrk": requests.noop_wrk,
            "echo": requests.echo,
            "chain": requests.chain,
            "shed": requests.shed,
            "bodies": bodies.bodies,
            "beside": bodies.beside,
            "events": bodies.events,
            "overload": overload.overload,
        },
    ),
    Group(scale.mesh_of_replicas, {"replicas": scale.replicas, "gateways": scale.gateways}),
    Group(grpc_calls.servers, {"grpc_unary": grpc_calls.unary, "grpc_bidi": grpc_calls.bidi}),
)
NAMES = tuple(name for group in GROUPS for name in group.workloads)


def measured(names: frozenset[str]) -> dict[str, Any]:
    """Run the workloads of these names; say on stderr which and how long each took."""
    results: dict[str, Any] = {}
    for group in GROUPS:
        chosen = {name: work for name, work in group.workloads.items() if name in names}
        if not chosen:
            continue
        with group.serve() as served:
            for name, work in chosen.items():
                began = time.perf_counter()
                results.update(work(served))
                print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return results


def some(text: str) -> frozenset[str]:
    """Parse "NAME,NAME"."""
    names = frozenset(text.split(","))
    if unknown := names - set(NAMES):
        raise argparse.ArgumentTypeError(f"no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return names


def main() -> None:
    """Measure; print it, and write it down if it is all."""
    parser = argparse.ArgumentParser(description="Measure mesh on this machine.")
    parser.add_argument("--only", type=some, metavar="NAME,...", help=f"some of {', '.join(NAMES)}; writes nothing")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    allow_many_files()
    if arguments.only:
        print(json.dumps(measured(arguments.only), indent=2))
    else:
        write("latest", measured(frozenset(NAMES)))


if __name__ == "__main__":
    main()
