"""Which models the caches of one replica hold, for its callers to be told.

Owns the list and who wants to know of changes. Pure. Written by `model_cache`, read by the replica's pipes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable

TOLD_MAX = 1024
"""Models that callers are told of, those used last."""


class LoadedModels:
    """Ids of models, by the cache that holds them."""

    def __init__(self) -> None:
        self.changed: Callable[[], object] = _nobody
        """Called after each change."""
        self._held: dict[Hashable, tuple[str, ...]] = {}
        self._caches: dict[Hashable, Callable[[], Awaitable[None]]] = {}

    def add(self, cache: Hashable, unload_all: Callable[[], Awaitable[None]]) -> None:
        """Let a cache unload what it holds when the replica ends."""
        self._caches[cache] = unload_all

    def remove(self, cache: Hashable) -> None:
        """Forget a cache that is gone."""
        self._caches.pop(cache, None)
        self.set(cache, ())

    async def unload_all(self) -> None:
        """Unload all models: the replica ends, and no request runs any more."""
        for unload_all in list(self._caches.values()):
            await unload_all()

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
