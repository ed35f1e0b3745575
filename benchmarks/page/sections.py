"""docs/performance.md as a whole. Pure: results and notes in, text out.

Each section is a function of the results; where its file is not there it returns "", and the page goes without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.page import control, goals, peers, profiles, reasons, scale, taken, workloads
from benchmarks.page.derived import with_derived
from benchmarks.page.values import Results, look

INTRO = """\
<!-- Made by `python -m benchmarks.performance_page` from benchmarks/results. Do not edit. -->
# Performance
What mesh costs and what it carries, measured from outside, as a user would run it. Every figure is of a file in
[benchmarks/results](../benchmarks/results), which has the facts of its machine; the load generator runs on it too.
"""
MEASURED = (
    workloads.requests,
    workloads.floor,
    workloads.overload,
    workloads.overload_clients,
    workloads.bodies,
    workloads.grpc,
    workloads.conversion,
    workloads.handles,
    scale.scale,
    scale.scale_out,
    workloads.footprint,
    peers.peers,
    control.control_plane,
    control.replicas,
    profiles.profiles,
)


def page(results: Results, notes: Mapping[str, str]) -> str:
    """Return the whole page. `notes` are texts written by hand, "tried" and "not_met"."""
    results = with_derived(results)
    sections = (
        INTRO,
        reached(results, notes.get("not_met", "")),
        *(section(results) for section in MEASURED),
        tried(notes.get("tried", "")),
        taken.again(results),
    )
    text = "\n".join(section.strip() + "\n" for section in sections if section.strip())
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def plots(results: Results) -> dict[str, str]:
    """Return the plots by name."""
    results = with_derived(results)
    return {**workloads.noop_plots(results), **peers.plots(results), **profiles.plots(results)}


def reached(results: Results, not_met: str) -> str:
    """What was to be reached, and why some of it was not."""
    text = goals.goals(results)
    if lost := look(results, "latest/failed"):
        text += f"\nCould not be measured: {', '.join(lost)}.\n"
    if not text:
        return ""
    why_not = reasons.reasons(results, not_met, goals.missed(results))
    return f"## Goals\n{taken.place(results)}\n{text}\n{why_not}"


def tried(text: str) -> str:
    """What did not pay."""
    if not text.strip():
        return ""
    about = "Noted by hand when it was tried; – where no figure was kept."
    return f"## Tried, and did not pay\n{about}\n\n{text.strip()}\n"
