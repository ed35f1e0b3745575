"""What it costs to be watched: metrics, an access log in a file and a scraper, against none of it.

The judge is CPU: rates of neighbouring runs differ by more than what is looked for here. There is no switch for
metrics; `benchmarks.uncounted` stands in for what counts.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.generators import GeneratorFailed, Run, Way, closed, interleaved, summed_up
from benchmarks.report import ratio
from benchmarks.trees import Mesh, Served

RUNS = 9
SECONDS = 2.5
WARM_UP_SECONDS = 0.3
CONNECTIONS = 64
SCRAPES_PER_SECOND = 1
UNCOUNTED = (sys.executable, "-m", "benchmarks.uncounted")
_COUNTED = re.compile(rb"^mesh_(?:replica_)?requests_total\{", re.MULTILINE)


def watched(_nothing: None) -> dict[str, Any]:
    """No-op JSON at 64 connections: uncounted; and counted, with a log and a scrape each second."""
    with (
        Mesh("uncounted:noop", meshctl=UNCOUNTED) as uncounted,
        tempfile.TemporaryFile("w") as log,
        Mesh("noop:noop", "--access-log", errors=log) as logging,
    ):
        ways: dict[str, Way] = {
            "uncounted": functools.partial(_asked, uncounted),
            "watched": functools.partial(_watched, logging),
        }
        _asked(uncounted, WARM_UP_SECONDS)
        _asked(logging, WARM_UP_SECONDS)
        taken = interleaved(ways, RUNS, in_turn=True)
        if _counts(uncounted) or not _counts(logging):
            raise GeneratorFailed("what was to count did not, or what was not did")
    results: dict[str, Any] = {name: summed_up(runs) for name, runs in taken.items()}
    results["watched"]["ratio_to_uncounted"] = ratio(taken["watched"], taken["uncounted"])
    results["watched"]["cpu_to_uncounted"] = ratio(taken["watched"], taken["uncounted"], "server_cpu_us")
    results["watched"]["cpu_to_uncounted_of_each_run"] = [
        round(with_all["server_cpu_us"] / with_none["server_cpu_us"], 3)
        for with_all, with_none in zip(taken["watched"], taken["uncounted"], strict=True)
    ]
    return results


def _asked(served: Served, seconds: float = SECONDS) -> Run:
    return closed(served, "/", connections=CONNECTIONS, seconds=seconds)


def _watched(served: Served) -> Run:
    with _scraping(served):
        return _asked(served)


@contextlib.contextmanager
def _scraping(served: Served) -> Iterator[None]:
    """Read the metrics each second, from a thread: a process would take the time of its start from what is measured."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(1 / SCRAPES_PER_SECOND):
            _metrics(served)

    with ThreadPoolExecutor(1) as thread:
        scraping = thread.submit(scrape)
        try:
            yield
        finally:
            over.set()
        scraping.result(SECONDS)


def _metrics(served: Served) -> bytes:
    with urllib.request.urlopen(str(served.said["admin"]).rstrip("/") + "/metrics", timeout=5) as answer:
        return bytes(answer.read())


def _counts(served: Served) -> bool:
    return _COUNTED.search(_metrics(served)) is not None
