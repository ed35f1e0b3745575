"""Finds figures in results and formats them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]
"""What each file in benchmarks/results holds, by its name without .json."""

NONE = "–"


def look(results: Results, path: str) -> Any:
    """Return what stands at `path`, names separated by slashes; None if something on the way is not there."""
    at: Any = results
    for name in path.split("/"):
        if not isinstance(at, Mapping) or name not in at:
            return None
        at = at[name]
    return at


def number(results: Results, path: str) -> float | None:
    """Return the number at `path`; None if there is none."""
    found = look(results, path)
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def spread(results: Results, path: str, unit: str = "") -> str:
    """Return the least and the greatest of the numbers at `path`, which are those of each run."""
    found = look(results, path)
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        return NONE
    return f"{shown(min(found))}–{shown(max(found), unit)}"


def shown(value: float | None, unit: str = "") -> str:
    """Return a figure with three significant digits, whole numbers whole, thousands apart."""
    if value is None:
        return NONE
    if abs(value) >= 100 or value == int(value):
        text = f"{value:,.0f}"
    else:
        digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
        text = f"{value:.{digits}f}"
    return f"{text} {unit}".rstrip()
