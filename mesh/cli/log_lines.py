"""Lines of logs as `meshctl logs` writes them, and what it understands as a time.

Owns the form: for people "TIME REPLICA message", for programs one JSON object a line. Pure. Called by `logs`.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime

from mesh.v1.log_service_pb2 import LogEntry

_REPLICA_COLOURS = ("\x1b[36m", "\x1b[32m", "\x1b[35m", "\x1b[34m", "\x1b[33m", "\x1b[96m", "\x1b[92m", "\x1b[95m")
_LEVEL_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}
_PLAIN = "\x1b[0m"
_BLOCKS = ("traceback", "exception")
"""Fields of several lines, which follow the message."""
_NOT_SHOWN = frozenset({"logger", *_BLOCKS})
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AGO = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?[smhd])+")


def since(text: str, now: float) -> float:
    """Return the Unix time of "90s", "10m", "1h30m", "2d" before `now`, or of an RFC 3339 time.

    Raises ValueError, with what is wrong in words.
    """
    if _AGO.fullmatch(text):
        ago = sum(float(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"[0-9.]+[smhd]", text))
        return max(0.0, now - ago)
    try:
        time = datetime.fromisoformat(text)
        if "T" not in text.upper() or time.tzinfo is None:
            raise ValueError(text)
        return max(0.0, time.timestamp())
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is neither a duration (90s, 10m, 2h, 1d) nor a time (2026-01-31T08:00:00Z)"
        ) from None


def rendered(entries: Iterable[LogEntry], *, as_json: bool, colour: bool) -> str:
    """Return lines of logs as text."""
    if as_json:
        return "".join(_json(entry) for entry in entries)
    return "".join(_text(entry, colour) for entry in entries)


def _text(entry: LogEntry, colour: bool) -> str:
    at = datetime.fromtimestamp(entry.time, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    replica = shown_id = entry.position.replica_id
    if colour:
        shown_id = f"{_REPLICA_COLOURS[zlib.crc32(replica.encode()) % len(_REPLICA_COLOURS)]}{replica}{_PLAIN}"
    fields = [(name, value) for name, value in sorted(entry.fields.items()) if name not in _NOT_SHOWN]
    if entry.request_id:
        fields.insert(0, ("request_id", entry.request_id))
    words = "".join(f" {name}={_word(value)}" for name, value in fields)
    message = _clean(f"{entry.level + ' ' if entry.level else ''}{entry.message}{words}", colour)
    if colour and (level := _LEVEL_COLOURS.get(entry.level)):
        message = f"{level}{message}{_PLAIN}"
    blocks = [_clean(entry.fields[name].rstrip("\n"), colour) for name in _BLOCKS if name in entry.fields]
    lines = [line for text in (message, *blocks) for line in text.split("\n")]
    return "".join(f"{at} {shown_id} {line}".rstrip() + "\n" for line in lines)


def _clean(text: str, colour: bool) -> str:
    """Return a text that can do a terminal no harm. What goes to a file or a pipe stays as it was printed."""
    return _CONTROL.sub("\ufffd", text.replace("\t", "    ")) if colour else text


def _word(value: str) -> str:
    plain = value and not any(c.isspace() or c in '"=' for c in value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _json(entry: LogEntry) -> str:
    time = datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    value = {
        "time": time,
        "application": entry.application,
        "deployment": entry.deployment,
        "replica_id": entry.position.replica_id,
        "process": entry.position.process,
        "line": entry.position.line,
        "worker_id": entry.worker_id,
        "level": entry.level,
        "message": entry.message,
        "request_id": entry.request_id,
        "trace_id": entry.trace_id,
        "fields": dict(sorted(entry.fields.items())),
    }
    return json.dumps(value, ensure_ascii=False) + "\n"
