"""Counts and logs what a front answered.

Owns what is done per request for metrics and the access log, and keeps it cheap. Called once per request by each
front.
"""

from __future__ import annotations

from bisect import bisect_left

from mesh import access_log
from mesh.access_log import Answered
from mesh.clock import Clock
from mesh.telemetry import REQUESTS, SECONDS

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "Handle"})

_SHOWN_MAX = 1000
"""Characters of a method or path in the access log."""


class Traffic:
    """Requests of one protocol ("http" or "grpc")."""

    def __init__(self, protocol: str, clock: Clock) -> None:
        self._protocol = protocol
        self._clock = clock
        self._cells: dict[str, list[float]] = {}

    @property
    def access_log(self) -> bool:
        """Whether each request is logged."""
        return access_log.current is not None

    def count(self, route: str, method: str, code: object, started: float) -> None:
        """Count a request; `code` is an HTTP status or a gRPC code's name, `started` a monotonic time."""
        if method not in _METHODS:
            method = "OTHER"  # clients choose methods: labels must stay few
        key = (self._protocol, route, method, str(code))
        counts = REQUESTS.counts
        counts[key] = counts.get(key, 0) + 1
        if (cell := self._cells.get(route)) is None:
            cell = self._cells[route] = REQUESTS.cell(self._protocol, route)
        seconds = self._clock.monotonic() - started
        cell[bisect_left(SECONDS, seconds)] += 1
        cell[-1] += seconds

    def log(self, method: str, path: str, code: object, started: float, request_id: str) -> None:
        """Log one line for a request. Clients choose method and path: what is not printable is written as escapes."""
        clock, protocol = self._clock, self._protocol
        took_ms = (clock.monotonic() - started) * 1000
        line = Answered(clock.wall(), protocol, _shown(method), _shown(path), code, took_ms, request_id)
        if access_log.current is not None:
            access_log.current.add(line)


def _shown(text: str) -> str:
    text = text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
