"""The section on peers, and its plot. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.page import svg
from benchmarks.page.tables import EACH, plot, prose, table
from benchmarks.page.taken import average
from benchmarks.page.values import NONE, Results, look, number, shown, spread

SIDES = ("ours", "theirs")


def peers(results: Results) -> str:
    """Beside peers."""
    if not _all(results):
        return ""
    failed = look(results, "peers/failed") or ()
    lost = f"\nCould not be measured: {', '.join(failed)}.\n" if failed else ""
    text = prose(
        "The same client, one replica each; ours and theirs run side by side and are asked in turn, so whichever is "
        "not asked idles on the same processors, at the CPU that is told below. × is how many times their rate ours "
        "is, pair by pair, at so many connections. Where ours is an HTTP handler and theirs transcodes to gRPC, theirs "
        "does more; so the same servicer is measured on both sides too."
    )
    drawn = plot("peers", "Requests per second, ours and theirs")
    parts = (_rates(results), _costs(results), _others(results), _sizes(results), _taken(results))
    return f"## Beside peers\n{text}\n{drawn}\n" + "\n".join(parts) + lost


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


def _rates(results: Results) -> str:
    rows = []
    for name, peer in _all(results).items():
        at = f"peers/peers/{name}"
        rates = []
        for side in SIDES:
            rates.append(shown(number(results, f"{at}/connections_64/{side}/per_second")))
            rates.append(spread(results, f"{at}/connections_64/{side}/per_second{EACH}"))
        ratios = [shown(number(results, f"{at}/connections_{count}/ratio")) for count in (1, 64, 256)]
        pairs = spread(results, f"{at}/connections_64/ratio{EACH}")
        rows.append((_label(peer), *rates, *ratios[:2], pairs, ratios[2], shown(number(results, f"{at}/wrk_64/ratio"))))
    head = ("64 connections", "ours/s", "min–max", "theirs/s", "min–max")
    return table((*head, "× at 1", "× at 64", "min–max", "× at 256", "× at 64, wrk"), rows)


def _costs(results: Results) -> str:
    """What a request costs, from which it follows how far rates can be apart."""
    rows = []
    for name, peer in _all(results).items():
        at = f"peers/peers/{name}/connections_64"
        theirs, goal = number(results, f"{at}/theirs/server_cpu_us"), number(results, f"peers/peers/{name}/goal")
        busy = [shown(number(results, f"{at}/{side}/busy/server")) for side in SIDES]
        client = [shown(number(results, f"{at}/{side}/busy/client")) for side in SIDES]
        rows.append(
            (
                _label(peer),
                *(shown(number(results, f"{at}/{side}/server_cpu_us"), "µs") for side in SIDES),
                " / ".join(shown(number(results, f"peers/peers/{name}/processes/{side}")) for side in SIDES),
                " / ".join(busy),
                " / ".join(client) if client != [NONE, NONE] else NONE,
                shown(number(results, f"{at}/ratio")),
                shown(number(results, f"{at}/server_cpu_ratio")),
                shown(goal),
                shown(theirs / goal if theirs and goal else None, "µs"),
            )
        )
    text = prose(
        "CPU of a request at 64 connections, of all processes of either side. Where both have the same processors, and "
        "keep as much of them busy, the ratio of rates is that of CPU; the last column is what a request of ours could "
        "cost then at most for the goal. Busy: how many processors the servers took, and the client, ours / theirs."
    )
    head = ("64 connections", "CPU ours", "CPU theirs", "processes", "busy", "client busy", "×", "× by CPU", "goal ×")
    return f"{text}\n{table((*head, 'CPU for the goal'), rows)}"


def _others(results: Results) -> str:
    rows = []
    for name, peer in _all(results).items():
        at = f"peers/peers/{name}"
        starts = look(results, f"{at}/start_s/of_each_start/ours")
        pairs = (
            _pair(results, f"{at}/connections_1/{{}}/p50_ms", "ms"),
            _pair(results, f"{at}/connections_64/{{}}/p99_ms", "ms"),
            _pair(results, f"{at}/start_s/{{}}", "s"),
            shown(len(starts)) if starts else NONE,
            " / ".join(_megabytes(look(results, f"{at}/memory/{side}")) for side in SIDES),
            _pair(results, f"{at}/idle_cpu_percent/{{}}", "%"),
        )
        rows.append((_label(peer), *pairs))
    head = ("ours / theirs", "p50 at 1", "p99 at 64", "to first 200", "starts of each", "memory", "CPU when idle")
    return table(head, rows)


def _sizes(results: Results) -> str:
    rows = []
    for name, peer in _all(results).items():
        at = f"peers/peers/{name}/installed"
        values = [_pair(results, f"{at}/{{}}/{key}", unit) for key, unit in SIZES]
        rows.append((_label(peer), *values))
    return table(("ours / theirs", "installed", "of it byte code", "packages"), rows)


SIZES = (("installed_mb", "MB"), ("byte_code_mb", "MB"), ("packages", ""))


def _taken(results: Results) -> str:
    """What was compared, and when."""
    rows, began = [], look(results, "peers/began")
    for peer in _all(results).values():
        asked = [f"`{look(peer, f'asked/{side}')}`" if look(peer, f"asked/{side}") else NONE for side in SIDES]
        versions = ", ".join(f"{package} {each}" for package, each in (peer.get("versions") or {}).items())
        loads = " → ".join(
            each for key in ("load_average", "load_average_after") if (each := average(peer.get(key))) != NONE
        )
        run = NONE if not (began and peer.get("at")) else "this" if peer["at"] >= began else "**an earlier one**"
        rows.append((peer["what"], peer.get("ours", NONE), *asked, versions, peer.get("at", NONE), run, loads))
    head = ("the peer", "ours", "asked ours", "asked theirs", "versions", "at (UTC)", "run", "load average")
    return table(head, rows)


def _all(results: Results) -> Mapping[str, Any]:
    return look(results, "peers/peers") or {}


def _label(peer: Mapping[str, Any]) -> str:
    return str(peer.get("label", peer["what"]))


def _pair(results: Results, path: str, unit: str) -> str:
    pair = [shown(number(results, path.format(side)), unit) for side in SIDES]
    return NONE if pair == [NONE, NONE] else " / ".join(pair)


def _megabytes(found: object) -> str:
    if isinstance(found, Mapping):
        found = next((found[key] for key in ("resident_mb", "proportional_mb", "unique_mb") if key in found), None)
    return shown(float(found), "MB") if isinstance(found, (int, float)) else NONE
