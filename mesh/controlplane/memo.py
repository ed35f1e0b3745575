"""What was derived before from the very same values, so that a look at everything costs what has changed.

Owns the comparison: values here never change, so an input that is the same object has the same meaning. A memo changes
no answer, only what it costs; without one everything is derived anew. Pure. Kept by `term`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from operator import is_
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Memo(Generic[_T]):
    """One derived value for each name, made again when one of its inputs is another object than before."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Sequence[object], _T]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: str, inputs: Sequence[object], make: Callable[[], _T]) -> _T:
        """Return what `make` gave for these inputs, all that it looks at, or let it make it."""
        kept = self._kept.get(name)
        if kept is not None and len(kept[0]) == len(inputs) and all(map(is_, kept[0], inputs)):
            return kept[1]
        value = make()
        self._kept[name] = (inputs, value)
        return value

    def keep(self, names: Container[str]) -> None:
        """Forget all but these names."""
        for name in [name for name in self._kept if name not in names]:
            del self._kept[name]
