"""What commands write of applications, deployments and replicas.

Owns the form of `status`, once and live. One line stands for a deployment, however many replicas it has; with a name
each replica has one as well, those that are not well first. Pure, like `output`. Called by `watching` and `describe`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

from mesh.cli.output import Style, age, as_data, counted, data, enum_name, printable, shortened, table
from mesh.cli.output_events import events_table
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api

_SGR = re.compile(r"\x1b\[[0-9;]*m")
_PLAIN = "\x1b[0m"
_HOME, _END_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
REPLICA_HEADER = ("REPLICA", "STATE", "REASON", "FOR", "REVISION", "WORKER", "PID", "ONGOING", "RESTARTS", "MESSAGE")


def status(message: api.Status, style: Style, *, detailed: bool = False) -> str:
    """Return the status of applications; `detailed` adds a row for each replica and the last events."""
    if style.form != "table":
        return data(as_data(message), style)
    blocks = [
        table(
            ("APPLICATION", "STATE", "REASON", "REVISION", "ROUTE", "AGE", "MESSAGE"),
            [_application_row(item, style.now) for item in message.applications],
            style,
        ),
        table(
            ("DEPLOYMENT", "STATE", "REASON", "READY", "MESSAGE"),
            [_deployment_row(a.name, item) for a in message.applications for item in a.deployments],
            style,
        ),
    ]
    if detailed:
        blocks += [replicas_table((item for a in message.applications for item in a.deployments), style)]
        blocks += [events_table(a.last_events, style) for a in message.applications]
    if not message.applications:
        blocks = ["no applications\n"]
    counts = f"{counted(len(message.workers), 'worker')}, {counted(message.gateways, 'gateway')}"
    last = f"{counts}, control plane {message.leader or 'without a leader'}"
    blocks.append(f"{f'not current: {message.stale}' if message.stale else last}\n")
    return "\n".join(block for block in blocks if block)


def replicas_table(deployments: Iterable[pb.DeploymentStatus], style: Style) -> str:
    """Return a row for each replica, those that are not well first; nothing without replicas."""
    placements = [placement for deployment in deployments for placement in deployment.replicas]
    placements.sort(key=lambda item: (_is_well(item.status), item.status.replica_id))
    return table(REPLICA_HEADER, [_replica_row(item, style.now) for item in placements], style)


def frame(text: str, columns: int, rows: int) -> str:
    """Return a text as one picture of a terminal of that size: drawn over the one before, and never larger."""
    lines = text.rstrip("\n").split("\n")
    if len(lines) > rows - 1:
        kept = max(1, rows - 2)
        lines = [*lines[:kept], f"… {len(lines) - kept} more lines; a larger terminal shows them"]
    drawn = "".join(f"{_cut(line, columns)}{_END_OF_LINE}\n" for line in lines)
    return f"{_HOME}{drawn}{_BELOW}"


def without_details(message: api.Status) -> None:
    """Take the tracebacks out of a status: they are for those who ask for them."""
    for application in message.applications:
        if application.HasField("failure"):
            application.failure.ClearField("details")
    for replica in (r.status for a in message.applications for d in a.deployments for r in d.replicas):
        if replica.HasField("failure"):
            replica.failure.ClearField("details")
        if replica.HasField("last_failure"):
            replica.last_failure.ClearField("details")


def reason_of(number: int) -> str:
    """Return a reason as it is shown: nothing of one that says that all is well."""
    name = enum_name(pb.Reason.DESCRIPTOR, number)
    return "-" if name in ("UNSPECIFIED", "READY") else name


def message_of(status: pb.ReplicaStatus, now: float) -> str:
    """Return what is told of a replica, with when it starts again."""
    if not status.next_start_at:
        return status.message
    return f"starts again in {age(status.next_start_at - now)}: {status.message}"


def restarts_of(status: pb.ReplicaStatus) -> int:
    """Return how often a replica's process ended unasked."""
    return status.crashes + status.failed_starts


def _is_well(status: pb.ReplicaStatus) -> bool:
    return status.state == pb.REPLICA_STATE_READY and status.reason in (pb.REASON_READY, pb.REASON_UNSPECIFIED)


def _application_row(item: pb.ApplicationStatus, now: float) -> tuple[str, ...]:
    revision = str(item.revision)
    if item.serving_revision != item.revision:
        revision += f" (serving {item.serving_revision or 'none'})"
    return (
        item.name,
        enum_name(pb.ApplicationState.DESCRIPTOR, item.state),
        reason_of(item.reason),
        revision,
        item.route_prefix or "-",
        age(now - item.applied_at) if item.applied_at else "-",
        shortened(item.message),
    )


def _deployment_row(application: str, item: pb.DeploymentStatus) -> tuple[str, ...]:
    return (
        f"{application}/{item.name}",
        enum_name(pb.DeploymentState.DESCRIPTOR, item.state),
        reason_of(item.reason),
        f"{item.ready_replicas}/{item.target_replicas}",
        shortened(item.message),
    )


def _replica_row(item: pb.ReplicaPlacement, now: float) -> tuple[str, ...]:
    status = item.status
    return (
        status.replica_id,
        enum_name(pb.ReplicaState.DESCRIPTOR, status.state),
        reason_of(status.reason),
        age(now - status.since) if status.since else "-",
        str(item.revision),
        item.worker_id or "-",
        str(status.pid or "-"),
        str(status.ongoing_requests),
        str(restarts_of(status)),
        shortened(message_of(status, now)),
    )


def _cut(line: str, columns: int) -> str:
    """Return a line without what goes beyond a column; what colours it takes no room."""
    room, cut, at = columns, [], 0
    for escape in _SGR.finditer(line):
        cut += [text := "".join(islice(printable(line[at : escape.start()]), room)), escape.group()]
        room, at = room - len(text), escape.end()
    cut.append("".join(islice(printable(line[at:]), room)))
    return "".join(cut) + (_PLAIN if len(cut) > 1 else "")
