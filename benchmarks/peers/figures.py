"""The arithmetic of side-by-side runs, and which peers are asked for. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Run = Mapping[str, Any]
CLIENT = "client"
SHOWN = ("per_second", "p50_ms", "p90_ms", "p99_ms", "server_cpu_us", "client_cpu_us")


def selected(only: str, known: Iterable[str]) -> list[str]:
    """Return the names of `known` that `only`, separated by commas, asks for, in the order of `known`; all for "".

    Raises:
        ValueError: It asks for one that is not known.
    """
    names = list(known)
    asked = {name.strip() for name in only.split(",")} - {""}
    if unknown := sorted(asked.difference(names)):
        raise ValueError(f"there is no {', '.join(unknown)}: choose among {', '.join(names)}")
    return [name for name in names if name in asked] if asked else names


def costs(cpu_s: Mapping[str, float], completed: int) -> dict[str, float]:
    """Return what a request cost all processes of the server together, and the client, in µs of CPU.

    `cpu_s` are the seconds spent while it counted, by process; that of the generator is named "client".
    """
    spent = {"server": sum(cpu_s.values()) - cpu_s.get(CLIENT, 0.0), "client": cpu_s.get(CLIENT, 0.0)}
    return {f"{role}_cpu_us": seconds / max(1, completed) * 1e6 for role, seconds in spent.items()}


def side(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the medians over the runs of what each has, and every rate, so that the spread shows."""
    shown = {key: round(statistics.median(run[key] for run in runs), 3) for key in SHOWN if all(key in r for r in runs)}
    return {**shown, "per_second_of_each_run": [round(run["per_second"], 1) for run in runs]}


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios pair by pair: what slows the machine for a while slows both of a pair."""
    pairs = zip(numerators, denominators, strict=True)
    return round(statistics.median(top / bottom for top, bottom in pairs), 3)


def compared(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, Any]:
    """Return both sides, how many times their rate ours is, and how many times our latencies and CPU theirs are."""
    result: dict[str, Any] = {"ours": side(ours), "theirs": side(theirs)}
    rates = [run["per_second"] for run in ours], [run["per_second"] for run in theirs]
    result["ratio"] = ratio(*rates)
    result["ratio_of_each_run"] = [round(our / their, 3) for our, their in zip(*rates, strict=True)]
    for name, key in (("p50_ratio", "p50_ms"), ("p99_ratio", "p99_ms"), ("server_cpu_ratio", "server_cpu_us")):
        if all(run.get(key) for run in (*ours, *theirs)):
            result[name] = ratio([run[key] for run in theirs], [run[key] for run in ours])
    return result


def merged(before: Mapping[str, Any], now: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return the entries of now, and of before those that were not asked for now, in the order of `known`."""
    return {name: (now if name in now else before)[name] for name in known if name in now or name in before}
