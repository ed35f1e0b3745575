"""`@mesh.multiplexed`: a loader of models by id, of which each instance holds the last few.

Owns the decorator, and which model the current request is for. What is held is decided in `models`, and done in
`model_cache`, which is loaded at the first call. Used by user code.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from mesh.errors import InvalidConfig, Problem
from mesh.serving import current_request
from mesh.serving.per_instance import state_of

if TYPE_CHECKING:
    from mesh.serving.model_cache import ModelCache

MODELS_MAX = 100_000
UNLIMITED = -1
Function = Callable[..., Any]
_F = TypeVar("_F", bound=Function)


class Multiplexed:
    """A loader, or a loading method as its class has it. Made by `@mesh.multiplexed`."""

    def __init__(self, function: Function, limit: int | None) -> None:
        """Raises InvalidConfig if `function` cannot load models."""
        _check(function)
        functools.update_wrapper(self, function)
        self.function = function
        self.limit = limit
        self.name = function.__qualname__
        self.unloader: Function | None = None
        self._of_class = False
        self._own: ModelCache | None = None
        """The models of a function that is no method."""

    def unload(self, function: _F) -> _F:
        """Decorate what unloads a model, in place of its `aclose` or `close`: it is given the id and the model."""
        self.unloader = function
        return function

    def __set_name__(self, owner: type, name: str) -> None:
        self._of_class = True

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return functools.partial(state_of(instance, self, lambda: self._cache(instance)).get, instance)

    def __call__(self, *args: Any) -> Any:
        """Return the model of an id; see `multiplexed`."""
        if self._of_class:  # Class.method(instance, model_id)
            return self.__get__(args[0])(*args[1:])
        if self._own is None:
            self._own = self._cache(None)
        return self._own.get(None, *args)

    def _cache(self, instance: Any) -> ModelCache:
        from mesh.serving.model_cache import ModelCache

        return ModelCache(self, instance)


@overload
def multiplexed(function: Function, /) -> Multiplexed: ...
@overload
def multiplexed(
    *, max_models_per_replica: int = 3, max_num_models_per_replica: int | None = None
) -> Callable[[Function], Multiplexed]: ...
def multiplexed(
    function: Function | None = None,
    /,
    *,
    max_models_per_replica: int = 3,
    max_num_models_per_replica: int | None = None,
) -> Multiplexed | Callable[[Function], Multiplexed]:
    """Keep what a loader returns, by the id of the model that it is called with.

    A call returns the model that is held, or loads it; calls for one id share one load, and what a load raises is
    raised for each of them and not kept. Each instance holds `max_models_per_replica` models at most (-1: no limit;
    `max_num_models_per_replica` is the same): the one used longest ago makes room, but never one that a running
    request was given. A model is unloaded by what `unload` decorates, else by its `aclose()` or `close()`. Async code
    awaits the call; sync code of a request gets the model itself. Raises InvalidConfig.
    """
    given: object = max_models_per_replica if max_num_models_per_replica is None else max_num_models_per_replica
    if isinstance(given, bool) or not isinstance(given, int) or not (given == UNLIMITED or 1 <= given <= MODELS_MAX):
        text = f"must be a whole number from 1 to {MODELS_MAX}, or -1, not {str(given)[:40]}"
        raise InvalidConfig((Problem("max_models_per_replica", text),))
    limit = None if given == UNLIMITED else given
    if function is not None:
        return Multiplexed(function, limit)
    return lambda function: Multiplexed(function, limit)


def get_multiplexed_model_id() -> str:
    """Return the id of the model that the current request is for; "" if it names none."""
    request = current_request.current()
    return request.model_id if request is not None else ""


def _check(function: Any) -> None:
    if not inspect.isfunction(function):
        text = f"@mesh.multiplexed is for a function or method, not {type(function).__name__}"
        raise InvalidConfig((Problem("", text),))
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidConfig((Problem("", f"{function.__qualname__} loads models: it returns one and yields none"),))
    if len(inspect.signature(function).parameters) not in (1, 2):
        text = f"{function.__qualname__} loads models: it takes the model's id, and self if it is a method"
        raise InvalidConfig((Problem("", text),))
