"""The section on where CPU goes, and its plot. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.page import svg
from benchmarks.page.tables import plot, prose, table
from benchmarks.page.values import NONE, Results, look, shown
from benchmarks.stacks import PARTS

PROCESSES = ("gateway", "replica")
VERSIONS = ("before", "after")


def profiles(results: Results) -> str:
    """Return a table for each load, parts by process, before and after."""
    tables = []
    for connections in (64, 1):
        columns = found(results, connections)
        if not columns:
            continue
        rows = []
        for part in PARTS:
            cells = [_portion(each, part) for _, each in columns]
            if any(cell != NONE for cell in cells):
                rows.append((part, *cells))
        rows.append(("**all**", *(f"**{shown(each['us_per_request'])}**" for _, each in columns)))
        of_loop = [look(each, "loop_thread") for _, each in columns]
        if all(of_loop):
            rows.append(("of it, the thread of the event loop", *(shown(each["us_per_request"]) for each in of_loop)))
            rows.append(("processors busy, all threads", *(shown(each["processors_busy"]) for _, each in columns)))
            rows.append(("processors busy, that thread", *(shown(each["busy"]) for each in of_loop)))
        rows.append(("samples", *(shown(look(each, "samples")) for _, each in columns)))
        head = f"µs a request, {connections} connection{'s' * (connections > 1)}"
        tables.append(table((head, *(label for label, _ in columns)), rows))
    if not tables:
        return ""
    text = prose(
        "CPU of a no-op request by part, in the process of `meshctl run` (gateway) and in the "
        f"replica{_commits(results)}. What the kernel counts for each thread, its own code and system calls, is shared "
        "out by sampled stacks (`make profile`), so parts of a few per cent are rough figures: ± is one standard error "
        "of so few samples. System calls are in the part that makes them."
    )
    legend = "".join(f"- {part}: {what}\n" for part, what in PARTS.items())
    drawn = plot("profile", "CPU of a request, by part")
    return f"## Where the time goes\n{text}\n{drawn}\n" + "\n".join(tables) + f"\n{legend}"


def _portion(process: Mapping[str, Any], part: str) -> str:
    error = look(process, f"parts_error_us/{part}")
    us = shown(process["parts_us"].get(part))
    return f"{us} ± {shown(error)}" if error else us


def _commits(results: Results) -> str:
    commits = look(results, "profile/commits") or {}
    if set(commits) != set(VERSIONS):
        return ""
    return f", at {commits['before']} (before) and {commits['after']} (after), which were loaded in turn"


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
        (f"{process} {when}", look(results, f"profile/no_op/{connections}_connections/{when}/{process}"))
        for process in PROCESSES
        for when in VERSIONS
    )
    return [(label, each) for label, each in every if each is not None]
