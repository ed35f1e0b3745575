"""What commands write of events.

Owns the form of a list and of a stream of them. Pure, like `output`. Called by `watching`, `output_status` and
`describe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from mesh.cli.output import Style, age, as_data, data, enum_name, printable, shortened, table
from mesh.v1 import event_pb2 as pb

_HEADER = ("LAST", "COUNT", "SEVERITY", "EVENT", "ABOUT", "MESSAGE")


def events(found: Sequence[pb.Event], style: Style) -> str:
    """Return a list of events, oldest first."""
    if style.form != "table":
        return data({"events": [as_data(event) for event in found]}, style)
    return events_table(found, style) or "no events\n"


def events_table(found: Iterable[pb.Event], style: Style) -> str:
    """Return a row for each event; nothing if there are none."""
    rows = [
        (
            f"{age(style.now - event.last_at)} ago",
            str(event.count),
            enum_name(pb.Severity.DESCRIPTOR, event.severity),
            enum_name(pb.EventReason.DESCRIPTOR, event.reason),
            about(event),
            shortened(event.message),
        )
        for event in found
    ]
    return table(_HEADER, rows, style)


def event(told: pb.Event, style: Style) -> str:
    """Return one event of a stream, with the time of day."""
    if style.form != "table":
        return data(as_data(told), style)
    time = datetime.fromtimestamp(told.last_at).astimezone().strftime("%H:%M:%S")
    severity, reason = (
        enum_name(enum, number)
        for enum, number in ((pb.Severity.DESCRIPTOR, told.severity), (pb.EventReason.DESCRIPTOR, told.reason))
    )
    times = f" (x{told.count})" if told.count > 1 else ""
    line = f"{time} {severity:<7} {reason:<19} {about(told)}  {told.message}{times}"
    return f"{printable(line)}\n"


def about(event: pb.Event) -> str:
    """Return what an event is about: the smallest thing that it names."""
    if event.replica_id:
        return event.replica_id
    if event.deployment:
        return f"{event.application}/{event.deployment}"
    return event.application or event.worker_id or event.gateway_id or "control plane"
