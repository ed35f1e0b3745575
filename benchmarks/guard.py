"""`make bench`: whether requests do more, or a part of their path got slower, than in the committed baseline.

Requests of each kind go their whole way in one process (`guarded_path`) while it is counted what they do: tasks, turns
of the loop, messages, instructions of Python (`counted`). These numbers are the same each time, on any machine. Then
each of `guarded_parts`, and each whole request, is timed, in turn with a reference work in the same process, so that a
slower machine or other work on it slows both; several processes, since one process differs from the next by its
memory's layout. What seems slower is measured again before it is called so. Exits with 1 if something grew or is slower
than `comparison` allows, and with 2 if the baseline is of other parts. Takes some 40 s.

Run: python -m benchmarks.guard; with --write-baseline it renews benchmarks/baseline.json instead, in some 80 s, and
says what changed; with --counts it only counts, in some 5 s.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.comparison import COUNTS_TOLERATED, Figure, changes, differences, figure, least, line, unknown
from benchmarks.counted import counts
from benchmarks.forked import die_with
from benchmarks.guarded_parts import Work, copying, parts, reference
from benchmarks.report import instant, machine

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
    started = time.process_time()  # of all threads: handlers may run in one
    for _ in range(calls):
        work()
    return (time.process_time() - started) / calls


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


def count() -> dict[str, dict[str, float]]:
    """Count in a process of its own, whose hashes are always the same."""
    command = [sys.executable, "-m", "benchmarks.guard", "--one-count"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    end_with_us = functools.partial(die_with, os.getpid())
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=120, preexec_fn=end_with_us, env=environment
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def told(facts: dict[str, Any]) -> str:
    """Return the commit that facts of a machine have, and whether the code was changed since."""
    return f"{facts.get('commit') or 'an unknown commit'}{', changed since' if facts.get('changed') else ''}"


def write_baseline() -> None:
    """Measure long, say what changed since the last one, and write down."""
    measured, counted = measure(PROCESSES_OF_BASELINE), count()
    if BASELINE.exists():
        before = json.loads(BASELINE.read_text())
        print(f"beside the baseline of {told(before['machine'])}:")
        told_changes(figures_of(before), measured)
        for difference in differences(before.get("counts", {}), counted):
            print(f"  {difference}")
    figures = {name: figure(each) for name, each in measured.items()}
    parts = {name: {"ratio": round(each.ratio, 4), "spread": round(each.spread, 4)} for name, each in figures.items()}
    facts = {"at": instant(time.time()), "machine": machine()}
    text = json.dumps({**facts, "parts": parts, "counts": counted}, indent=2, ensure_ascii=False)
    BASELINE.write_text(text + "\n")
    print(f"wrote {BASELINE}")


def figures_of(baseline: dict[str, Any]) -> dict[str, Figure]:
    """Return the figures of the parts in a baseline."""
    return {name: Figure(**each) for name, each in baseline["parts"].items()}


def told_changes(baseline: dict[str, Figure], measured: Ratios) -> None:
    """Print how each part does beside the baseline."""
    for change in changes(baseline, measured):
        print(f"  {line(change)}")


def check_counts(baseline: dict[str, Any]) -> int:
    """Compare what requests do with the baseline, print what is found; return how many counts grew."""
    counted = count()
    if strange := sorted(baseline["counts"].keys() ^ counted.keys()):
        print(f"not in both, the baseline and the code: {', '.join(strange)}; renew it: --write-baseline")
        return 1
    python = platform.python_version_tuple()[:2]
    same_python = baseline["machine"]["python"].split(".")[:2] == list(python)
    found = [
        each
        for each in differences(baseline["counts"], counted)
        if same_python or not (each.part_of or each.what in COUNTS_TOLERATED)
    ]
    if not same_python:
        print("instructions and bytes are of another Python, and not compared")
    for each in found:
        print(f"{'GREW    ' if each.grown else '  '}{each}")
    grown = sum(each.grown for each in found)
    print(f"{grown} of {sum(map(len, counted.values()))} counts of {len(counted)} kinds of requests grew")
    return grown


def check(*, only_counts: bool) -> int:
    """Compare with the baseline, print what is found; 1 if something grew or is slower."""
    written = json.loads(BASELINE.read_text())
    print(f"the baseline is of {told(written['machine'])}, {written['at']}; this is {told(machine())}")
    grown = check_counts(written)
    if only_counts:
        return 1 if grown else 0
    baseline, measured = figures_of(written), measure(PROCESSES)
    if strange := unknown(baseline, measured):
        print(f"not in both, the baseline and the code: {', '.join(strange)}; renew it: --write-baseline")
        return 2
    told_changes(baseline, measured)
    slower = {change.part for change in changes(baseline, measured) if change.slower}
    for _ in range(CONFIRMATIONS):
        if slower:
            measured |= least(measured, measure(PROCESSES, sorted(slower)))
            slower = {change.part for change in changes(baseline, measured) if change.slower}
    for change in changes(baseline, measured):
        if change.part in slower:
            print(f"SLOWER  {line(change)}")
    print(f"{len(slower)} of {len(measured)} parts are slower than the baseline")
    return 1 if slower or grown else 0


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write-baseline", action="store_true")
    parser.add_argument("--counts", action="store_true", help="only count what requests do, and time nothing")
    parser.add_argument("--one-process", nargs="*", metavar="PART", help=argparse.SUPPRESS)
    parser.add_argument("--one-count", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_process is not None or arguments.one_count:
        logging.disable()  # of what is shed
        print(json.dumps(counts() if arguments.one_count else ratios(arguments.one_process)))
        return 0
    if arguments.write_baseline:
        write_baseline()
        return 0
    return check(only_counts=arguments.counts)


if __name__ == "__main__":
    sys.exit(main())
