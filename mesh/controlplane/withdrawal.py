"""When a replica that is to stop may be told so: once nobody sends it anything.

Owns which replicas have left the snapshot, at which generation, and the bounds of the wait for gateways to say that
they route by it. A gateway that hangs is waited for a short time only; one that is gone does not count. Either way a
replica that drains refuses what still comes, and its caller sends that elsewhere. Owns the order in which the replicas
of an application stop, too: callers first. Pure. Called by `term` at each publish.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mesh.controlplane.rollout import is_ready
from mesh.model import Generation, Replica, ReplicaState

CONFIRM_S = 5.0
"""Seconds for gateways to confirm that they route by a snapshot without the replica."""


def called(replicas: Collection[Replica]) -> frozenset[str]:
    """Return those that are to stop, and that replicas which finish what they run may still call.

    Their callers are replicas of the same application that are to stop as well, of deployments less deep. The least
    deep wait for nobody, so that all end, each depth within the time that workers give it. Where other replicas of a
    deployment stay, calls go to these.
    """
    stopping = [replica for replica in replicas if replica.stopping]
    if not any(replica.depth for replica in stopping):
        return frozenset()
    least: dict[str, int] = {}
    for each in stopping:
        if each.status.state in (ReplicaState.READY, ReplicaState.DRAINING):
            least[each.application] = min(each.depth, least.get(each.application, each.depth))
    staying = {(each.application, each.deployment) for each in replicas if is_ready(each)}
    return frozenset(
        each.replica_id
        for each in stopping
        if each.status.state is ReplicaState.READY
        and each.depth > least[each.application]
        and (each.application, each.deployment) not in staying
    )


@dataclass(frozen=True, slots=True)
class _Left:
    """The generation without the replica, and since when it is there: monotonic seconds."""

    generation: Generation
    since: float


class Withdrawals:
    """Replicas that are no endpoints any more and have not been told to stop. One leader's term."""

    def __init__(self, settled_at: float = 0.0) -> None:
        """`settled_at`: monotonic time from which all gateways count as connected that are there at all."""
        self._settled_at = settled_at
        self._left: dict[str, _Left] = {}

    def __len__(self) -> int:
        return len(self._left)

    def note(self, stopping: Iterable[str], generation: Generation, now: float) -> None:
        """Take the ids of all replicas that are to stop; the snapshot of `generation` has none of them."""
        self._left = {replica_id: self._left.get(replica_id) or _Left(generation, now) for replica_id in stopping}

    def held(self, serving: Collection[Generation], now: float) -> frozenset[str]:
        """Return those that are to run on. `serving` is what each connected gateway routes by."""
        oldest = min(serving, default=None)
        return frozenset(
            replica_id
            for replica_id, left in self._left.items()
            if now < left.since + CONFIRM_S
            and (now < self._settled_at or (oldest is not None and oldest < left.generation))
        )

    def due(self, now: float) -> float | None:
        """Return when the mere passing of time will release one; None if only gateways can."""
        times = [left.since + CONFIRM_S for left in self._left.values()]
        if self._left:
            times.append(self._settled_at)
        return min((at for at in times if at > now), default=None)
