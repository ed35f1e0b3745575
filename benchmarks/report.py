"""How side-by-side figures are summed up, and written down with the facts of the machine."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from benchmarks.run import RESULTS, machine, medians

Run = Mapping[str, Any]


def summary(runs: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the medians, and every rate, so that the spread shows."""
    return {**medians(runs, keys), "per_second_of_each_run": [round(run["per_second"]) for run in runs]}


def ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    """Return the median of the ratios of neighbouring runs: what slows the machine for long slows both."""
    pairs = zip(ours, theirs, strict=True)
    return round(statistics.median(float(our["per_second"] / their["per_second"]) for our, their in pairs), 3)


def write(name: str, results: dict[str, Any], *packages: str) -> None:
    """Print the results and write them to benchmarks/results/NAME.json."""
    facts = machine()
    facts["packages"].update({package: version(package) for package in packages})
    written = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": facts, **results}
    text = json.dumps(written, indent=2)
    RESULTS.parent.mkdir(exist_ok=True)
    (RESULTS.parent / f"{name}.json").write_text(text + "\n")
    print(text)
