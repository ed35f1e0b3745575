"""How side-by-side figures are summed up, and written down with the facts of the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Run = Mapping[str, Any]


def medians(runs: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, float]:
    """Return the median of each figure over the runs; of a figure that some lack, nothing."""
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in keys if all(key in r for r in runs)}


def summary(runs: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the medians, and every rate, so that the spread shows."""
    return {**medians(runs, keys), "per_second_of_each_run": [round(run["per_second"]) for run in runs]}


def ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], key: str = "per_second") -> float:
    """Return the median of the ratios of neighbouring runs: what slows the machine for long slows both."""
    pairs = zip(ours, theirs, strict=True)
    return round(statistics.median(float(our[key] / their[key]) for our, their in pairs), 3)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    packages = ("grpcio", "protobuf", "granian", "uvloop", "starlette")
    return {
        "cpus": os.cpu_count(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def write(name: str, results: dict[str, Any], *packages: str, began: float | None = None) -> None:
    """Print the results and write them to benchmarks/results/NAME.json."""
    facts = machine()
    facts["packages"].update({package: version(package) for package in packages})
    written = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)), "machine": facts, **results}
    text = json.dumps(written, indent=2)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
