"""What commands write to stdout: tables for people, JSON and YAML for programs.

Owns the form. JSON and YAML hold the fields of the API's messages under their names in the protos, every field
present: enums as their short names ("RUNNING"), whole numbers as numbers, times in RFC 3339 and UTC, none relative.
Tables show times relative to `now`. Pure: returns text, prints nothing. Called by the commands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from mesh.cli.strict_yaml import dump
from mesh.v1 import deployment_service_pb2 as api

Form = Literal["table", "json", "yaml"]

_GREEN, _YELLOW, _RED, _PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
_COLOURS = {
    **dict.fromkeys(("RUNNING", "HEALTHY", "READY", "SERVING"), _GREEN),
    **dict.fromkeys(
        ("DEPLOYING", "UPDATING", "DELETING", "PENDING", "STARTING", "DRAINING", "DRAINED", "STOPPED"), _YELLOW
    ),
    **dict.fromkeys(("UNHEALTHY", "DEPLOY_FAILED", "BACKOFF", "DISCONNECTED", "WARNING", "FAILED"), _RED),
}
_MESSAGE_WIDTH = 80
_TIMES = frozenset(
    ("applied_at", "accepted_at", "since", "last_seen", "first_at", "last_at", "next_start_at", "last_failure_at")
)
"""Fields of the API that are Unix seconds."""


@dataclass(frozen=True, slots=True)
class Style:
    """How to write: the form, the Unix time that relative times count from, and whether colour may be used."""

    form: Form = "table"
    now: float = 0.0
    colour: bool = False
    one_line: bool = False
    """JSON without line breaks, for a stream of values."""


def applied(message: api.ApplyResponse, states: Mapping[str, str], style: Style) -> str:
    """Return what an apply did to each application, and the state it has come to where that is known."""
    items = [
        {
            "name": item.name,
            "revision": item.revision,
            "change": enum_name(api.Change.DESCRIPTOR, item.change),
            "state": states.get(item.name, ""),
        }
        for item in message.applications
    ]
    if style.form != "table":
        return data({"applications": items}, style)
    rows = [tuple(str(value or "-") for value in item.values()) for item in items]
    return table(("APPLICATION", "REVISION", "CHANGE", "STATE"), rows, style) or "no applications\n"


def deleted(names: Iterable[str], states: Mapping[str, str], style: Style) -> str:
    """Return which applications were deleted, and the state each has come to where that is known."""
    items = [{"name": name, "change": "DELETED", "state": states.get(name, "")} for name in sorted(names)]
    if style.form != "table":
        return data({"applications": items}, style)
    rows = [tuple(value or "-" for value in item.values()) for item in items]
    return table(("APPLICATION", "CHANGE", "STATE"), rows, style) or "no applications\n"


def data(value: Any, style: Style) -> str:
    """Return plain data as JSON, or else as YAML."""
    if style.form == "json":
        return json.dumps(value, ensure_ascii=False, indent=None if style.one_line else 2) + "\n"
    return f"---\n{dump(value)}" if style.one_line else dump(value)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], style: Style) -> str:
    """Return aligned columns; nothing without rows. States are coloured if the style allows it."""
    rows = [tuple(map(printable, row)) for row in rows]
    if not rows:
        return ""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    lines = []
    for line in [tuple(header), *rows]:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        if style.colour:
            cells = [_coloured(cell) for cell in cells]
        lines.append("   ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def ready(names: Sequence[str], addresses: Mapping[str, str], style: Style, *, route: str = "/") -> str:
    """Return the ready lines of a process: JSON on one line, else the same for people.

    `addresses` has any of http, grpc, control and admin; http and admin are URLs without a final slash. `route` is
    what people are shown after the former.
    """
    if style.form == "json":
        return json.dumps({"ready": list(names), **addresses}) + "\n"
    if style.form == "yaml":
        return f"---\n{dump({'ready': list(names), **addresses})}"
    shown = {"http": "HTTP", "grpc": "gRPC", "control": "control", "admin": "admin"}
    addresses = {name: address + route if name == "http" else address for name, address in addresses.items()}
    lines = [f"  {shown[name]:<7}  {address}" for name, address in addresses.items()]
    return "\n".join([f"mesh is ready: {', '.join(names) or 'no applications'}", *lines]) + "\n"


def as_data(message: Message) -> dict[str, Any]:
    """Return a message as plain data: every field, proto names, short enum names."""
    return {field.name: _field_data(message, cast(FieldDescriptor, field)) for field in message.DESCRIPTOR.fields}


def enum_name(enum: Any, number: int) -> str:
    """Return the name of an enum's value without the enum's own name: RUNNING, not APPLICATION_STATE_RUNNING."""
    descriptor = cast(EnumDescriptor, enum)
    value = descriptor.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = "".join(f"_{c}" if c.isupper() else c for c in descriptor.name).upper().lstrip("_")
    return str(value.name).removeprefix(f"{prefix}_")


def age(seconds: float) -> str:
    """Return a duration for people, such as 42s, 5m, 3h or 2d."""
    seconds = max(0, int(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size * 2:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def shortened(text: str, width: int = _MESSAGE_WIDTH) -> str:
    """Return the last line of a text, which is where an exception stands, cut to `width`."""
    line = text.strip().rpartition("\n")[2].strip()
    return line if len(line) <= width else line[: width - 1] + "…"


def printable(text: str) -> str:
    """Return a text without what a terminal would obey: user code may print anything."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def counted(count: int, noun: str) -> str:
    """Return "1 worker", "2 workers"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _field_data(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(sorted(value.items()))
    if field.message_type is not None:
        if field.is_repeated:
            return [as_data(item) for item in value]
        return as_data(value) if message.HasField(field.name) else None
    if field.is_repeated:
        return [_scalar_data(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _scalar_data(value, field)


def _scalar_data(value: Any, field: FieldDescriptor) -> Any:
    if field.name in _TIMES:
        return _time(value)
    return enum_name(field.enum_type, value) if field.enum_type is not None else value


def _time(unix_seconds: float) -> str | None:
    """Return a time in RFC 3339, None for 0, which stands for never, and for what no calendar has."""
    try:
        time = datetime.fromtimestamp(unix_seconds, UTC) if unix_seconds else None
    except (ValueError, OverflowError, OSError):
        return None
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z") if time is not None else None


def _coloured(cell: str) -> str:
    colour = _COLOURS.get(cell.rstrip())
    return f"{colour}{cell}{_PLAIN}" if colour else cell
