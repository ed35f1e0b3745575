"""What follows from figures, beside them: processors busy, sizes that are judged. Pure.

Tables and reasons find these by their path, like what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.page.values import Results, look, shown

ROLES = ("gateway", "replica", "server", "client")
FEW = 100
"""Of fewer values p99 is the greatest."""


def with_derived(results: Results) -> dict[str, Any]:
    """Return the results with `busy` beside each rate whose CPU is known, and `derived`, which is of several files."""
    told = {name: _told(found) for name, found in results.items()}
    peers = look(told, "peers/peers")
    if peers:
        told["peers"] = {**told["peers"], "peers": _labelled(peers)}
    return {**told, "derived": {"installed": _installed(results)}}


def _told(found: Any) -> Any:
    """Add to a figure and to all below it.

    `busy`: how many processors each role kept busy; `all` are the servers and the client together.
    """
    if not isinstance(found, Mapping):
        return found
    told = {name: _told(each) for name, each in found.items()}
    rate = found.get("per_second")
    if not isinstance(rate, (int, float)):
        return told
    busy = {role: rate * cost / 1e6 for role in ROLES if isinstance(cost := found.get(f"{role}_cpu_us"), (int, float))}
    if "server" in busy and "client" in busy:
        busy["all"] = busy["server"] + busy["client"]
    return {**told, "busy": busy} if busy else told


def _installed(results: Results) -> dict[str, Any]:
    """Return the size of our installation with byte code and without, and its largest parts as text.

    Of `make bench` if that counted byte code, else as it was measured beside peers.
    """
    measured = look(results, "latest/installed") or {}
    largest = ", ".join(f"{name} {shown(size, 'MB')}" for name, size in (measured.get("largest_mb") or {}).items())
    beside = (look(peer, "installed/ours") or {} for peer in (look(results, "peers/peers") or {}).values())
    sizes = ((found.get("mb", found.get("installed_mb")), found.get("byte_code_mb")) for found in (measured, *beside))
    whole, byte_code = next(((whole, code) for whole, code in sizes if whole and code), (None, None))
    if whole is None or byte_code is None:
        return {}
    without = round(whole - byte_code, 1)
    return {"mb": whole, "byte_code_mb": byte_code, "without_byte_code_mb": without, "largest": largest}


def _labelled(peers: Mapping[str, Any]) -> dict[str, Any]:
    """Give each pair a short `label`; where a peer is measured beside several of ours, it tells which."""
    short = {name: str(peer["what"]).partition(":")[0] for name, peer in peers.items()}
    ours = {name: str(peer.get("ours", "")).removeprefix("`meshctl run` of ") for name, peer in peers.items()}
    names = list(short.values())
    return {
        name: {
            **peer,
            "label": short[name] if names.count(short[name]) == 1 else f"{short[name]}; ours is {ours[name]}",
        }
        for name, peer in peers.items()
    }
