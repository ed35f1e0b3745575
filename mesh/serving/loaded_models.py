"""Which models the caches of one replica hold, for its callers to be told.

Owns the list and who wants to know of changes. Pure. Written by `model_cache`, read by the replica's pipes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

TOLD_MAX = 1024
"""Models that callers are told of, those used last."""


class LoadedModels:
    """Ids of models, by the cache that holds them."""

    def __init__(self) -> None:
        self.changed: Callable[[], object] = _nobody
        """Called after each change."""
        self._held: dict[Hashable, tuple[str, ...]] = {}

    def set(self, cache: Hashable, model_ids: tuple[str, ...]) -> None:
        """Put what a cache holds now, those used last at the end."""
        if model_ids:
            self._held[cache] = model_ids
        else:
            self._held.pop(cache, None)
        self.changed()

    @property
    def model_ids(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(each for ids in self._held.values() for each in ids))[-TOLD_MAX:]


def _nobody() -> None:
    """Nobody wants to know."""
