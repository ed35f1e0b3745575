"""Stores the leader's book of events.

Owns when it is written: soon after something happened, at most once a second, each log as one record. Writes are fenced
with the leadership; nothing waits for them, and what could not be stored is tried again. Called by `loop`.
"""

from __future__ import annotations

import asyncio
import logging

from mesh.clock import Clock
from mesh.controlplane.bell import wait_until
from mesh.controlplane.execute import parts
from mesh.controlplane.records import encode_events, events_key
from mesh.controlplane.store import Compare, Put, Remove, Store
from mesh.controlplane.term import Term
from mesh.errors import MeshError

WRITE_S = 1.0
"""Seconds between two writes."""
SWEEP_S = 60.0
"""Seconds between two looks for logs that are too old."""

log = logging.getLogger("mesh.controlplane")


class EventLog:
    """Keeps the store's logs as the book of one term is."""

    def __init__(self, store: Store, fence: Compare, term: Term, clock: Clock) -> None:
        self._store = store
        self._fence = fence
        self._term = term
        self._clock = clock

    async def run(self) -> None:
        """Write what is new until cancelled."""
        swept = 0.0
        while True:
            ticket = self._term.noted.ticket()
            if (now := self._clock.monotonic()) >= swept + SWEEP_S:
                swept = now
                self._term.chronicle.book.drop_old(self._term.mirror.applications, self._clock.wall())
            stored = await self.write()
            await asyncio.sleep(WRITE_S)
            if stored:
                await wait_until(ticket, SWEEP_S)

    async def write(self) -> bool:
        """Store the logs that changed. Returns whether that was done."""
        book = self._term.chronicle.book
        changed = book.take_changed()
        values = {events_key(name): encode_events(events) if events else None for name, events in changed.items()}
        left = dict(values)
        try:
            for part in parts(values):
                operations = [Remove(key) if value is None else Put(key, value) for key, value in part.items()]
                revision = await self._store.commit([self._fence], operations)
                self._term.mirror.committed(part, revision)
                for key in part:
                    del left[key]
        except MeshError as error:
            log.debug("events could not be stored: %s; trying again", error)
        finally:
            book.give_back(name for name in changed if events_key(name) in left)
        return not left
