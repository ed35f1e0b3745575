"""What the metrics and the log tell of a dispatcher.

Owns the series of one deployment at one caller, and that they go with it. Decides nothing. Called by `dispatch`.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from mesh.telemetry import IN_FLIGHT, QUEUED, SHED, LineLimit

if TYPE_CHECKING:
    from mesh.pipe.dispatch import Dispatcher

log = logging.getLogger("mesh.dispatch")


class Gauges:
    """The series of one dispatcher."""

    def __init__(self, of: Dispatcher) -> None:
        self._labels = (of.application, of.deployment)
        IN_FLIGHT.labels(*self._labels).set_function(lambda: of.in_flight)
        QUEUED.labels(*self._labels).set_function(lambda: of.queued)
        self._there = True
        # One whose name is not known yet will hardly shed: no series of zeros for it.
        self._shed = SHED.labels(*self._labels, "queue_full") if of.deployment else None
        self._lines = LineLimit()

    def shed(self, detail: str, request_id: str, now: float) -> None:
        """Count a call that was shed, and log it within bounds."""
        (self._shed or SHED.labels(*self._labels, "queue_full")).inc()
        if (left_out := self._lines.take(now)) is not None:
            application, deployment = self._labels
            fields = {"application": application, "deployment": deployment, "request_id": request_id}
            log.warning(detail, extra={**fields, "left_out": left_out} if left_out else fields)

    def forget(self) -> None:
        """Take this deployment out of the metrics, once: the same labels may have another owner later."""
        if self._there:
            self._there = False
            for metric in (IN_FLIGHT, QUEUED):
                with contextlib.suppress(KeyError):
                    metric.remove(*self._labels)
