"""The statuses of all applications, each made again only when something of it changed.

Owns the memory of them; what each is follows from `status`. Pure. Kept by `term`.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from mesh import wire
from mesh.controlplane.memo import Memo
from mesh.controlplane.reconcile import Desired, Observed, seen
from mesh.controlplane.status import ApplicationStatus, Room, Status, application_status, room_of
from mesh.model import Application, Replica
from mesh.v1 import deployment_pb2, deployment_service_pb2

Counts = dict[tuple[str, str, str], int]


class Statuses:
    """What was told last. One that is new tells the same, at more cost."""

    def __init__(self) -> None:
        self._room = Room()
        self._made: Memo[ApplicationStatus] = Memo()
        self._counts: Memo[Counts] = Memo()

    def applications(
        self, desired: Desired, observed: Observed, lost: frozenset[tuple[str, str]] = frozenset()
    ) -> tuple[ApplicationStatus, ...]:
        """Return the status of every application, by name.

        `lost` are deployments, as application and name, that miss replicas because their workers are lost.
        """
        replicas = seen(observed)
        room = room_of(desired, observed, replicas.values())._replace(lost=lost)
        if room != self._room:
            self._room = room
        of = observed.sight.by_application(observed.replicas, observed.workers)
        self._made.keep(desired.applications)
        return tuple(
            self._application(name, application, of.get(name, ()))
            for name, application in sorted(desired.applications.items())
        )

    def counts(self, desired: Desired, observed: Observed) -> Counts:
        """Return how many replicas each deployment of each application is to have ("target") and has ("ready")."""
        of = observed.sight.by_application(observed.replicas, observed.workers)
        self._counts.keep(desired.applications)
        result: Counts = {}
        for name, application in desired.applications.items():
            replicas = of.get(name, ())
            inputs = (application, replicas)
            result |= self._counts.get(name, inputs, lambda a=application, r=replicas: _counts(a, r))  # type: ignore[misc]
        return result

    def _application(self, name: str, application: Application, replicas: Sequence[Replica]) -> ApplicationStatus:
        room = self._room
        return self._made.get(
            name, (room, application, replicas), lambda: application_status(application, replicas, room)
        )


class StatusMessages:
    """What was told of each application last, as messages. They are not to be changed."""

    def __init__(self) -> None:
        self._made: Memo[deployment_pb2.ApplicationStatus] = Memo()

    def of(self, value: Status, known: Container[str]) -> deployment_service_pb2.Status:
        """Return a status as a message. `known` are all applications that there are."""
        message = wire.to_proto(replace(value, applications=()), deployment_service_pb2.Status)
        message.applications.extend(map(self._application, value.applications))
        self._made.keep(known)
        return message

    def _application(self, value: ApplicationStatus) -> deployment_pb2.ApplicationStatus:
        return self._made.get(value.name, (value,), lambda: wire.to_proto(value, deployment_pb2.ApplicationStatus))


def applications_status(desired: Desired, observed: Observed) -> tuple[ApplicationStatus, ...]:
    """Return the status of every application, by name, as `Statuses` does."""
    return Statuses().applications(desired, observed)


def _counts(application: Application, replicas: Sequence[Replica]) -> Counts:
    result = {}
    for deployment in application_status(application, replicas, Room()).deployments:
        result[application.config.name, deployment.name, "target"] = deployment.target_replicas
        result[application.config.name, deployment.name, "ready"] = deployment.ready_replicas
    return result
