"""Which worker a replica goes to.

Owns the choice and the count of room within one pass. Spreads the replicas of a deployment over workers first,
then evens out how full they are; ties break by id, so that the same state gives the same answer. Pure. Called by
`reconcile` and `status`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from mesh.controlplane.registry import Worker
from mesh.model import Replica, ReplicaState
from mesh.reasons import Reason

NO_WORKER = "no worker has room: no worker is connected"


class Placement:
    """Room on the connected workers; each choice takes some of it."""

    def __init__(self, workers: Iterable[Worker], replicas: Iterable[Replica], draining: Collection[str] = ()) -> None:
        """Count what `replicas`, stopping ones included and with their current status, take of connected workers.

        Nothing is placed on the workers whose ids are in `draining`.
        """
        self._workers = sorted((w for w in workers if w.session), key=lambda w: w.worker_id)
        self._open = [w for w in self._workers if not w.leaving and w.worker_id not in draining]
        self._taken: Counter[str] = Counter()
        self._of_deployment: Counter[tuple[str, str, str]] = Counter()
        for replica in replicas:
            self._taken[replica.worker_id] += 1
            if not replica.stopping:
                self._of_deployment[replica.worker_id, replica.application, replica.deployment] += 1
        self.was_full = self.is_full
        """Whether workers were there and none of them had room, before anything was chosen."""

    def choose(self, application: str, deployment: str) -> str | None:
        """Take room for one replica and return the worker's id; None if no worker has room."""
        with_room = [w for w in self._open if self._taken[w.worker_id] < w.resources.max_replicas]
        if not with_room:
            return None

        def cost(worker: Worker) -> tuple[int, float, str]:
            same = self._of_deployment[worker.worker_id, application, deployment]
            return same, self._taken[worker.worker_id] / worker.resources.max_replicas, worker.worker_id

        chosen = min(with_room, key=cost).worker_id
        self._taken[chosen] += 1
        self._of_deployment[chosen, application, deployment] += 1
        return chosen

    @property
    def has_room(self) -> bool:
        """Whether a replica could be placed now."""
        return any(self._taken[w.worker_id] < w.resources.max_replicas for w in self._open)

    @property
    def is_full(self) -> bool:
        """Whether workers are there and none of them has room."""
        return bool(self._open) and not self.has_room

    @property
    def obstacle(self) -> Reason:
        """Why nothing can be placed now, in one word; UNSPECIFIED if something can."""
        if not self._open:
            return Reason.NO_WORKER
        return Reason.WAITING_FOR_ROOM if self.is_full else Reason.UNSPECIFIED

    def shortage(self) -> str:
        """Return why nothing can be placed now, or ""."""
        if not self._workers:
            return NO_WORKER
        if not self._open:
            return f"no worker has room: all {len(self._workers)} are draining"
        if self.is_full:
            full = ", ".join(f"{w.worker_id} runs {self._taken[w.worker_id]}" for w in self._open[:3])
            more = ", ..." if len(self._open) > 3 else ""
            return f"no worker has room: {full}{more} and may run no more"
        return ""


def ends_unasked(replica: Replica) -> bool:
    """Whether a replica drains or has stopped without an order: its process, or its worker, was told to end."""
    return not replica.stopping and replica.status.state in (ReplicaState.DRAINING, ReplicaState.STOPPED)
