"""Values within values: finds what stands inside the arguments of `bind` or of a call, and puts other things there.

Owns which containers are looked into: lists, tuples, dicts, sets and dataclasses, at any depth. Pure. Called by
`deployment` (bound deployments become handles) and by `handle` (responses become what they are responses of).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

DEPTH_MAX = 100


class TooDeep(ValueError):
    """The value is nested too deep, or contains itself."""


def found(value: Any, kind: type | tuple[type, ...], depth: int = 0) -> Iterator[Any]:
    """Yield each instance of `kind` in `value`, in order, as often as it stands there. Raises TooDeep."""
    if isinstance(value, kind):
        yield value
        return
    if depth > DEPTH_MAX:
        raise TooDeep(f"nested more than {DEPTH_MAX} deep, or containing itself")
    for inner in _inside(value):
        yield from found(inner, kind, depth + 1)


def replaced(value: Any, kind: type | tuple[type, ...], by: Callable[[Any], Any]) -> Any:
    """Return `value` with `by(each)` in the place of each instance of `kind`; what has none in it is left as it is."""
    if isinstance(value, kind):
        return by(value)
    inside = _inside(value)
    if not inside:
        return value
    new = [replaced(inner, kind, by) for inner in inside]
    if all(a is b for a, b in zip(inside, new, strict=True)):
        return value
    if isinstance(value, dict):
        changed = copy.copy(value)
        changed.clear()
        half = len(new) // 2
        changed.update(zip(new[:half], new[half:], strict=True))
        return changed
    if isinstance(value, tuple):
        return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    if isinstance(value, (list, set, frozenset)):
        return type(value)(new)
    other = copy.copy(value)
    for field, each in zip(dataclasses.fields(value), new, strict=True):
        object.__setattr__(other, field.name, each)
    return other


def _inside(value: Any) -> tuple[Any, ...]:
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(getattr(value, field.name, None) for field in dataclasses.fields(value))
    return ()
