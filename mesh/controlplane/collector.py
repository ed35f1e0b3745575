"""Removes packages that nothing names any more, and what broken uploads left.

Owns when to look and the order: what is old is chosen first and what is named is read then, so that a deploy in between
is seen, or has asked for its package and makes the removal fail. Runs in every instance, acts only where it leads.
Never decides what may go (`collection`). Called by `server`.
"""

from __future__ import annotations

import asyncio
import logging

from mesh.clock import Clock
from mesh.controlplane.collection import garbage, named_in, unasked
from mesh.controlplane.loop import Loop
from mesh.controlplane.package_store import PackageStore
from mesh.controlplane.store import Store
from mesh.errors import MeshError

LOOK_S = 60.0
"""Seconds between two looks."""
JITTER = 0.2
REMOVED_MAX = 20
"""Packages and uploads removed in one look, each: the rest waits for the next."""
NAMING = ("applications/", "history/")
"""Prefixes of the goal state under which packages are named."""

log = logging.getLogger("mesh.controlplane.collector")


class Collector:
    """Looks after the packages of one store."""

    def __init__(self, goal: Store, packages: PackageStore, clock: Clock, *, look_s: float = LOOK_S) -> None:
        self._goal = goal
        self._packages = packages
        self._clock = clock
        self._look_s = look_s

    async def run(self, loop: Loop) -> None:
        """Look again and again while this instance leads, until cancelled."""
        while True:
            await asyncio.sleep(self._look_s * (1.0 + JITTER * (self._clock.random() - 0.5)))
            if loop.term is None:
                continue
            try:
                await self.collect()
            except MeshError as error:
                log.info("packages are looked at again later: %s", error)

    async def collect(self) -> None:
        """Remove what may go now. Raises Unreachable, Conflict if something was asked for meanwhile, OutcomeUnknown."""
        records = await self._packages.records()
        named: set[str] = set()
        if unasked(records.packages, self._clock.wall()):
            for prefix in NAMING:
                named |= named_in(item.value for item in (await self._goal.list(prefix)).items)
        found = garbage(records.packages, records.uploads, named, self._clock.wall())
        for digest in found.packages[:REMOVED_MAX]:
            await self._packages.remove(digest, records)
            log.info("a package that nothing names is removed", extra={"digest": digest})
        if found.packages:
            records = await self._packages.records()
        swept = garbage(records.packages, records.uploads, named, self._clock.wall()).uploads
        for upload_id in swept[:REMOVED_MAX]:
            await self._packages.sweep(records.upload(upload_id))
