"""Lines of logs from many workers, merged by their time within bounds.

Owns what waits to be read, how much of each worker may, and in which order it goes. What was there when a read began is
held back until every worker has told what comes next; what is written later goes as it comes. Pure. Called by
`log_reads`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from mesh.v1.log_service_pb2 import LogEntry, LogPosition

WAITING_MAX = 2000
"""Lines of one worker that wait to be read; more are taken when there is room, a message's worth beyond that."""
MESSAGE_CHARS_MAX = 32 * 1024
TEXT_CHARS_MAX = 256
FIELDS_MAX = 30
REPLICAS_MAX = 10_000
"""Replicas of which it is known how far they have been read."""
_LEVELS = frozenset({"", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})


@dataclass(slots=True)
class _Part:
    """What one worker has sent."""

    holds_up: bool
    """Nothing goes before it is known what comes next of it."""
    lines: deque[LogEntry] = field(default_factory=deque)


class LogMerge:
    """The lines of one read."""

    def __init__(self) -> None:
        self.positions: dict[str, LogPosition] = {}
        """Of each replica the last line that was taken."""
        self._parts: dict[str, _Part] = {}

    def expect(self, worker_id: str, *, holds_up: bool) -> None:
        """Lines of this worker will come. What it sent before and nobody took is dropped: it is asked for again."""
        self._parts[worker_id] = _Part(holds_up)

    def add(self, worker_id: str, entry: LogEntry) -> None:
        """Take the worker's next line."""
        self._parts[worker_id].lines.append(entry)

    def flows(self, worker_id: str) -> None:
        """What was there has come, or no more will: what comes now need not be waited for."""
        self._parts[worker_id].holds_up = False

    def has_room(self, worker_id: str) -> bool:
        """Whether the worker may send more now."""
        return len(self._parts[worker_id].lines) < WAITING_MAX

    def holding_up(self) -> list[str]:
        """Return the workers without which nothing can go."""
        return [worker_id for worker_id, part in self._parts.items() if part.holds_up and not part.lines]

    @property
    def over(self) -> bool:
        """Whether all that was there has been taken."""
        return not any(part.lines or part.holds_up for part in self._parts.values())

    def take(self, count: int) -> list[LogEntry]:
        """Return at most `count` lines that come next."""
        taken: list[LogEntry] = []
        while len(taken) < count and not self.holding_up():
            ready = [part for part in self._parts.values() if part.lines]
            if not ready:
                break
            entry = min(ready, key=lambda part: part.lines[0].time).lines.popleft()
            replica_id = entry.position.replica_id
            if replica_id in self.positions or len(self.positions) < REPLICAS_MAX:
                self.positions[replica_id] = entry.position
            taken.append(entry)
        return taken


def bounded(entry: LogEntry, worker_id: str, application: str) -> LogEntry:
    """Return a line as a worker sent it, without what is too much of it."""
    time = entry.time if math.isfinite(entry.time) else 0.0
    position = entry.position
    fields = {
        name[:TEXT_CHARS_MAX]: entry.fields[name][:MESSAGE_CHARS_MAX] for name in sorted(entry.fields)[:FIELDS_MAX]
    }
    return LogEntry(
        time=min(max(time, 0.0), 1e11),
        application=application,
        deployment=entry.deployment[:TEXT_CHARS_MAX],
        position=LogPosition(
            replica_id=position.replica_id[:TEXT_CHARS_MAX], process=position.process, line=position.line
        ),
        worker_id=worker_id,
        level=entry.level if entry.level in _LEVELS else "INFO",
        message=entry.message[:MESSAGE_CHARS_MAX],
        request_id=entry.request_id[:TEXT_CHARS_MAX],
        trace_id=entry.trace_id[:TEXT_CHARS_MAX],
        fields=fields,
    )
