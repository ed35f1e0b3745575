"""Which backends have which models, for calls that name one.

Owns what backends told, and what is to be expected of them: one that was just sent a call for a model will have it
soon. Knows nothing of load (`balance`). Pure. Called by `dispatch`, for calls that name a model only.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Generic, TypeVar

from mesh.serving.model_id import MODEL_ID_CHARS_MAX

TOLD_MAX = 1024
"""Models that are believed of one backend, those told last."""
EXPECTED_MAX = 64
"""Models that are expected of one backend, those sent last."""

_B = TypeVar("_B", bound=Hashable)


class Affinity(Generic[_B]):
    """Backends by model. Bounded by the number of backends, whatever ids callers make up."""

    def __init__(self) -> None:
        self._having: dict[str, dict[_B, None]] = {}
        self._told: dict[_B, frozenset[str]] = {}
        self._expected: dict[_B, dict[str, None]] = {}

    def __repr__(self) -> str:
        return f"<Affinity {len(self._having)} models on {len(self._told)} backends>"

    def having(self, model_id: str) -> Collection[_B]:
        """Return the backends that have a model, or will."""
        return self._having.get(model_id, {})

    def count(self, backend: _B) -> int:
        """Return how many models a backend has, or will."""
        return len(self._told.get(backend, ())) + len(self._expected.get(backend, ()))

    def told(self, backend: _B, model_ids: Iterable[str]) -> None:
        """A backend told which models it has now."""
        now = frozenset([each for each in model_ids if len(each) <= MODEL_ID_CHARS_MAX][-TOLD_MAX:])
        before = self._told.get(backend, frozenset())
        self._told[backend] = now
        expected = self._expected.get(backend, {})
        for model_id in now:
            expected.pop(model_id, None)
            self._having.setdefault(model_id, {})[backend] = None
        for model_id in before - now:
            self._remove(backend, model_id)

    def sent(self, backend: _B, model_id: str) -> None:
        """A call for a model was sent to a backend: it loads the model if it does not have it."""
        if model_id in self._told.get(backend, ()):
            return
        expected = self._expected.setdefault(backend, {})
        expected.pop(model_id, None)
        expected[model_id] = None
        self._having.setdefault(model_id, {})[backend] = None
        if len(expected) > EXPECTED_MAX:
            oldest = next(iter(expected))
            del expected[oldest]
            self._remove(backend, oldest)

    def forget(self, backend: _B) -> None:
        """A backend is gone, or will tell anew."""
        for model_id in (*self._told.pop(backend, ()), *self._expected.pop(backend, ())):
            self._remove(backend, model_id)

    def _remove(self, backend: _B, model_id: str) -> None:
        having = self._having.get(model_id)
        if having is not None:
            having.pop(backend, None)
            if not having:
                del self._having[model_id]
