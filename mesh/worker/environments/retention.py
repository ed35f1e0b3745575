"""Which entries of a cache go: the longest unused first, and never one in use.

Owns the choice only. Pure. Called by `cache`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

KEPT_S = 30 * 24 * 3600.0
"""An entry that nobody asked for during this time goes, whether or not there is room."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `used_at` is the Unix time at which it was last asked for."""

    key: str
    size: int
    used_at: float


def surplus(entries: Iterable[Entry], used: Container[str], bytes_max: int, now: float) -> list[str]:
    """Return the keys of the entries to remove so that all together have at most `bytes_max` bytes, if they can be."""
    oldest = sorted(entries, key=lambda entry: (entry.used_at, entry.key))
    too_much = sum(entry.size for entry in oldest) - bytes_max
    gone = []
    for entry in oldest:
        if entry.key in used or (too_much <= 0 and entry.used_at > now - KEPT_S):
            continue
        gone.append(entry.key)
        too_much -= entry.size
    return gone
