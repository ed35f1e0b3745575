"""The section on peers, and its plot. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.page import svg
from benchmarks.page.tables import plot, prose, table
from benchmarks.page.values import NONE, Results, look, number, shown

SIDES = ("ours", "theirs")


def peers(results: Results) -> str:
    """Beside peers."""
    rates, others = [], []
    for name, peer in _all(results).items():
        at = f"peers/peers/{name}"
        both = [shown(number(results, f"{at}/connections_64/{side}/per_second")) for side in SIDES]
        ratios = [shown(number(results, f"{at}/connections_{count}/ratio")) for count in (1, 64, 256)]
        rates.append((peer["what"], *both, *ratios, shown(number(results, f"{at}/wrk_64/ratio"))))
        pairs = (
            _pair(results, f"{at}/connections_1/{{}}/p50_ms", "ms"),
            _pair(results, f"{at}/connections_64/{{}}/p99_ms", "ms"),
            _pair(results, f"{at}/connections_64/{{}}/server_cpu_us", "µs"),
            _pair(results, f"{at}/start_s/{{}}", "s"),
            " / ".join(_megabytes(look(results, f"{at}/memory/{side}")) for side in SIDES),
            " / ".join(_megabytes(look(results, f"{at}/installed/{side}")) for side in SIDES),
        )
        others.append((peer["what"], *pairs))
    if not rates:
        return ""
    versions = "".join(
        f"- {peer['what']}: {', '.join(f'{package} {each}' for package, each in peer['versions'].items())}\n"
        for peer in _all(results).values()
        if peer.get("versions")
    )
    failed = look(results, "peers/failed") or ()
    lost = f"\nCould not be measured: {', '.join(failed)}.\n" if failed else ""
    text = prose(
        "The same work and the same client, one replica each, ours and theirs in turn in one run. × is how many times "
        "their rate ours is, pair by pair, at so many connections."
    )
    first = table(("", "ours/s", "theirs/s", "× at 1", "× at 64", "× at 256", "× at 64, wrk"), rates)
    head = ("ours / theirs", "p50 at 1", "p99 at 64", "CPU a request", "to first 200", "memory", "installed")
    second = table(head, others)
    drawn = plot("peers", "Requests per second, ours and theirs")
    return f"## Beside peers\n{text}\n{drawn}\n{first}\n{second}\n{versions}{lost}"


def plots(results: Results) -> dict[str, str]:
    """Return the plot of both rates."""
    rows = [
        svg.Bar(
            name.replace("_", " "),
            [number(results, f"peers/peers/{name}/connections_64/{side}/per_second") or 0.0 for side in SIDES],
        )
        for name in _all(results)
    ]
    return (
        {"peers": svg.pairs("No-op at 64 connections, requests per second", rows, ("mesh", "the peer"))} if rows else {}
    )


def _all(results: Results) -> Mapping[str, Any]:
    return look(results, "peers/peers") or {}


def _pair(results: Results, path: str, unit: str) -> str:
    return " / ".join(shown(number(results, path.format(side)), unit) for side in SIDES)


def _megabytes(found: object) -> str:
    if isinstance(found, Mapping):
        found = next(
            (found[key] for key in ("resident_mb", "proportional_mb", "unique_mb", "mb") if key in found), None
        )
    return shown(float(found), "MB") if isinstance(found, (int, float)) else NONE
