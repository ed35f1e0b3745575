"""Which application serves a path: the longest route prefix that matches whole segments.

Owns the matching rule. Knows nothing of deployments or limits: it maps prefixes to whatever it was given.
Pure. Called by `pipeline`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar
from urllib.parse import unquote

_T = TypeVar("_T")


class RouteTable(Generic[_T]):
    """Finds the entry of the longest prefix, in time linear in the path and not in the number of routes."""

    def __init__(self, entries: Mapping[str, _T]) -> None:
        self._entries = {("" if prefix == "/" else prefix): entry for prefix, entry in entries.items()}
        self._depth = max((prefix.count("/") for prefix in self._entries), default=0)
        self._segment_bytes_max = 3 * max((len(prefix.encode()) for prefix in self._entries), default=0)

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> Iterable[_T]:
        """Return all entries."""
        return self._entries.values()

    def match(self, raw_path: bytes) -> _T | None:
        """Return the entry for a path as the client sent it (percent-encoded, no query), or None."""
        entries = self._entries
        if self._depth:
            path = self._beginning(raw_path) if b"%" in raw_path else raw_path.decode("utf-8", "replace")
            end = _nth_slash(path, self._depth + 1)
            prefix = path if end < 0 else path[:end]
            while prefix:
                if (entry := entries.get(prefix)) is not None:
                    return entry
                prefix = prefix[: prefix.rfind("/")] if "/" in prefix else ""
        return entries.get("")

    def _beginning(self, raw_path: bytes) -> str:
        """Return as much of a path, decoded, as a prefix could cover. What a client writes behind costs nothing."""
        segments = raw_path.split(b"/", self._depth + 1)[: self._depth + 1]
        long = next((i for i, segment in enumerate(segments) if len(segment) > self._segment_bytes_max), None)
        return normalised(b"/".join(segments[:long]))


def normalised(raw_path: bytes) -> str:
    """Decode each segment once; a slash that was encoded stays `%2F`, so that it never splits a segment."""
    segments = raw_path.decode("utf-8", "replace").split("/")
    return "/".join(unquote(segment).replace("/", "%2F") for segment in segments)


def _nth_slash(path: str, n: int) -> int:
    at = -1
    for _ in range(n):
        at = path.find("/", at + 1)
        if at < 0:
            return -1
    return at
