"""Gathers what `describe` shows from the calls that the control plane answers.

Owns which of them are needed, and that an id nobody knows is an error. Called by `watching`.
"""

from __future__ import annotations

from mesh.cli import output_describe
from mesh.cli.client import Client
from mesh.cli.output import Style, as_data, data
from mesh.cli.terminal import warn_of
from mesh.errors import NotFound
from mesh.serving.options import nearest, shown
from mesh.v1 import deployment_pb2 as pb


async def application(client: Client, name: str, style: Style) -> str:
    """Return all there is to know of an application. Raises NotFound."""
    status = await client.status(name, details=True)
    warn_of(status.stale)
    (item,) = status.applications
    config = await _config(client, name)
    if style.form == "table":
        return output_describe.application(item, config, style)
    return data({"application": as_data(item), "config": as_data(config) if config is not None else None}, style)


async def replica(client: Client, replica_id: str, style: Style) -> str:
    """Return all there is to know of a replica. Raises NotFound."""
    status = await client.status(details=True)
    warn_of(status.stale)
    replicas = {each.status.replica_id: each for each in output_describe.placed(status.applications)}
    if (found := replicas.get(replica_id)) is None:
        raise _unknown("replica", replica_id, list(replicas), "meshctl status NAME lists those of an application")
    if style.form == "table":
        return output_describe.replica(found, style)
    placed = {"application": found.application.name, "deployment": found.deployment.name}
    return data({**placed, "replica": as_data(found.placement)}, style)


async def worker(client: Client, worker_id: str, style: Style) -> str:
    """Return all there is to know of a worker. Raises NotFound."""
    workers = {worker.worker_id: worker for worker in (await client.workers()).workers}
    if (found := workers.get(worker_id)) is None:
        raise _unknown("worker", worker_id, list(workers), "meshctl workers lists them")
    status = await client.status(details=True)
    replicas = [r for r in output_describe.placed(status.applications) if r.placement.worker_id == worker_id]
    if style.form == "table":
        return output_describe.worker(found, replicas, style)
    return data({"worker": as_data(found), "replicas": [as_data(each.placement) for each in replicas]}, style)


async def _config(client: Client, name: str) -> pb.ApplicationConfig | None:
    """Return what an application is to be; None if it is to be nothing."""
    try:
        (config,) = (await client.config(name)).config.applications
    except NotFound:
        return None
    return config


def _unknown(noun: str, name: str, known: list[str], hint: str) -> NotFound:
    others = f"; {nearest(name, known)}" if known else "; there is none"
    return NotFound(f"there is no {noun} {shown(name)}{others}", hint=hint)
