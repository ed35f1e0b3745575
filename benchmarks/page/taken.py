"""Where, when and of which code the figures were taken, and how to take them again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.page.tables import prose, table
from benchmarks.page.values import NONE, Results, look, number, shown

COMMANDS = """\
## Again, on your machine
```
make bench          # ours, then this page, then the guard; ten minutes at most
make bench-peers    # beside peers from PyPI, each in an environment of its own; twenty minutes at most
make profile        # where the CPU goes; needs leave to attach to processes (root)
```
"""
FIRST = "latest"
"""The file whose machine and code the others are held against."""


def place(results: Results) -> str:
    """Return on what the figures were taken."""
    facts = look(results, f"{FIRST}/machine") or {}
    model, memory = facts.get("cpu_model"), number(facts, "memory_mb")
    of = "".join((f", {model}" if model else "", f", {shown(memory / 1000, 'GB')} of memory" if memory else ""))
    return prose(
        f"On {facts.get('cpus', 'some')} processors{of}, of which the load generator takes its share. Medians; min–max "
        "are the least and the greatest of the runs, where the file has each."
    )


def again(results: Results) -> str:
    """How to repeat it, and on what it was taken."""
    text = prose(
        "`python -m benchmarks.performance_page` makes this page of what they write. What is compared runs in turn, "
        "and ratios are taken pair by pair, so that what slows the machine slows both. "
        "[benchmarks/README.md](../benchmarks/README.md) says how often each is run, and more of each."
    )
    packages: Mapping[str, str] = look(results, f"{FIRST}/machine/packages") or {}
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    machines = _machines(results)
    return f"{COMMANDS}{text}\n{f'With {versions}.' if versions else ''}\n\n{_files(results)}\n{machines}"


def _files(results: Results) -> str:
    """Return when and of which code each file was taken, and how busy the machine was."""
    rows, first = [], _state(look(results, f"{FIRST}/machine") or {})
    others = False
    for name in sorted(results):
        facts = look(results, f"{name}/machine")
        if facts is None:
            continue
        other = _state(facts) != first
        others = others or other
        took = shown(number(results, f"{name}/took_s"), "s")
        when = (str(look(results, f"{name}/at")), took, _code(facts) + " ‡" * other)
        loads = (average(facts.get("load_average_before")), average(facts.get("load_average")))
        rows.append((f"`{name}.json`", *when, *loads))
    head = ("file", "at (UTC)", "took", "code", "load average before", "after")
    note = prose(f"‡ Of another state of mesh than `{FIRST}.json`, so of another run.") if others else ""
    return f"{table(head, rows)}\n{note}"


def _code(facts: Mapping[str, Any]) -> str:
    commit = facts.get("commit")
    return f"{commit}{', changed' if facts.get('changed') else ''}" if commit else NONE


def _state(facts: Mapping[str, Any]) -> tuple[object, bool]:
    """Return what tells one state of mesh from another: commits of results or documents alone change nothing."""
    return facts.get("mesh_tree") or facts.get("commit"), bool(facts.get("changed"))


def average(loads: object) -> str:
    """Return load averages of 1, 5 and 15 minutes."""
    return ", ".join(f"{each:.2f}" for each in loads) if isinstance(loads, list | tuple) and loads else NONE


def _machines(results: Results) -> str:
    """Return the machines that the files were taken on, each with its files if there are several."""
    found: dict[str, list[str]] = {}
    for name in sorted(results):
        facts = look(results, f"{name}/machine")
        if facts is not None:
            found.setdefault(_machine(facts), []).append(f"`{name}.json`")
    if len(found) == 1:
        return prose(f"{next(iter(found))}.")
    return "\n".join(prose(f"{machine}: {', '.join(names)}.") for machine, names in found.items())


def _machine(facts: Mapping[str, Any]) -> str:
    memory = number(facts, "memory_mb")
    told = [
        f"{facts.get('cpus', '?')} processors",
        *([str(facts["cpu_model"])] if facts.get("cpu_model") else []),
        *([shown(memory / 1000, "GB")] if memory else []),
        f"Linux {facts.get('kernel', '?')}",
        f"Python {facts.get('python', '?')}",
        *(f"{name}={value}" for name, value in (facts.get("environment") or {}).items()),
        *(f"sys.flags.{name} {value}" for name, value in (facts.get("python_flags") or {}).items()),
    ]
    return ", ".join(told)
