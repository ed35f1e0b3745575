"""What a replica prints, in the worker's own log.

Owns the translation: a line that a replica's logger wrote as JSON keeps its level, message and fields; any other line
is logged as it is. Called by the supervisor and the builds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger("mesh.replica")

_LOGGED_PREFIX = '{"time": '
_NOT_FIELDS = frozenset({"time", "level", "role", "logger", "message"}) | vars(logging.makeLogRecord({})).keys()


def log_line(line: str, labels: Mapping[str, object]) -> None:
    """Log one line that a child process printed, with `labels` that say whose it is."""
    if line.startswith(_LOGGED_PREFIX) and (entry := _entry(line)) is not None:
        fields = {name: value for name, value in entry.items() if name not in _NOT_FIELDS}
        level = logging.getLevelNamesMapping().get(str(entry.get("level")), logging.INFO)
        log.log(level, "%s", entry.get("message", ""), extra={**fields, **labels})
        return
    log.info("%s", line, extra=dict(labels))


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
