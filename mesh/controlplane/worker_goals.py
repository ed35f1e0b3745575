"""What people ask of workers: drain one, or take that back.

Owns the read, check, commit cycle, fenced and repeated when somebody else was faster. Decides nothing that follows from
it (`reconcile` does). Called by `api` on the leading instance only.
"""

from __future__ import annotations

import asyncio
import logging

from mesh.backoff import Backoff
from mesh.clock import Clock
from mesh.controlplane.leader import Leadership
from mesh.controlplane.records import encode_worker, worker_key
from mesh.controlplane.store import Compare, OutcomeUnknown, Put, Remove, Store
from mesh.controlplane.term import Term
from mesh.errors import Conflict, NotFound, Unreachable
from mesh.model import WorkerGoal
from mesh.serving.options import nearest, shown

ATTEMPTS_MAX = 5
_PAUSES = Backoff(initial_s=0.02, max_s=0.5)

log = logging.getLogger("mesh.controlplane.goal")


class WorkerGoals:
    """Changes what is asked of workers. The same wish twice changes nothing."""

    def __init__(self, store: Store, leadership: Leadership, clock: Clock) -> None:
        self._store = store
        self._leadership = leadership
        self._clock = clock

    async def drain(self, term: Term, worker_id: str, *, undo: bool) -> None:
        """Empty a worker, or let it take replicas again. Raises NotFound, Conflict, Unreachable, OutcomeUnknown."""
        workers = term.registry.workers
        if worker_id not in workers and worker_id not in term.mirror.workers:
            hint = nearest(worker_id, sorted(workers)) if workers else "there is none"
            raise NotFound(f"there is no worker {shown(worker_id)}; {hint}", hint="meshctl workers lists them")
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await asyncio.sleep(_PAUSES.pause_s(attempt, self._clock.random))
            try:
                await self._store_once(term, worker_id, undo=undo)
            except (Conflict, OutcomeUnknown) as error:
                log.debug("what is asked of worker %s was not stored: %s; looking again", worker_id, error)
                if attempt == ATTEMPTS_MAX - 1:
                    raise
            else:
                return

    async def _store_once(self, term: Term, worker_id: str, *, undo: bool) -> None:
        key = worker_key(worker_id)
        item = await self._store.get(key)
        if (item is None) == undo:
            return
        if not self._leadership.is_leader:
            raise Unreachable("leadership moved meanwhile", hint="repeat the command")
        goal = WorkerGoal(worker_id, draining=True, asked_at=self._clock.wall())
        value = None if undo else encode_worker(goal)
        compares = (self._leadership.fence(), Compare(key, item.revision if item is not None else 0))
        revision = await self._store.commit(compares, (Remove(key) if value is None else Put(key, value),))
        log.info("worker is drained no more" if undo else "worker is to be drained", extra={"worker": worker_id})
        term.mirror.committed({key: value}, revision)
        term.changed.ring()
