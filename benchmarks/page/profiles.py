"""The section on where CPU goes, and its plot. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.page import svg
from benchmarks.page.tables import plot, prose, table
from benchmarks.page.values import Results, look, shown
from benchmarks.stacks import PARTS

PROCESSES = ("gateway", "replica")
FILES = {"profile_before": "before", "profile": "after"}


def profiles(results: Results) -> str:
    """Return a table for each load, parts by process, before and after."""
    tables = []
    for connections in (64, 1):
        columns = found(results, connections)
        if not columns:
            continue
        rows = []
        for part in PARTS:
            values = [each["parts_us"].get(part) for _, each in columns]
            if any(values):
                rows.append((part, *map(shown, values)))
        rows.append(("**all**", *(f"**{shown(each['us_per_request'])}**" for _, each in columns)))
        head = f"µs a request, {connections} connection{'s' * (connections > 1)}"
        tables.append(table((head, *(label for label, _ in columns)), rows))
    if not tables:
        return ""
    text = prose(
        "CPU of a no-op request by part, in the process of `meshctl run` (gateway) and in the replica. What the kernel "
        "counts for each thread, its own code and system calls, is shared out by sampled stacks (`make profile`), so "
        "parts of a few per cent are rough figures. System calls are in the part that makes them."
    )
    legend = "".join(f"- {part}: {what}\n" for part, what in PARTS.items())
    drawn = plot("profile", "CPU of a request, by part")
    return f"## Where the time goes\n{text}\n{drawn}\n" + "\n".join(tables) + f"\n{legend}"


def plots(results: Results) -> dict[str, str]:
    """Return the plot of the load with many connections."""
    columns = found(results, 64)
    if not columns:
        return {}
    parts = [part for part in PARTS if any(part in each["parts_us"] for _, each in columns)]
    rows = [svg.Bar(label, [each["parts_us"].get(part, 0.0) for part in parts]) for label, each in columns]
    return {"profile": svg.stacked("CPU of a no-op request, 64 connections", rows, parts, unit="µs")}


def found(results: Results, connections: int) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the profiles that there are, with labels: each process before and after."""
    every = (
        (f"{process} {when}", look(results, f"{file}/no_op/{connections}_connections/{process}"))
        for process in PROCESSES
        for file, when in FILES.items()
    )
    return [(label, each) for label, each in every if each is not None]
