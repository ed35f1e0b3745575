"""Loads and unloads the models of one instance, and gives them to those who ask.

Owns the tasks of loads and unloads and who waits for them; decides nothing itself (`models`). One for each instance, on
one event loop. Called by `multiplexed`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mesh.clock import SYSTEM
from mesh.lifecycle import Tasks
from mesh.serving import current_request
from mesh.serving.batch_items import sound
from mesh.serving.current_request import CurrentRequest, Place
from mesh.serving.model_id import model_id_problem
from mesh.serving.models import Models
from mesh.serving.threads import Threads, from_thread, in_thread
from mesh.telemetry import MODEL_LOAD_SECONDS, MODEL_LOADS, MODEL_REQUESTS, MODEL_UNLOADS, MODELS_LOADED

if TYPE_CHECKING:
    from mesh.serving.multiplexed import Multiplexed

THREADS = 4
"""Sync loads that run at once."""

log = logging.getLogger("mesh.models")


class Ticket:
    """One who asks, and what it would load with."""

    __slots__ = ("future", "loader")

    def __init__(self, loader: Callable[[str], Any]) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.loader = loader


class ModelCache:
    """The models of one instance."""

    def __init__(self, multiplexed: Multiplexed, instance: Any) -> None:
        self._multiplexed = multiplexed
        self._instance = weakref.ref(instance) if instance is not None else None
        self._core: Models[Ticket] = Models(multiplexed.limit)
        self._holders: set[CurrentRequest] = set()
        """Requests whose end will be told."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks = Tasks()
        self._threads = Threads(THREADS, thread_name_prefix=multiplexed.name)
        self._place: Place | None = None
        self._told = _Told()

    def get(self, instance: Any, model_id: str) -> Any:
        """Return what is awaited for a model, or from a thread of sync code the model. Raises ValueError."""
        if problem := model_id_problem(model_id):
            raise ValueError(f"the id of a model {problem}, not {str(model_id)[:60]!r}")
        function = self._multiplexed.function
        loader = function if instance is None else function.__get__(instance)
        return from_thread(self._get(loader, model_id), self._multiplexed.name)

    async def unload_all(self) -> None:
        """Unload every model, for no request will want one any more."""
        for model_id, model in self._core.take_all():
            await self._unload(model_id, model)

    async def _get(self, loader: Callable[[str], Any], model_id: str) -> Any:
        self._enter(asyncio.get_running_loop())
        ticket = Ticket(loader)
        hit = self._core.ask(ticket, model_id, self._holder())
        self._told.request(hit=hit)
        self._step()
        try:
            return await ticket.future
        finally:
            if ticket.future.cancelled():
                self._core.abandon(ticket)
                self._step()

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed() and len(self._tasks):
                raise RuntimeError(f"{self._multiplexed.name} is used on two event loops at once")
            # What an earlier loop left under way never ends.
            self._loop, self._tasks, self._core = loop, Tasks(), Models(self._multiplexed.limit)
        if self._place is None and (request := current_request.current()) is not None:
            self._place = request.place
            self._told.at(self, request.place)

    def _holder(self) -> CurrentRequest | None:
        """Return the request that will use the model, None if its end cannot be known."""
        request = current_request.current()
        if request is None or request.over:
            return None
        if request not in self._holders:
            if not request.when_over(partial(self._over, request)):
                return None
            self._holders.add(request)
        return request

    def _over(self, request: CurrentRequest) -> None:
        self._holders.discard(request)
        self._core.release(request)
        self._step()

    def _step(self) -> None:
        """Do what is to be done now."""
        step = self._core.step()
        for ticket, model in step.given:
            if not ticket.future.done():
                ticket.future.set_result(model)
        for model_id, model in step.unload:
            self._spawn(self._unload(model_id, model), model_id, "unload")
        for model_id, ticket in step.load:
            self._spawn(self._load(model_id, ticket.loader), model_id, "load")
        self._told.holds(self._core.model_ids)

    def _spawn(self, work: Any, model_id: str, what: str) -> None:
        """Start a load or an unload, which serves no request, so that none of them ends it."""
        context = contextvars.copy_context()
        if self._place is not None:
            context.run(current_request.enter, CurrentRequest(self._place, model_id=model_id))
        context.run(partial(self._tasks.spawn, work, name=f"{what} model"))

    async def _load(self, model_id: str, loader: Callable[[str], Any]) -> None:
        started = SYSTEM.monotonic()
        try:
            if inspect.iscoroutinefunction(loader):
                model = await loader(model_id)
            else:
                model = await in_thread(self._threads, partial(loader, model_id))
                if inspect.isawaitable(model):
                    model = await model
        except BaseException as error:
            self._told.load_failed()
            told = sound(error, f"the load of model {model_id!r}")
            for ticket in self._core.failed(model_id):
                if not ticket.future.done():
                    ticket.future.set_exception(told)
        else:
            self._told.loaded(SYSTEM.monotonic() - started)
            self._core.loaded(model_id, model)
        self._step()

    async def _unload(self, model_id: str, model: Any) -> None:
        try:
            await self._let_go(model_id, model)
        except BaseException as error:  # it is gone all the same
            log.error("a model's unload raised: %r", error, extra={"model": model_id}, exc_info=error)
        del model
        self._told.unloaded()
        self._core.unloaded(model_id)
        self._step()

    async def _let_go(self, model_id: str, model: Any) -> None:
        """Call what unloads a model, if there is something."""
        unloader, instance = self._multiplexed.unloader, self._instance() if self._instance is not None else None
        if unloader is not None:
            bound = unloader.__get__(instance) if instance is not None else unloader
            work = partial(bound, model_id, model)
        else:
            bound = getattr(model, "aclose", None) or getattr(model, "close", None)
            if not callable(bound):
                return  # with its last reference it is gone
            work = partial(bound)
        result = work() if inspect.iscoroutinefunction(bound) else await in_thread(self._threads, work)
        if inspect.isawaitable(result):
            await result


class _Told:
    """What metrics and callers are told of one cache. Nothing before it is known where it is."""

    def __init__(self) -> None:
        self._labels: tuple[str, str] = ("", "")
        self._place: Place | None = None
        self._key = object()
        self._held: tuple[str, ...] = ()
        self._loaded = 0

    def at(self, cache: ModelCache, place: Place) -> None:
        """The cache belongs to this replica."""
        self._place = place
        self._labels = (place.application, place.deployment)
        # Not the cache itself: it goes with its instance.
        method = weakref.WeakMethod(cache.unload_all)

        async def unload_all() -> None:
            if (unload := method()) is not None:
                await unload()

        place.models.add(self._key, unload_all)
        weakref.finalize(cache, self._gone).atexit = False

    def _gone(self) -> None:
        """The cache went with its instance."""
        MODELS_LOADED.labels(*self._labels).dec(self._loaded)
        if self._place is not None:
            self._place.models.remove(self._key)

    def request(self, *, hit: bool) -> None:
        MODEL_REQUESTS.labels(*self._labels, "hit" if hit else "miss").inc()

    def loaded(self, seconds: float) -> None:
        MODEL_LOADS.labels(*self._labels, "ok").inc()
        MODEL_LOAD_SECONDS.labels(*self._labels).observe(seconds)
        MODELS_LOADED.labels(*self._labels).inc()
        self._loaded += 1

    def load_failed(self) -> None:
        MODEL_LOADS.labels(*self._labels, "error").inc()

    def unloaded(self) -> None:
        MODEL_UNLOADS.labels(*self._labels).inc()
        MODELS_LOADED.labels(*self._labels).dec()
        self._loaded -= 1

    def holds(self, model_ids: tuple[str, ...]) -> None:
        """Tell callers which models there are, if that has changed."""
        if self._place is not None and set(model_ids) != set(self._held):
            self._held = model_ids
            self._place.models.set(self._key, model_ids)
