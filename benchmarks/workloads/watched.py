"""What it costs to be watched: an access log in a file and a scraper of metrics, against neither.

Metrics are counted in either case: there is no switch for that.
"""

from __future__ import annotations

import functools
import tempfile
from typing import Any

from benchmarks.generators import Run, closed, interleaved, meanwhile, summed_up
from benchmarks.report import ratio
from benchmarks.trees import Mesh, Served

RUNS = 5
SECONDS = 1.0
CONNECTIONS = 64
SCRAPES_PER_SECOND = 1


def watched(plain: Served) -> dict[str, Any]:
    """No-op JSON at 64 connections with an access log and a scrape of the metrics each second, against without."""
    with tempfile.TemporaryFile("w") as log, Mesh("noop:noop", "--access-log", errors=log) as logging:
        ways = {
            "unwatched": functools.partial(closed, plain, "/", connections=CONNECTIONS, seconds=SECONDS),
            "watched": functools.partial(_watched, logging),
        }
        taken = interleaved(ways, RUNS)
    results: dict[str, Any] = {name: summed_up(runs) for name, runs in taken.items()}
    results["watched"]["ratio_to_unwatched"] = ratio(taken["watched"], taken["unwatched"])
    results["watched"]["cpu_to_unwatched"] = ratio(taken["watched"], taken["unwatched"], "server_cpu_us")
    return results


def _watched(served: Served) -> Run:
    page = str(served.said["admin"]).rstrip("/") + "/metrics"
    with meanwhile("open_loop", page, rate=SCRAPES_PER_SECOND, arrivals="even", connections=1):
        return closed(served, "/", connections=CONNECTIONS, seconds=SECONDS)
