"""Waking those who wait for a change.

Owns one small primitive. Never carries data: who is woken looks at the state, so that many changes while it was
busy are one. Called by the shells of the control plane.
"""

from __future__ import annotations

import asyncio


class Bell:
    """Wakes all who wait, each time it rings.

    Take a `ticket` first, then look at the state, then wait on the ticket: no ring between is lost.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ticket(self) -> asyncio.Event:
        """Return an event that the next ring sets."""
        return self._event

    def ring(self) -> None:
        """Wake everybody who holds a ticket."""
        self._event.set()
        self._event = asyncio.Event()


async def wait_until(ticket: asyncio.Event, seconds: float | None) -> bool:
    """Wait for a ticket, at most `seconds` (None: for ever). Returns whether the bell rang."""
    try:
        async with asyncio.timeout(seconds):
            await ticket.wait()
    except TimeoutError:
        return False
    return True
