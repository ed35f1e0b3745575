"""Whether a change of the goal state has come true, by the statuses that the control plane sends.

Owns when a change counts as done, failed or overtaken. Pure. Called by `admin` and `aio_admin`.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh_client.errors import Conflict, DeadlineExceeded, DeployFailed, MeshClientError
from mesh_client.v1 import deployment_pb2 as pb
from mesh_client.v1 import deployment_service_pb2 as api


class Following:
    """Applications that shall run, each at a revision, and applications that shall be gone."""

    def __init__(self, applied: Iterable[api.AppliedApplication]) -> None:
        self._coming: dict[str, int] = {}
        self._leaving: set[str] = set()
        self._seen: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._overtaken: list[str] = []
        for item in applied:
            if item.change == api.CHANGE_DELETED:
                self._leaving.add(item.name)
            else:
                self._coming[item.name] = item.revision

    def take(self, status: api.Status) -> bool:
        """Note a newer status; return whether all is done. Raises DeployFailed, Conflict."""
        found = {item.name: item for item in status.applications}
        for name, revision in list(self._coming.items()):
            if self._decided(name, revision, found.get(name), status.gateways_behind):
                del self._coming[name]
        if not self._coming and (error := self._error()) is not None:
            raise error
        # What stays although it was to leave does so because others failed, which was told above.
        self._leaving = {name for name in self._leaving if name in found or status.gateways_behind}
        return not self._coming and not self._leaving

    def too_late(self, seconds: float) -> DeadlineExceeded:
        """Return the error of a wait that took too long."""
        names = [f"{name} ({self._seen.get(name, 'not seen yet')})" for name in sorted(self._coming)]
        names += [f"{name} (not gone yet)" for name in sorted(self._leaving)]
        return DeadlineExceeded(f"not done within {seconds:g} s: {', '.join(names)}", reason="DEADLINE_EXCEEDED")

    def _decided(self, name: str, revision: int, item: pb.ApplicationStatus | None, behind: int) -> bool:
        if item is None:
            if name in self._seen:
                self._overtaken.append(f"application {name!r} was deleted by somebody else meanwhile")
            return name in self._seen
        if item.revision < revision:
            return False
        self._seen[name] = pb.ApplicationState.Name(item.state).removeprefix("APPLICATION_STATE_")
        if item.revision > revision:
            self._overtaken.append(f"application {name!r} was changed by somebody else meanwhile")
            return True
        if item.state == pb.APPLICATION_STATE_DEPLOY_FAILED:
            self._failures[name] = item.failure.message or item.message
            return True
        # Done when whoever asks the gateways next is answered by it.
        return item.state == pb.APPLICATION_STATE_RUNNING and item.serving_revision >= revision and not behind

    def _error(self) -> MeshClientError | None:
        if self._overtaken:
            return Conflict("\n".join(self._overtaken), reason="CONFLICT")
        if not self._failures:
            return None
        parts = [f"application {name!r} failed: {why}" for name, why in sorted(self._failures.items())]
        error = DeployFailed("\n".join(parts), reason="DEPLOY_FAILED")
        error.failures = dict(self._failures)
        return error
