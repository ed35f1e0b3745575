"""State that a decorated method keeps for each instance: never shared between instances, freed with them.

Owns where it is kept. Called by `batch` and `multiplexed`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

_ATTRIBUTE = "_mesh_state"
_S = TypeVar("_S")
_making = threading.Lock()


class _Held:
    """The states of one instance. A copy of the instance, which has it too, gets one of its own."""

    __slots__ = ("instance", "states")

    def __init__(self, instance: weakref.ref[Any] | None = None) -> None:
        self.instance = instance
        self.states: dict[Hashable, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _Held, ()


def state_of(instance: Any, of: Hashable, make: Callable[[], _S]) -> _S:
    """Return what `of` keeps for `instance`, made now if there is none. From any thread.

    Raises TypeError for an instance that cannot keep it.
    """
    try:
        held = instance.__dict__.get(_ATTRIBUTE)
        if held is not None and held.instance is not None and held.instance() is instance and of in held.states:
            state: _S = held.states[of]
            return state
        reference = weakref.ref(instance)
    except (AttributeError, TypeError):
        kind = type(instance).__name__
        raise TypeError(f"{kind} has __slots__: add '__dict__' and '__weakref__' to them, or leave them out") from None
    with _making:
        held = instance.__dict__.get(_ATTRIBUTE)
        if held is None or held.instance is None or held.instance() is not instance:
            held = instance.__dict__[_ATTRIBUTE] = _Held(reference)
        if of not in held.states:
            held.states[of] = make()
        made: _S = held.states[of]
    return made
