"""The placements as they are seen now: what is stored of each replica, with what its worker says of it.

Owns that a replica is the same object for as long as nothing is said of it, so that what follows from it need not be
derived again, and which applications are as they should be. Pure. Kept by `term`; asked by `reconcile`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import is_

from mesh.controlplane.memo import Memo
from mesh.controlplane.registry import Worker, current_status, differs
from mesh.controlplane.rollout import is_at_rest
from mesh.model import Application, Replica


class Sight:
    """What was seen last. One that is new answers the same, at more cost."""

    def __init__(self) -> None:
        self._seen: dict[str, Replica] = {}
        self._unsaved: dict[str, Replica] = {}
        self._stored: Mapping[str, Replica] = {}
        self._reports: Mapping[str, object] = {}
        self._groups = Groups()
        self._at_rest: Memo[bool] = Memo()

    def seen(self, replicas: Mapping[str, Replica], workers: Mapping[str, Worker]) -> dict[str, Replica]:
        """Return the placements in the order of their ids, each with what is known of it. It is not to be changed."""
        reports = {worker_id: worker.reports for worker_id, worker in workers.items() if worker.heard}
        if self._stored is replicas and _same(self._reports, reports):
            return self._seen
        before, stored, unsaved = self._seen, self._stored, self._unsaved
        found: dict[str, Replica] = {}
        left: dict[str, Replica] = {}
        for replica_id, replica in sorted(replicas.items()):
            status = current_status(replica, workers.get(replica.worker_id))
            known = before.get(replica_id)
            if known is None or stored[replica_id] is not replica:
                known = replica if status is replica.status else replace(replica, status=status)
                if differs(replica.status, status):
                    left[replica_id] = known
            elif known.status is not status and known.status != status:
                known = replace(replica, status=status)
                if differs(replica.status, status):
                    left[replica_id] = known
            elif replica_id in unsaved:
                left[replica_id] = known
            found[replica_id] = known
        self._seen, self._unsaved, self._stored, self._reports = found, left, replicas, reports
        return found

    def unsaved(self, replicas: Mapping[str, Replica], workers: Mapping[str, Worker]) -> dict[str, Replica]:
        """Return those of `seen` of which more is known than is stored, and is worth it."""
        self.seen(replicas, workers)
        return self._unsaved

    def by_application(
        self, replicas: Mapping[str, Replica], workers: Mapping[str, Worker]
    ) -> Mapping[str, tuple[Replica, ...]]:
        """Return what `seen` does, by application."""
        return self._groups.of(self.seen(replicas, workers))

    def at_rest(self, application: Application, replicas: Sequence[Replica]) -> bool:
        """Whether an application is as it should be, whatever the time is."""
        inputs = (application, replicas)
        return self._at_rest.get(application.config.name, inputs, lambda: is_at_rest(application, replicas))

    def keep(self, applications: Mapping[str, Application]) -> None:
        """Forget applications that are gone."""
        self._at_rest.keep(applications)


def _same(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return one.keys() == other.keys() and all(value is other[key] for key, value in one.items())


class Groups:
    """Replicas by application. A group is the same tuple for as long as it has the same replicas."""

    def __init__(self) -> None:
        self._replicas: Mapping[str, Replica] = {}
        self._groups: Mapping[str, tuple[Replica, ...]] = {}

    def of(self, replicas: Mapping[str, Replica]) -> Mapping[str, tuple[Replica, ...]]:
        """Return the replicas of each application that has any, in the order that they come in."""
        if replicas is not self._replicas:
            before, found = self._groups, by_application(replicas)
            self._groups = {name: _kept(before.get(name, ()), group) for name, group in found.items()}
            self._replicas = replicas
        return self._groups


def by_application(replicas: Mapping[str, Replica]) -> Mapping[str, Sequence[Replica]]:
    """Return the replicas of each application that has any, in the order that they come in."""
    grouped: dict[str, list[Replica]] = {}
    for replica in replicas.values():
        grouped.setdefault(replica.application, []).append(replica)
    return grouped


def _kept(before: tuple[Replica, ...], now: Sequence[Replica]) -> tuple[Replica, ...]:
    return before if len(before) == len(now) and all(map(is_, before, now)) else tuple(now)
