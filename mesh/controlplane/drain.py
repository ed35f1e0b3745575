"""Workers that are to be emptied: who they are, and whether what they run can go anywhere.

Owns that two wishes count the same: somebody asked for it (stored), or the worker's process was told to end (it says so
itself). Pure. Called by `reconcile`, `status` and `term`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from mesh.controlplane.placement import Placement
from mesh.controlplane.registry import Presence, Worker
from mesh.controlplane.rollout import is_ready
from mesh.model import Replica, WorkerGoal

GOAL_KEPT_S = 24 * 3600.0
"""Seconds after which what was asked of a worker that never came back is forgotten."""


def draining(goals: Mapping[str, WorkerGoal], workers: Mapping[str, Worker]) -> frozenset[str]:
    """Return the ids of the workers on which nothing new is placed and whose replicas go elsewhere."""
    asked = {worker_id for worker_id, goal in goals.items() if goal.draining}
    return frozenset(asked | {worker_id for worker_id, worker in workers.items() if worker.draining})


def cornered(
    draining: Collection[str], replicas: Iterable[Replica], withdrawn: Collection[str], placement: Placement
) -> frozenset[str]:
    """Return the workers among `draining` that have replicas of which none can be replaced elsewhere now.

    One whose replicas' stand-ins are still starting, or which waits for gateways, is not among them.
    """
    replicas = tuple(replicas)
    starting = {
        (r.application, r.deployment)
        for r in replicas
        if not r.stopping and not is_ready(r) and r.worker_id not in draining
    }
    found = set()
    for worker_id in sorted(draining) if not placement.has_room else ():
        here = [r for r in replicas if r.worker_id == worker_id]
        left = [r for r in here if not r.stopping]
        replaced = any((r.application, r.deployment) in starting for r in left)
        if left and not replaced and not any(r.replica_id in withdrawn for r in here):
            found.add(worker_id)
    return frozenset(found)


def outdated(
    goals: Mapping[str, WorkerGoal], workers: Mapping[str, Worker], grace_s: float, now: float
) -> tuple[str, ...]:
    """Return the ids of the workers that have been gone for so long that what was asked of them is forgotten."""
    return tuple(
        worker_id
        for worker_id in sorted(goals)
        if (worker := workers.get(worker_id)) is not None
        and worker.presence(now, grace_s) is Presence.LOST
        and not worker.session
        and now >= worker.last_seen + GOAL_KEPT_S
    )
