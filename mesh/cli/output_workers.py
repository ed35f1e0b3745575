"""What commands write about workers.

Owns the form of one worker and of all. Pure, like `output`. Called by the commands.
"""

from __future__ import annotations

from mesh.cli.output import Style, age, as_data, data, enum_name, shortened, table
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api

_HEADER = ("WORKER", "STATE", "HOST", "REPLICAS", "CPUS", "MEMORY", "LAST SEEN", "MESSAGE")


def workers(message: api.ListWorkersResponse, style: Style) -> str:
    """Return the workers."""
    if style.form != "table":
        return data(as_data(message), style)
    return table(_HEADER, [_row(item, style.now) for item in message.workers], style) or "no workers\n"


def drained(worker_id: str, found: pb.WorkerStatus | None, style: Style) -> str:
    """Return what has become of a worker that was drained, or is drained no more. None: it has gone."""
    if style.form != "table":
        value = as_data(found) if found is not None else {"worker_id": worker_id, "state": "GONE"}
        return data(value, style)
    return table(_HEADER, [_row(found, style.now)], style) if found is not None else f"{worker_id} has gone\n"


def _row(item: pb.WorkerStatus, now: float) -> tuple[str, ...]:
    return (
        item.worker_id,
        enum_name(pb.WorkerState.DESCRIPTOR, item.state),
        item.host,
        f"{item.replicas}/{item.resources.max_replicas}",
        str(item.resources.cpus),
        f"{item.resources.memory_bytes / 2**30:.1f} GiB",
        f"{age(now - item.last_seen)} ago" if item.last_seen else "never",
        shortened(item.message),
    )
