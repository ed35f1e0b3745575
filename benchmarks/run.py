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
    Group(footprint.environment, {"installed": footprint.installed, "start_up": footprint.start_up}),
    Group(footprint.one_replica, {"idle": footprint.idle}),
    Group(contextlib.nullcontext, {"watched": watched.watched}),
    Group(
        lambda: Mesh(str(HERE / "config.yaml")),
        {
            "noop": requests.noop,
            "echo": requests.echo,
            "chain": requests.chain,
            "shed": requests.shed,
            "bodies": bodies.bodies,
            "beside": bodies.beside,
            "events": bodies.events,
            "overload": overload.overload,
            "overload_of_all": overload.overload_of_all,
        },
    ),
    Group(scale.mesh_of_replicas, {"replicas": scale.replicas, "gateways": scale.gateways}),
    Group(grpc_calls.servers, {"grpc_unary": grpc_calls.unary, "grpc_bidi": grpc_calls.bidi}),
)
NAMES = tuple(name for group in GROUPS for name in group.workloads)


def measured(names: frozenset[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Run the workloads of these names; tell on stderr how long each took. Return also which failed, and why.

    Whatever one fails of, the others are measured all the same.
    """
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for group in GROUPS:
        chosen = {name: work for name, work in group.workloads.items() if name in names}
        if not chosen:
            continue
        waiting = dict.fromkeys(chosen)
        try:
            with group.serve() as served:
                for name, work in chosen.items():
                    del waiting[name]
                    began = time.perf_counter()
                    try:
                        results.update(work(served))
                    except Exception as failure:
                        failed[name] = _told(failure)
                    told = f"failed: {failed[name]}" if name in failed else f"{time.perf_counter() - began:.0f} s"
                    print(f"{name}: {told}", file=sys.stderr, flush=True)
        except Exception as failure:  # what serves them did not start, or did not end
            failed.update(dict.fromkeys(waiting or (f"the end of what served {', '.join(chosen)}",), _told(failure)))
            print(f"{', '.join(waiting or chosen)}: failed: {_told(failure)}", file=sys.stderr, flush=True)
    return results, failed


def _told(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"


def some(text: str) -> frozenset[str]:
    """Parse "NAME,NAME"."""
    names = frozenset(text.split(","))
    if unknown := names - set(NAMES):
        raise argparse.ArgumentTypeError(f"no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return names


def main() -> int:
    """Measure; print it, and write it down if it is all. 1 if something could not be measured."""
    parser = argparse.ArgumentParser(description="Measure mesh on this machine.")
    parser.add_argument("--only", type=some, metavar="NAME,...", help=f"some of {', '.join(NAMES)}; writes nothing")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    allow_many_files()
    results, failed = measured(arguments.only or frozenset(NAMES))
    if failed:
        results["failed"] = failed
    if arguments.only:
        print(json.dumps(results, indent=2))
    else:
        write("latest", results)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
