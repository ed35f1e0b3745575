"""Whether the store answers this instance.

Owns one small read that is repeated for as long as the process lives: who only waits for news from the store, as an
instance does that does not lead, would take its silence for peace. Decides nothing. Called by `server` and `api`.
"""

from __future__ import annotations

import asyncio
import logging

from mesh.clock import Clock
from mesh.controlplane.store import Store, StoreUnreachable
from mesh.errors import MeshError

LOOK_S = 1.0
"""Seconds between two reads."""
JITTER = 0.2
_KEY = "-"
"""Never written."""

log = logging.getLogger("mesh.controlplane")


class Availability:
    """What the last read of the store showed."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._trouble: StoreUnreachable | None = None

    @property
    def trouble(self) -> str:
        """Why the store cannot be used now, naming it; "" while it can."""
        return self._trouble.message if self._trouble is not None else ""

    def check(self) -> None:
        """Raise StoreUnreachable if the store cannot be used now."""
        if (known := self._trouble) is not None:
            raise StoreUnreachable(known.message, hint=known.hint)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(LOOK_S * (1.0 + JITTER * (self._clock.random() - 0.5)))

    async def _look(self) -> None:
        try:
            await self._store.get(_KEY)
        except StoreUnreachable as error:
            found = error
        except MeshError as error:
            found = StoreUnreachable(f"the store cannot be used: {error.message}", hint=error.hint)
        else:
            if self._trouble is not None:
                log.info("the store answers again")
            self._trouble = None
            return
        if self._trouble is None:
            log.warning("%s; what runs serves on", found.message)
        self._trouble = found
