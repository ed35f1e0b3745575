"""`@mesh.batch`: calls of a function or method, one item each, run together as one call with lists.

Owns the decorator: what may be decorated, and how arguments become items. When a batch goes is decided in `batching`,
and done in `batch_queue`, which is loaded at the first call. Used by user code.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from mesh.errors import InvalidConfig, Problem
from mesh.serving.batching import BatchLimits
from mesh.serving.per_instance import state_of

if TYPE_CHECKING:
    from mesh.serving.batch_queue import BatchQueue

Function = Callable[..., Any]
_KINDS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Batched:
    """A batched function, or a batched method as its class has it. Made by `@mesh.batch`."""

    is_batched = True

    def __init__(self, function: Function, limits: BatchLimits) -> None:
        """Raises InvalidConfig if `function` cannot be batched."""
        self._parameters = _parameters(function)
        functools.update_wrapper(self, function)
        self.function = function
        self.limits = limits
        self.name = function.__qualname__
        self.is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        self.streams = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
        self.context = contextvars.copy_context()
        """What a batch runs in: that of no request, for it serves several."""
        self._of_class = False
        self._own: BatchQueue | None = None
        """The queue of a function that is no method."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._of_class = True

    def __get__(self, instance: Any, owner: type | None = None) -> Batched | BatchedCall:
        if instance is None:
            return self
        return BatchedCall(self, state_of(instance, self, self.queue), instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Let one item wait for its batch; see `batch`."""
        if self._of_class:  # Class.method(instance, item)
            return self.__get__(args[0])(*args[1:], **kwargs)
        return self.call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in _SETTERS and not self._of_class:
            return getattr(self.call, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def call(self) -> BatchedCall:
        """A function that is no method, with its queue."""
        if self._own is None:
            self._own = self.queue()
        return BatchedCall(self, self._own, None)

    def queue(self) -> BatchQueue:
        """Return a new queue."""
        from mesh.serving.batch_queue import BatchQueue

        return BatchQueue(self)

    def values(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, bound: bool) -> tuple[Any, ...]:
        """Return one value for each parameter. Raises TypeError, as a call with these arguments would."""
        parameters = self._parameters[1:] if bound else self._parameters
        if not kwargs and len(args) == len(parameters):
            return args
        # What has a default is asked for too: a default is one for the list.
        signature = inspect.Signature([p.replace(default=inspect.Parameter.empty) for p in parameters])
        return tuple(signature.bind(*args, **kwargs).arguments.values())


class BatchedCall:
    """A batched function with its queue: what is called. Changes of its limits are in force at once."""

    __slots__ = ("__wrapped__", "_batched", "_instance", "_queue")

    is_batched = True

    def __init__(self, batched: Batched, queue: BatchQueue, instance: Any) -> None:
        self._batched = batched
        self._queue = queue
        self._instance = instance
        self.__wrapped__ = batched.function if instance is None else batched.function.__get__(instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Let one item wait for its batch; see `batch`."""
        values = self._batched.values(args, kwargs, bound=self._instance is not None)
        return self._queue.call(self.__wrapped__, values)

    def __repr__(self) -> str:
        return f"<batched {self._batched.name}>"

    @property
    def limits(self) -> BatchLimits:
        """The limits in force."""
        return self._queue.limits

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Change how many items a batch has at most, for those that wait as well. Raises InvalidConfig."""
        self._queue.change(max_batch_size=max_batch_size)

    def set_batch_wait_timeout_s(self, batch_wait_timeout_s: float) -> None:
        """Change for how many seconds the first item of a batch waits at most. Raises InvalidConfig."""
        self._queue.change(batch_wait_timeout_s=batch_wait_timeout_s)

    def set_max_concurrent_batches(self, max_concurrent_batches: int) -> None:
        """Change how many batches run at once at most; those that run go on. Raises InvalidConfig."""
        self._queue.change(max_concurrent_batches=max_concurrent_batches)


_SETTERS = frozenset(("set_max_batch_size", "set_batch_wait_timeout_s", "set_max_concurrent_batches"))


@overload
def batch(function: Function, /) -> Batched: ...
@overload
def batch(
    *, max_batch_size: int = 10, batch_wait_timeout_s: float = 0.01, max_concurrent_batches: int = 1
) -> Callable[[Function], Batched]: ...
def batch(
    function: Function | None = None,
    /,
    *,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
) -> Batched | Callable[[Function], Batched]:
    """Run calls of a function or method together.

    What is decorated takes a list for each of its parameters and returns a list with one result for each item, in the
    same order; each caller gives one item and gets one result. A result that is an exception is raised for that caller
    alone; what the function raises is raised for all. A generator yields such lists, and each caller gets a stream of
    its own. Async code awaits the call (or iterates over it, `async for`); sync code of a request gets the result
    itself.

    A batch has `max_batch_size` items at most. It goes when it is full, or `batch_wait_timeout_s` seconds after its
    first item came, and sooner where a deadline in it asks for that; `max_concurrent_batches` run at once. Raises
    InvalidConfig.
    """
    limits = BatchLimits(max_batch_size, batch_wait_timeout_s, max_concurrent_batches)
    if function is not None:
        return Batched(function, limits)
    return lambda function: Batched(function, limits)


def runs_on_loop(target: Any) -> bool:
    """Whether user code that is called goes on on the event loop, and not in a thread until it returns."""
    batched = (Batched, BatchedCall)
    called = target if inspect.isroutine(target) or isinstance(target, batched) else type(target).__call__
    return isinstance(called, batched) or inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called)


def _parameters(function: Any) -> tuple[inspect.Parameter, ...]:
    if not inspect.isfunction(function):
        raise InvalidConfig((Problem("", f"@mesh.batch is for a function or method, not {type(function).__name__}"),))
    parameters = tuple(inspect.signature(function).parameters.values())
    if not parameters or any(parameter.kind not in _KINDS for parameter in parameters):
        text = f"{function.__qualname__} is batched: it takes named parameters only, and each is given a list"
        raise InvalidConfig((Problem("", text),))
    return parameters
