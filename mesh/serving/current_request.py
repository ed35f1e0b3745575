"""Which request the running code serves, as far as user code and what it imports may know.

Owns the context variable, and what is to be done when a request is over. Knows nothing of the wire. Set by the
replica (`worker/current_call`); read by batching, multiplexing and handles.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from mesh.serving.loaded_models import LoadedModels


@dataclass(frozen=True, slots=True)
class Place:
    """The replica that the code runs in."""

    application: str
    deployment: str
    loop: Any = None
    """The event loop of its requests; threads of sync code reach it by this."""
    models: LoadedModels = field(default_factory=LoadedModels)
    """What its callers are told of."""


class CurrentRequest:
    """One request that is served, or none in particular: a batch of several, or the start of a replica."""

    __slots__ = ("_callbacks", "_deadline", "model_id", "over", "place", "request_id")

    source: Callable[[], Any] | None = None
    """Returns the call on the wire, None when it is gone."""

    def __init__(self, place: Place, request_id: str = "", model_id: str = "", deadline: float | None = None) -> None:
        self.place = place
        self.request_id = request_id
        self.model_id = model_id
        self.over = False
        self._deadline = deadline
        self._callbacks: list[Callable[[], object]] | None = None

    @property
    def deadline(self) -> float | None:
        """When its time is over, in seconds of `Clock.monotonic`; None: it has no bound."""
        return self._deadline

    def when_over(self, then: Callable[[], object]) -> bool:
        """Call `then` when the request is over. False if it is over already, or never will be."""
        if self.over or (self._callbacks is None and not self.watch_end()):
            return False
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(then)
        return True

    def watch_end(self) -> bool:
        """See to it that `end` is called; False if that will never be."""
        return False

    def end(self) -> None:
        """The request is over."""
        self.over = True
        callbacks, self._callbacks = self._callbacks, None
        for then in callbacks or ():
            then()


_current: ContextVar[CurrentRequest | None] = ContextVar("mesh_current_request", default=None)

enter = _current.set
"""From here on, the code of this task or context serves a request."""
current = _current.get
"""Return the request that the running code serves, None outside of one."""


def deadline() -> float | None:
    """Return when the current request's time is over, in seconds of `Clock.monotonic`; None: it has no bound."""
    request = current()
    return request.deadline if request is not None else None
