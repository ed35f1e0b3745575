"""Handles: how deployments call deployments.

Owns what user code sees: handles, the responses of calls, and where either may be used. How calls travel is the
business of `Caller`, which the process sets (`worker/handles.py` in replicas). Imports nothing heavy.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

from mesh.errors import HandleMisused
from mesh.serving.model_id import model_id_problem
from mesh.serving.options import name_problem

_T = TypeVar("_T")
CALL = "__call__"


class Callee(NamedTuple):
    """What a handle calls, and how. Made for each use of a method's name: a dataclass would cost more than the call."""

    application: str
    deployment: str
    method: str = CALL
    stream: bool = False
    """The method yields items."""
    timeout_s: float | None = None
    """Seconds until the answer, or its first item, is there. What is left for the request that calls bounds it, too."""
    model_id: str = ""


class Flight(Protocol):
    """One call on its way. Its methods may be called in any thread, but for `outcome` and `next`: in the loop."""

    def outcome(self) -> asyncio.Future[Any]:
        """Return what will hold the answer."""
        ...

    def wait(self, timeout_s: float | None) -> Any:
        """Return the answer, in a thread. Raises TimeoutError, and what the call failed with."""
        ...

    def cancel(self) -> None:
        """Give the call up, wherever it is. What is over stays as it is."""
        ...

    def done(self) -> bool:
        """Whether the answer is there, or never will be."""
        ...


class ItemFlight(Flight, Protocol):
    """A call with `stream=True`: what it has is whether it began, and then items."""

    async def next(self) -> Any:
        """Return the next item of a stream. Raises StopAsyncIteration."""
        ...

    def wait_next(self) -> Any:
        """Return the next item of a stream, in a thread. Raises StopAsyncIteration."""
        ...


class Caller(Protocol):
    """What makes calls for a process."""

    loop: asyncio.AbstractEventLoop

    def call(self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flight:
        """Start a call; never waits. Raises EncodingFailed if an argument cannot travel."""
        ...

    def want(self, application: str, deployment: str) -> None:
        """Learn where a deployment is, for calls may follow."""
        ...


_caller: Caller | None = None


def set_caller(caller: Caller | None) -> None:
    """Let the handles of this process call by `caller`."""
    global _caller
    _caller = caller


def serving_calls() -> bool:
    """Whether handles work in this process."""
    return _caller is not None


def caller() -> Caller:
    """Return what makes calls in this process. Raises HandleMisused where nothing does."""
    if _caller is None:
        hint = "elsewhere, call what is deployed over HTTP or gRPC"
        raise HandleMisused("handles work in replicas only", hint=hint)
    return _caller


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class DeploymentHandle:
    """Calls a deployment: `await handle.method.remote(...)`, or `await handle.remote(...)` for its `__call__`.

    The constructor of a deployment gets one for each bound deployment among the arguments of its `bind`;
    `mesh.get_handle` makes one for any other. Handles are values: they may be kept, compared, hashed and sent.
    """

    _to: Callee

    def __repr__(self) -> str:
        to = self._to
        method = "" if to.method == CALL else f".{to.method}"
        return f"<DeploymentHandle {to.application}/{to.deployment}{method}>"

    def __getattr__(self, name: str) -> DeploymentHandle:
        """Return a handle for the method of that name."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}, and calls no private method")
        to = self._to
        return DeploymentHandle(Callee(to.application, to.deployment, name, to.stream, to.timeout_s, to.model_id))

    def options(
        self,
        *,
        method_name: str | None = None,
        stream: bool | None = None,
        timeout_s: float | None = None,
        multiplexed_model_id: str | None = None,
    ) -> DeploymentHandle:
        """Return the same handle with other options; those left out stay as they are.

        `method_name`: the method to call. `stream`: it yields items, which are to be iterated over. `timeout_s`:
        seconds until the answer, or its first item, is there. `multiplexed_model_id`: which model it is for.
        """
        changed = {
            "method": method_name,
            "stream": stream,
            "timeout_s": timeout_s,
            "model_id": multiplexed_model_id,
        }
        if timeout_s is not None and not timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0, not {timeout_s!r}")
        if multiplexed_model_id and (problem := model_id_problem(multiplexed_model_id)):
            raise ValueError(f"multiplexed_model_id {problem}, not {str(multiplexed_model_id)[:60]!r}")
        given = {name: value for name, value in changed.items() if value is not None}
        return DeploymentHandle(self._to._replace(**given))  # type: ignore[arg-type]

    def remote(self, *args: Any, **kwargs: Any) -> DeploymentResponse:
        """Start a call and return its response at once.

        Arguments travel by value; responses among them, alone or within containers, are waited for first. Raises
        EncodingFailed if one cannot travel; what else goes wrong is told by the response.
        """
        flight = caller().call(self._to, args, kwargs)
        return (DeploymentResponseStream if self._to.stream else DeploymentResponse)(flight, self._to)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a call goes to another process. Raises HandleMisused that says so."""
        raise HandleMisused("a handle is not called itself", hint="write await handle.remote(...)")


class DeploymentResponse:
    """The answer of a call that may still be on its way.

    `await` it in async code; `.result()` it in a thread, such as that of a sync handler; or pass it to another call. It
    raises BackPressureError, DeadlineExceeded, Unavailable, ReplicaLost, or RemoteError where the called code raised.
    If whoever awaits it is cancelled, or the request that the calling code serves is, so is the call.
    """

    __slots__ = ("__weakref__", "_flight", "_to")

    def __init__(self, flight: Flight, to: Callee) -> None:
        self._flight = flight
        self._to = to

    def __repr__(self) -> str:
        state = "done" if self._flight.done() else "on its way"
        return f"<{type(self).__name__} of {self._to.application}/{self._to.deployment}.{self._to.method} {state}>"

    def __await__(self) -> Generator[Any, None, Any]:
        """Return the answer."""
        self._unary()
        try:
            return (yield from self._flight.outcome())
        except asyncio.CancelledError:
            self._flight.cancel()  # if it was not that which was cancelled: nobody waits for it any more
            raise

    def result(self, timeout_s: float | None = None) -> Any:
        """Return the answer, waiting at most `timeout_s` seconds (None: no limit of its own), in a thread.

        Raises TimeoutError when it takes longer; the call goes on then. Raises HandleMisused in an event loop.
        """
        self._unary()
        _in_thread("result()", "await the response")
        return self._flight.wait(timeout_s)

    def cancel(self) -> None:
        """Give the call up. It never runs if it still waits; if it runs it is told to stop."""
        self._flight.cancel()

    def done(self) -> bool:
        """Whether the answer is there, or never will be."""
        return self._flight.done()

    def __aiter__(self) -> AsyncIterator[Any]:
        """Refuse: there are no items. Raises HandleMisused."""
        raise self._no_stream()

    def __iter__(self) -> Iterator[Any]:
        """Refuse: there are no items. Raises HandleMisused."""
        raise self._no_stream()

    def _no_stream(self) -> HandleMisused:
        self._flight.cancel()
        hint = "if the method yields items, call it by handle.options(stream=True)"
        return HandleMisused("the response is one answer, not a stream of items", hint=hint)

    def _unary(self) -> None:
        return


class DeploymentResponseStream(DeploymentResponse):
    """The items of a call with `stream=True`: `async for` over it, or `for` in a thread.

    The called code yields no more than its reader takes, but for a window of 512 KiB. Leaving the loop early cancels
    it, as does `cancel()`.
    """

    __slots__ = ()

    _flight: ItemFlight

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await self._flight.next()

    def __iter__(self) -> Iterator[Any]:
        _in_thread("for", "use async for")
        return self

    def __next__(self) -> Any:
        try:
            return self._flight.wait_next()
        except StopAsyncIteration:
            raise StopIteration from None

    def __del__(self) -> None:
        # Whoever left the loop early does not ask for more.
        if not self._flight.done():
            self._flight.cancel()

    def _unary(self) -> None:
        raise HandleMisused("the response is a stream of items", hint="iterate over it: async for item in response")


def outcome_of(response: DeploymentResponse) -> asyncio.Future[Any]:
    """Return what will hold the answer, for the loop of the process's calls. Raises HandleMisused for a stream."""
    response._unary()
    return response._flight.outcome()


def _in_thread(what: str, instead: str) -> None:
    """Refuse to block an event loop. Raises HandleMisused."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    hint = f"{instead}; in sync code, which runs in a thread, {what} is right"
    raise HandleMisused(f"{what} would block the event loop of this thread", hint=hint)


def get_handle(application: str, deployment: str) -> DeploymentHandle:
    """Return a handle to any deployment of the mesh, by the names of its application and its own.

    Calls fail with Unavailable if there is none of that name. Raises HandleMisused outside of replicas.
    """
    for what, name in (("application", application), ("deployment", deployment)):
        if problem := name_problem(name):
            raise HandleMisused(f"{what} {problem}")
    caller().want(application, deployment)
    return DeploymentHandle(Callee(application, deployment))


CancelledError = concurrent.futures.CancelledError
"""What `result()` raises when the call was cancelled."""
