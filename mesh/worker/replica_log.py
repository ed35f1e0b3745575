"""What a replica prints, in the worker's own log.

Owns the translation: a line that a replica's logger wrote as JSON keeps its level, message and fields; any other line
is logged as it is. Called by `running` and the builds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from mesh.telemetry import LineLimit
from mesh.worker.logs.lines import logged
from mesh.worker.output import LINES_PER_SECOND_MAX

log = logging.getLogger("mesh.replica")

_NOT_FIELDS = frozenset({"time", "level", "role", "logger", "message"}) | vars(logging.makeLogRecord({})).keys()


def log_line(line: str, labels: Mapping[str, object]) -> None:
    """Log one line that a child process printed, with `labels` that say whose it is."""
    if (entry := logged(line)) is not None:
        fields = {name: value for name, value in entry.items() if name not in _NOT_FIELDS}
        level = logging.getLevelNamesMapping().get(str(entry.get("level")), logging.INFO)
        log.log(level, "%s", entry.get("message", ""), extra={**fields, **labels})
        return
    log.info("%s", line, extra=dict(labels))


class ReplicaLog:
    """Logs what one replica prints, no faster than a bound; what is left out is counted, and is kept all the same."""

    def __init__(self, labels: Mapping[str, object]) -> None:
        self._labels = labels
        self._limit = LineLimit(LINES_PER_SECOND_MAX)
        self._leaves_out = False

    def log(self, lines: Iterable[str], now: float) -> None:
        """Log lines that were read at `now`, in monotonic seconds."""
        for line in lines:
            if (left_out := self._limit.take(now)) is None:
                if not self._leaves_out:
                    self._leaves_out = True
                    text = "… more than %d lines a second: some are left out here; meshctl logs has more"
                    log.warning(text, LINES_PER_SECOND_MAX, extra=dict(self._labels))
                continue
            if left_out:
                self._leaves_out = False
                log_line(f"… {left_out} lines left out", self._labels)
            log_line(line, self._labels)
