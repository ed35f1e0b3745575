"""A line that a replica printed, as it is kept: one JSON object a line.

Owns the form on disk, what is taken over from a line that a replica's logger wrote as JSON, and which lines a read
wants. Pure. Called by the keeper, which writes lines, and the reader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

LOGGED_PREFIX = '{"time": '
"""How a line begins that a logger of mesh wrote."""
EARLY_S, LATE_S = 60.0, 1.0
"""A line's own time counts if it is not further from the moment at which the worker read it: printed text may lie."""
FIELDS_MAX = 30
_TAKEN = frozenset({"time", "level", "role", "message", "request_id", "trace_id"})
_TEXTS = ("message", "level", "request_id", "trace_id")
_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
_TIME = re.compile(rb'\{"time": ([0-9.]+), "line": ([0-9]+), ')
_encode = json.JSONEncoder(ensure_ascii=False).encode
_scan = json.JSONDecoder().decode


@dataclass(frozen=True, slots=True)
class Source:
    """Which replica printed it."""

    application: str
    deployment: str
    replica_id: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `time` is Unix seconds."""

    time: float
    message: str
    level: str = ""
    """Empty: it was printed, not logged."""
    request_id: str = ""
    trace_id: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kept:
    """A line as it was read again."""

    number: int
    """Within its process, from 1."""
    line: Line


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines a read wants."""

    since: float = 0.0
    request_id: str = ""


def logged(text: str) -> dict[str, Any] | None:
    """Return the fields of a line that a logger of mesh wrote as JSON, None of any other line."""
    if not text.startswith(LOGGED_PREFIX):
        return None
    try:
        entry = _scan(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def line_of(text: str, now: float) -> Line:
    """Return what a replica printed as a line; `now` is the Unix time at which the worker read it."""
    if (entry := logged(text)) is None:
        return Line(now, text)
    level = str(entry.get("level", ""))
    others = [(name, value) for name, value in entry.items() if name not in _TAKEN][:FIELDS_MAX]
    return Line(
        _own_time(entry.get("time"), now),
        str(entry.get("message", "")),
        level if level in _LEVELS else "INFO",
        str(entry.get("request_id", "")),
        str(entry.get("trace_id", "")),
        {name: value if isinstance(value, str) else _encode(value) for name, value in others},
    )


def in_order(line: Line, last: float) -> Line:
    """Return a line with a time not before that of the line before it, unless the clock was set back meanwhile.

    What a process logs has its own time, what it prints that of the worker's reading, which is later.
    """
    return replace(line, time=last) if last - EARLY_S <= line.time < last else line


def encoded(line: Line, number: int, process: int, source: Source) -> bytes:
    """Return a line as it is kept, with its end."""
    entry: dict[str, Any] = {
        "time": round(line.time, 6),
        "line": number,
        "process": process,
        "replica": source.replica_id,
        "application": source.application,
        "deployment": source.deployment,
        "level": line.level,
        "message": line.message,
    }
    if line.request_id:
        entry["request_id"] = line.request_id
    if line.trace_id:
        entry["trace_id"] = line.trace_id
    if line.fields:
        entry["fields"] = dict(line.fields)
    # Not strict: what was read of a pipe may hold halves of surrogate pairs in JSON's own writing.
    return (_encode(entry) + "\n").encode("utf-8", "replace")


def time_and_number(kept: bytes) -> tuple[float, int] | None:
    """Return the time and the number of a line as it is kept, without reading all of it; None if it is none."""
    found = _TIME.match(kept)
    return (float(found[1]), int(found[2])) if found else None


def decoded(kept: bytes, wanted: Wanted) -> Kept | None:
    """Return a line as it is kept, None if it is not wanted or is none: a worker that was killed leaves a part."""
    if wanted.request_id and _encode(wanted.request_id).encode("utf-8", "replace") not in kept:
        return None
    try:
        entry = _scan(kept.decode())
        fields = {str(name): str(value) for name, value in entry.get("fields", {}).items()}
        message, level, request_id, trace_id = (str(entry.get(name, "")) for name in _TEXTS)
        line = Line(float(entry["time"]), message, level, request_id, trace_id, fields)
        number = int(entry["line"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if line.time < wanted.since or (wanted.request_id and line.request_id != wanted.request_id):
        return None
    return Kept(number, line)


def _own_time(text: object, now: float) -> float:
    try:
        time = datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError, OSError):
        return now
    return time if now - EARLY_S <= time <= now + LATE_S else now
