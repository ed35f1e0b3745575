"""Follows a change of the goal state until it has come true or failed.

Owns when a change counts as done, failed or overtaken, and the progress lines on the way. Pure: it is shown one
status after another. Called by the commands that wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh import wire
from mesh.cli.output import counted, enum_name
from mesh.errors import Conflict, DeployFailed, MeshError
from mesh.model import Failure
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api

NO_ENDS: Mapping[str, str] = MappingProxyType({})


class ApplicationsFailed(DeployFailed):
    """Applications that were changed failed; `failures` has the reason of each by name.

    `ends` tells what became of those for which an earlier revision serves on.
    """

    def __init__(self, failures: Mapping[str, Failure], ends: Mapping[str, str] = NO_ENDS) -> None:
        parts = [f"application {name!r} failed: {failure.message}" for name, failure in sorted(failures.items())]
        super().__init__("\n".join(parts))
        self.failures = dict(failures)
        self.ends = dict(ends)
        self.places: dict[str, str] = {}
        """FILE:LINE:COLUMN: FIELD of what is to blame, where a config file is known."""

    @property
    def rolled_back(self) -> bool:
        """Whether of each an earlier revision serves on."""
        return self.failures.keys() <= self.ends.keys()


def under_way(status: api.Status, revisions: Mapping[str, int]) -> dict[str, int]:
    """Return those of `revisions`, by application, that are still on their way."""
    return {
        item.name: item.revision
        for item in status.applications
        if revisions.get(item.name) == item.revision
        and not item.paused
        and (item.leaving or item.state == pb.APPLICATION_STATE_DEPLOYING)
    }


@dataclass(slots=True)
class Following:
    """Applications that shall run, each at a revision, and applications that shall be gone."""

    revisions: dict[str, int] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    states: dict[str, str] = field(default_factory=dict)
    """The last state seen of each application that is still awaited or was; GONE when there is none."""
    failures: dict[str, Failure] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    """What became of those that failed while an earlier revision serves on."""
    _running: set[str] = field(default_factory=set)
    _kept: set[str] = field(default_factory=set)
    _overtaken: dict[str, str] = field(default_factory=dict)
    _said: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, applied: Iterable[api.AppliedApplication]) -> Following:
        """Return what to follow after an apply."""
        following = cls()
        for item in applied:
            if item.change == api.CHANGE_DELETED:
                following.leaving.add(item.name)
            else:
                following.revisions[item.name] = item.revision
        return following

    @property
    def awaited(self) -> list[str]:
        """Names of the applications whose end is open."""
        decided = self._running | self.failures.keys() | self._overtaken.keys()
        return sorted(self.revisions.keys() - decided) + sorted(self.leaving - self._kept)

    def take(self, status: api.Status) -> list[str]:
        """Note a newer status and return the progress lines it is worth."""
        found = {item.name: item for item in status.applications}
        lines = []
        for name in self.awaited:
            item = found.get(name)
            if name in self.leaving:
                line = self._leaves(name, item, status.gateways_behind)
            elif item is None:
                line = self._missing(name)
            else:
                line = self._comes(name, item, status.gateways_behind)
            if line and self._said.get(name) != line:
                self._said[name] = line
                lines.append(f"{name}: {line}")
        return lines

    def error(self) -> MeshError | None:
        """Return what went wrong with the applications so far, as one error; None if nothing did."""
        if self._overtaken:
            text = "\n".join(self._overtaken.values())
            return Conflict(text, hint="see meshctl status, then deploy again")
        return ApplicationsFailed(self.failures, self.ends) if self.failures else None

    def _leaves(self, name: str, item: pb.ApplicationStatus | None, behind: int) -> str:
        if item is not None:
            before, self.states[name] = self.states.get(name), _state(item)
            if item.state == pb.APPLICATION_STATE_DELETING:
                return f"being deleted, {_replicas_left(item)}"
            if item.leaving:
                return item.message
            if before == "DELETING":
                self._kept.add(name)
                self._overtaken[name] = f"application {name!r} was deployed by somebody else meanwhile"
            elif self.failures or self._overtaken:
                self._kept.add(name)
                return "not deleted, because the deploy failed"
            return ""
        if behind:
            return _waiting(behind)
        self.states[name] = "GONE"
        self.leaving.discard(name)
        return "deleted"

    def _missing(self, name: str) -> str:
        if name in self.states:
            self._overtaken[name] = f"application {name!r} was deleted by somebody else meanwhile"
        return ""

    def _comes(self, name: str, item: pb.ApplicationStatus, behind: int) -> str:
        revision = self.revisions[name]
        if item.revision < revision:
            return ""
        self.states[name] = _state(item)
        if item.revision > revision:
            self._overtaken[name] = f"application {name!r} was changed by somebody else meanwhile"
            return ""
        if item.state == pb.APPLICATION_STATE_DEPLOY_FAILED:
            self.failures[name] = wire.from_proto(item.failure, Failure)
            if not item.serving_revision:
                return f"revision {revision} failed{' and is held' if item.held else ''}"
            end = "is held beside" if item.held else "was rolled back to"
            self.ends[name] = f"revision {revision} failed and {end} revision {item.serving_revision}"
            return self.ends[name]
        if item.state == pb.APPLICATION_STATE_RUNNING and item.serving_revision >= revision:
            if behind:  # it is done when whoever asks the gateways next is answered by it
                return _waiting(behind)
            self._running.add(name)
            return f"revision {revision} is running"
        ready = ", ".join(f"{d.name} {d.ready_replicas}/{d.target_replicas} ready" for d in item.deployments)
        details = item.message or ready
        return f"revision {revision} {_state(item).lower()}" + (f": {details}" if details else "")


def _waiting(behind: int) -> str:
    return f"waiting for {counted(behind, 'gateway')}"


def _state(item: pb.ApplicationStatus) -> str:
    return enum_name(pb.ApplicationState.DESCRIPTOR, item.state)


def _replicas_left(item: pb.ApplicationStatus) -> str:
    return f"{counted(sum(len(deployment.replicas) for deployment in item.deployments), 'replica')} left"
