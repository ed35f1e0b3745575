"""The links of one dispatcher: those that calls go to, and those that end with their last call.

Owns the tasks that keep them connected. Decides nothing. Called by `dispatch`.
"""

from __future__ import annotations

import asyncio

from mesh.lifecycle import Tasks
from mesh.pipe.link import Link


class Links(dict[str, Link]):
    """By replica id: those that calls go to."""

    def __init__(self, tasks: Tasks) -> None:
        super().__init__()
        self.running: dict[Link, asyncio.Task[None]] = {}
        """All that are connected, or will be."""
        self.run_out = False
        """There will be no others: one that refuses or is lost does not come back."""
        self._tasks = tasks

    def add(self, link: Link) -> None:
        """Begin to connect."""
        self[link.replica_id] = link
        self.running[link] = self._tasks.spawn(link.run(), name=f"pipe {link.replica_id}")

    def leave(self, link: Link) -> None:
        """Send it nothing new; what is on it may end."""
        link.retiring = True
        if self.get(link.replica_id) is link:
            del self[link.replica_id]

    def refused(self, link: Link) -> None:
        """It drains."""
        link.draining = True
        if self.run_out:
            self.leave(link)

    def lost(self, link: Link) -> None:
        """Its pipe broke, or could not be opened."""
        if self.run_out:
            self.leave(link)
        if link.retiring:
            self.running.pop(link, None)

    def ended(self, link: Link) -> None:
        """A call on it is over; if it was the last one of a link that left, so is this."""
        if link.retiring and not link.in_flight and (task := self.running.pop(link, None)) is not None:
            task.cancel()
