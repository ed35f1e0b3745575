"""Counts and logs what a front answered.

Owns the bound metric children, so that a request costs two increments and no look-up by label. Called once per
request by each front.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from mesh.clock import Clock
from mesh.telemetry import REQUEST_SECONDS, REQUESTS

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "Handle"})

log = logging.getLogger("mesh.access")


class Traffic:
    """Requests of one protocol ("http" or "grpc")."""

    def __init__(self, protocol: str, clock: Clock) -> None:
        self._protocol = protocol
        self._clock = clock
        self._counts: dict[tuple[str, str, object], Callable[[], None]] = {}
        self._times: dict[str, Callable[[float], None]] = {}

    @property
    def access_log(self) -> bool:
        """Whether each request is logged."""
        return log.isEnabledFor(logging.INFO)

    def count(self, route: str, method: str, code: object, started: float) -> None:
        """Count a request; `code` is an HTTP status or a gRPC code's name, `started` a monotonic time."""
        if (increment := self._counts.get((route, method, code))) is None:
            label = method if method in _METHODS else "OTHER"  # clients choose methods: labels must stay few
            increment = REQUESTS.labels(self._protocol, route, label, str(code)).inc
            if label == method:
                self._counts[route, method, code] = increment
        increment()
        if (observe := self._times.get(route)) is None:
            observe = self._times[route] = REQUEST_SECONDS.labels(self._protocol, route).observe
        observe(self._clock.monotonic() - started)

    def log(self, method: str, path: str, code: object, started: float, request_id: str) -> None:
        """Log one line for a request."""
        taken_ms = (self._clock.monotonic() - started) * 1000
        fields = {"protocol": self._protocol, "request_id": request_id}
        log.info("%s %s %s %.1f ms", method, path, code, taken_ms, extra=fields)
