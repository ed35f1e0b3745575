"""`make bench`: whether a part of the request path got slower than the committed baseline, and which.

Measures each of `guarded_parts` alone, in turn with a reference work in the same process, so that a slower machine or
other work on it slows both; several processes, since one process differs from the next by its memory's layout. What
seems slower is measured again before it is called so. Exits with 1 if a part is slower than `comparison` allows, and
with 2 if the baseline is of other parts. Takes some 20 s.

Run: python -m benchmarks.guard; with --write-baseline it renews benchmarks/baseline.json instead, in some 60 s.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.comparison import Figure, changes, figure, least, line, unknown
from benchmarks.forked import die_with
from benchmarks.guarded_parts import Work, copying, parts, reference
from benchmarks.report import machine

BASELINE = Path(__file__).parent / "baseline.json"
PROCESSES = 3
PROCESSES_OF_BASELINE = 9
CONFIRMATIONS = 2
ROUNDS = 41
TURN_S = 0.001
"""Each work runs for so long in a round."""
Ratios = dict[str, list[float]]


def turn(work: Work, calls: int) -> float:
    """Return the CPU seconds of one call."""
    started = time.thread_time()
    for _ in range(calls):
        work()
    return (time.thread_time() - started) / calls


def calls_in_turn(work: Work) -> int:
    """Return how many calls take TURN_S."""
    work()
    return max(1, round(TURN_S / min(turn(work, 3) for _ in range(5))))


def ratios(only: Iterable[str] = ()) -> dict[str, float]:
    """Measure in this process: for each part the median over rounds of its time over the reference's beside it."""
    wanted = set(only)
    measured = {name: part for name, part in parts().items() if not wanted or name in wanted}
    references = {False: reference(), True: copying()}
    calls = {name: calls_in_turn(part.work) for name, part in measured.items()}
    reference_calls = {copies: calls_in_turn(work) for copies, work in references.items()}
    taken: Ratios = {name: [] for name in measured}
    gc.collect()
    gc.disable()
    for _ in range(ROUNDS):
        for name, part in measured.items():
            beside, count = references[part.copies], reference_calls[part.copies]
            before = turn(beside, count)
            own = turn(part.work, calls[name])
            taken[name].append(2 * own / (before + turn(beside, count)))
    return {name: statistics.median(each) for name, each in taken.items()}


def measure(processes: int, only: Iterable[str] = ()) -> Ratios:
    """Measure in so many processes, one after another."""
    command = [sys.executable, "-m", "benchmarks.guard", "--one-process", *only]
    end_with_us = functools.partial(die_with, os.getpid())
    taken: Ratios = {}
    for _ in range(processes):
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, timeout=120, preexec_fn=end_with_us
        )
        for name, ratio in json.loads(done.stdout).items():
            taken.setdefault(name, []).append(ratio)
    return taken


def write_baseline() -> None:
    """Measure long, and write down."""
    figures = {name: figure(each) for name, each in measure(PROCESSES_OF_BASELINE).items()}
    told = {name: {"ratio": round(each.ratio, 4), "spread": round(each.spread, 4)} for name, each in figures.items()}
    facts = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine()}
    BASELINE.write_text(json.dumps({**facts, "parts": told}, indent=2, ensure_ascii=False) + "\n")
    print(f"wrote {BASELINE}")


def check() -> int:
    """Compare with the baseline, print what is found; 1 if a part is slower."""
    baseline = {name: Figure(**each) for name, each in json.loads(BASELINE.read_text())["parts"].items()}
    measured = measure(PROCESSES)
    if strange := unknown(baseline, measured):
        print(f"not in both, the baseline and the code: {', '.join(strange)}; renew it: --write-baseline")
        return 2
    for change in changes(baseline, measured):
        print(line(change))
    slower = {change.part for change in changes(baseline, measured) if change.slower}
    for _ in range(CONFIRMATIONS):
        if slower:
            measured |= least(measured, measure(PROCESSES, sorted(slower)))
            slower = {change.part for change in changes(baseline, measured) if change.slower}
    for change in changes(baseline, measured):
        if change.part in slower:
            print(f"SLOWER  {line(change)}")
    print(f"{len(slower)} of {len(measured)} parts are slower than the baseline")
    return 1 if slower else 0


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write-baseline", action="store_true")
    parser.add_argument("--one-process", nargs="*", metavar="PART", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_process is not None:
        print(json.dumps(ratios(arguments.one_process)))
        return 0
    if arguments.write_baseline:
        write_baseline()
        return 0
    return check()


if __name__ == "__main__":
    sys.exit(main())
