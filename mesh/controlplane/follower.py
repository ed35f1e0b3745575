"""Keeps a copy of the store current: the leader's for its term, and a standby's to answer from while nobody leads.

Owns the watch and what follows when it breaks. Never decides and never writes. Called by `loop`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from mesh.backoff import Backoff
from mesh.clock import Clock
from mesh.controlplane.mirror import Mirror
from mesh.controlplane.store import Compacted, Store
from mesh.errors import MeshError

PAUSES = Backoff(initial_s=0.05, max_s=2.0, floor=0.5)
"""Between attempts that the store did not answer."""

log = logging.getLogger("mesh.controlplane")


class Follower:
    """Follows one store. Whoever owns a mirror says which one is kept."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def mirror(self) -> Mirror:
        """Read all that is stored. Raises Unreachable."""
        return Mirror(await self._store.list(""))

    async def read_again(self, mirror: Mirror) -> None:
        """Bring a mirror up to now. Raises Unreachable."""
        unknown_outcomes = mirror.unknown_outcomes
        mirror.load(await self._store.list(""), unknown_outcomes)

    async def first(self) -> Mirror:
        """Read all that is stored, as soon as the store answers."""
        attempt = 0
        while True:
            try:
                return await self.mirror()
            except MeshError as error:
                log.log(logging.WARNING if attempt == 0 else logging.DEBUG, "the store cannot be read: %s", error)
            await asyncio.sleep(PAUSES.pause_s(attempt, self._clock.random))
            attempt += 1

    async def follow(self, mirror: Mirror, changed: Callable[[], None]) -> None:
        """Keep `mirror` current until cancelled. `changed` is called after each change."""
        attempt = 0
        after = mirror.listed
        while True:
            batches = self._store.watch("", after=after)
            try:
                async for batch in batches:
                    attempt, after = 0, batch.revision
                    if mirror.apply(batch):
                        changed()
            except Compacted:
                with contextlib.suppress(MeshError):
                    await self.read_again(mirror)
                    changed()
                    after = mirror.listed
            except MeshError as error:
                log.warning("the watch on the goal state broke: %s", error)
            finally:
                await batches.aclose()
            attempt += 1
            await asyncio.sleep(PAUSES.pause_s(attempt, self._clock.random))
