"""docs/performance.md as a whole. Pure: results and notes in, text out.

Each section is a function of the results; where its file is not there it returns "", and the page goes without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.page import goals, peers, profiles, workloads
from benchmarks.page.tables import prose, table
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
    workloads.scale,
    workloads.scale_out,
    workloads.footprint,
    peers.peers,
    workloads.control_plane,
    profiles.profiles,
)
COMMANDS = """\
## Again, on your machine
```
make bench          # ours, then this page, then the guard; ten minutes at most
make bench-peers    # beside peers from PyPI, each in an environment of its own
make profile        # where the CPU goes; needs leave to attach to processes (root)
```
"""


def page(results: Results, notes: Mapping[str, str]) -> str:
    """Return the whole page. `notes` are texts written by hand, "tried" and "not_met"."""
    sections = (
        INTRO,
        reached(results, notes.get("not_met", "")),
        *(section(results) for section in MEASURED),
        tried(notes.get("tried", "")),
        again(results),
    )
    text = "\n".join(section.strip() + "\n" for section in sections if section.strip())
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def plots(results: Results) -> dict[str, str]:
    """Return the plots by name."""
    return {**workloads.noop_plots(results), **peers.plots(results), **profiles.plots(results)}


def reached(results: Results, why_not: str) -> str:
    """What was to be reached, and why some of it was not."""
    text = goals.goals(results)
    if lost := look(results, "latest/failed"):
        text += f"\nCould not be measured: {', '.join(lost)}.\n"
    return (
        f"## Goals\nOn two processors, of which the load generator takes its share.\n\n{text}\n{why_not}"
        if text
        else ""
    )


def tried(text: str) -> str:
    """What did not pay."""
    return f"## Tried, and did not pay\n{text.strip()}\n" if text.strip() else ""


def again(results: Results) -> str:
    """How to repeat it, and on what it was taken."""
    rows = []
    for name in sorted(results):
        facts = look(results, f"{name}/machine")
        if facts is not None:
            load = ", ".join(f"{each:.2f}" for each in facts["load_average"])
            at = str(look(results, f"{name}/at"))
            rows.append((f"`{name}.json`", at, str(facts["cpus"]), facts["kernel"], facts["python"], load))
    taken = table(("file", "at (UTC)", "processors", "kernel", "Python", "load average"), rows)
    packages: Mapping[str, str] = look(results, "latest/machine/packages") or {}
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    text = prose(
        "`python -m benchmarks.performance_page` makes this page of what they write. Rates and latencies "
        "are medians of five runs or more; of three for the no-op with wrk, restarts of the control plane "
        "and start-ups beside peers; of one for clients under overload and for how even calls are shared. "
        "What is compared runs in turn, and ratios are taken pair by pair, so that what slows the machine "
        "slows both. [benchmarks/README.md](../benchmarks/README.md) says more of each."
    )
    return f"{COMMANDS}{text}\n{f'With {versions}.' if versions else ''}\n\n{taken}"
