"""Time and chance: the one place of this package that takes them from the system.

Owns nothing else. Decisions get `now` and draws as arguments; tests give the shells a `Clock` of their own.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid


class Clock:
    """The system's."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def unix(self) -> float:
        """Return Unix time in seconds."""
        return time.time()

    def random(self) -> float:
        """Draw from [0, 1)."""
        return random.random()

    def token(self) -> str:
        """Return a text that nobody else has."""
        return uuid.uuid4().hex

    def sleep(self, seconds: float) -> None:
        """Wait, in a thread."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Wait, on an event loop."""
        await asyncio.sleep(seconds)


SYSTEM = Clock()
