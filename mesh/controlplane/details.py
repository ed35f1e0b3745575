"""What a status says beyond how all is doing: settings and where they come from, services, the last events.

Owns where each of these is found. Pure. Called by `api` for those who ask for details.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace

from mesh.controlplane import rollout
from mesh.controlplane.events import CLUSTER, LAST_MAX, Book, Last, last
from mesh.controlplane.status import ApplicationStatus, DeploymentStatus, ReplicaPlacement, Status
from mesh.model import Application, ApplicationConfig, DeploymentConfig


def detailed(value: Status, applications: Mapping[str, Application], book: Book) -> Status:
    """Return a status with its details."""
    cluster = book.log(CLUSTER)
    return replace(
        value,
        applications=tuple(
            _application(a, applications.get(a.name), last(book.log(a.name))) for a in value.applications
        ),
        workers=tuple(
            replace(worker, last_events=tuple(e for e in cluster if e.worker_id == worker.worker_id)[-LAST_MAX:])
            for worker in value.workers
        ),
    )


def _application(status: ApplicationStatus, stored: Application | None, events: Last) -> ApplicationStatus:
    deployments = tuple(_deployment(each, stored, events) for each in status.deployments)
    return replace(status, deployments=deployments, last_events=events.application)


def _deployment(status: DeploymentStatus, stored: Application | None, events: Last) -> DeploymentStatus:
    status = replace(
        status,
        last_events=events.deployments.get(status.name, ()),
        replicas=tuple(_replica(placement, events) for placement in status.replicas),
    )
    for plan in rollout.plans(stored) if stored is not None else ():
        for spec in plan.deployments:
            if spec.name == status.name:
                return replace(
                    status,
                    settings=spec.settings,
                    configured=_configured(plan.config, spec.name),
                    ingress=spec.ingress,
                    services=spec.interface.services,
                )
    return status


def _replica(placement: ReplicaPlacement, events: Last) -> ReplicaPlacement:
    return replace(placement, last_events=events.replicas.get(placement.status.replica_id, ()))


def _configured(config: ApplicationConfig, deployment: str) -> tuple[str, ...]:
    """Return the names of the options that a config sets for a deployment."""
    override = next((each for each in config.deployments if each.name == deployment), DeploymentConfig())
    names = (field.name for field in dataclasses.fields(override) if field.name != "name")
    return tuple(name for name in names if getattr(override, name) is not None)
