"""Follows a change of the goal state until it has come true or failed.

Owns when a change counts as done, failed or overtaken, and the progress lines on the way. Pure: it is shown one
status after another. Called by the commands that wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mesh.cli.output import counted, enum_name
from mesh.errors import Conflict, DeployFailed, MeshError
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api


@dataclass(slots=True)
class Following:
    """Applications that shall run, each at a revision, and applications that shall be gone."""

    revisions: dict[str, int] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    states: dict[str, str] = field(default_factory=dict)
    """The last state seen of each application that is still awaited or was; GONE when there is none."""
    failures: dict[str, str] = field(default_factory=dict)
    _running: set[str] = field(default_factory=set)
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
        return sorted((self.revisions.keys() - decided) | self.leaving)

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
        if not self.failures:
            return None
        if len(self.failures) == 1:
            [(name, why)] = self.failures.items()
            return DeployFailed(f"application {name!r} failed\n{why}")
        parts = [f"{name}: {why}" for name, why in sorted(self.failures.items())]
        return DeployFailed("\n".join([f"{counted(len(parts), 'application')} failed", *parts]))

    def _leaves(self, name: str, item: pb.ApplicationStatus | None, behind: int) -> str:
        if item is not None:
            self.states[name] = _state(item)
            return f"being deleted, {_replicas_left(item)}"
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
            self.failures[name] = item.message
            return f"revision {revision} failed"
        if item.state == pb.APPLICATION_STATE_RUNNING and item.serving_revision >= revision:
            if behind:  # it is done when whoever asks the gateways next is answered by it
                return _waiting(behind)
            self._running.add(name)
            return f"revision {revision} is running"
        ready = ", ".join(f"{d.name} {d.ready_replicas}/{d.target_replicas} ready" for d in item.deployments)
        message = item.message.strip().rpartition("\n")[2]
        details = message or ready
        return f"revision {revision} {_state(item).lower()}" + (f": {details}" if details else "")


def _waiting(behind: int) -> str:
    return f"waiting for {counted(behind, 'gateway')}"


def _state(item: pb.ApplicationStatus) -> str:
    return enum_name(pb.ApplicationState.DESCRIPTOR, item.state)


def _replicas_left(item: pb.ApplicationStatus) -> str:
    return f"{counted(sum(len(deployment.replicas) for deployment in item.deployments), 'replica')} left"
