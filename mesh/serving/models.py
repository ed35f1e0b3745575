"""Which models one instance holds: what is loaded and unloaded when, and who gets which.

Owns the limit, the order of use and who still uses a model. At most `limit` models are loaded, being loaded or being
unloaded. Room is made by the model used longest ago; one that a running request was given goes only when that request
is over, and nobody new gets it meanwhile. Who asks for a model waits in order of arrival. Pure: it never loads, awaits
or reads a clock; each change is followed by `step`, which says what is to be done. Called by `model_cache`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

_T = TypeVar("_T", bound=Hashable)


@dataclass(slots=True)
class _Loaded:
    model: Any
    holders: set[Hashable] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Waiting:
    model_id: str
    holder: Hashable | None


@dataclass(slots=True)
class Step(Generic[_T]):
    """What is to be done now, in this order."""

    given: list[tuple[_T, Any]] = field(default_factory=list)
    """Who gets which model."""
    unload: list[tuple[str, Any]] = field(default_factory=list)
    """Models to unload; `unloaded` says that one is gone."""
    load: list[tuple[str, _T]] = field(default_factory=list)
    """Ids to load, each with one who waits for it; `loaded` or `failed` says how that ended."""


class Models(Generic[_T]):
    """The models of one instance. A ticket stands for one who asks, a holder for the request that it asks for."""

    def __init__(self, limit: int | None) -> None:
        """`limit`: None for no limit."""
        assert limit is None or limit > 0
        self.limit = limit
        self._loaded: dict[str, _Loaded] = {}
        """Those used last at the end."""
        self._loading: dict[str, dict[_T, Hashable | None]] = {}
        """Who waits for each load, and its holder."""
        self._unloading: set[str] = set()
        self._waiting: dict[_T, _Waiting] = {}
        """Who waits for room, in order of arrival."""
        self._leaving: frozenset[str] = frozenset()
        """Loaded models that are to make room once nobody uses them: nobody new gets them."""

    def __repr__(self) -> str:
        counts = f"{len(self._loaded)} loaded, {len(self._loading)} loading, {len(self._unloading)} unloading"
        return f"<Models {counts}, {len(self._waiting)} waiting>"

    @property
    def model_ids(self) -> tuple[str, ...]:
        """Ids of the loaded models that are to be had, those used last at the end."""
        return tuple(model_id for model_id in self._loaded if model_id not in self._leaving)

    def ask(self, ticket: _T, model_id: str, holder: Hashable | None) -> bool:
        """Let `ticket` have a model, which `holder` uses until `release`; `step` gives it. Whether it is loaded."""
        assert ticket not in self._waiting, "a ticket is for one model"
        if model_id in self._loading:
            self._loading[model_id][ticket] = holder
            return False
        self._waiting[ticket] = _Waiting(model_id, holder)
        return model_id in self._loaded and model_id not in self._leaving

    def abandon(self, ticket: _T) -> None:
        """Whoever asked is gone. A load that began for it goes on: others may want the model."""
        self._waiting.pop(ticket, None)
        for tickets in self._loading.values():
            tickets.pop(ticket, None)

    def release(self, holder: Hashable) -> None:
        """A request is over: what it was given is not used by it any more."""
        for loaded in self._loaded.values():
            loaded.holders.discard(holder)
        # What code that outlives its request still asks for, nobody will say to be over.
        for ticket, waiting in self._waiting.items():
            if waiting.holder == holder:
                self._waiting[ticket] = _Waiting(waiting.model_id, None)
        for tickets in self._loading.values():
            for ticket, other in tickets.items():
                if other == holder:
                    tickets[ticket] = None

    def loaded(self, model_id: str, model: Any) -> None:
        """A load has ended well."""
        tickets = self._loading.pop(model_id)
        self._loaded[model_id] = _Loaded(model)
        # Before those who wait: they asked later, or for other models.
        self._waiting = {ticket: _Waiting(model_id, holder) for ticket, holder in tickets.items()} | self._waiting

    def failed(self, model_id: str) -> list[_T]:
        """A load has failed; it leaves nothing behind. Returns who waited for it."""
        return list(self._loading.pop(model_id))

    def unloaded(self, model_id: str) -> None:
        """A model is gone."""
        self._unloading.remove(model_id)

    def take_all(self) -> list[tuple[str, Any]]:
        """Let all loaded models go, whoever uses them, and return them."""
        taken = [(model_id, loaded.model) for model_id, loaded in self._loaded.items()]
        self._unloading.update(self._loaded)
        self._loaded.clear()
        return taken

    def step(self) -> Step[_T]:
        """Return what is to be done now. After each change, until nothing is."""
        step: Step[_T] = Step()
        self._give(step, self._leaving)
        shortage = self._load(step)
        self._leaving = frozenset()
        if shortage > 0:
            self._make_room(step, shortage)
        self._give(step, self._leaving)
        return step

    def _give(self, step: Step[_T], leaving: Iterable[str]) -> None:
        """Give each who waits what is loaded."""
        for ticket, waiting in list(self._waiting.items()):
            model_id = waiting.model_id
            if model_id not in self._loaded or model_id in leaving:
                continue
            del self._waiting[ticket]
            loaded = self._loaded[model_id] = self._loaded.pop(model_id)
            if waiting.holder is not None:
                loaded.holders.add(waiting.holder)
            step.given.append((ticket, loaded.model))

    def _load(self, step: Step[_T]) -> int:
        """Begin loads while there is room. Return for how many more there is none, nor will be by what is unloaded."""
        room = self._room()
        wanted: set[str] = set()
        for ticket, waiting in list(self._waiting.items()):
            model_id = waiting.model_id
            if model_id in self._loading:
                del self._waiting[ticket]
                self._loading[model_id][ticket] = waiting.holder
            elif model_id in self._loaded:  # it leaves: those before this one want its room
                continue
            elif (room is None or room > 0) and model_id not in self._unloading:
                del self._waiting[ticket]
                self._loading[model_id] = {ticket: waiting.holder}
                step.load.append((model_id, ticket))
                room = None if room is None else room - 1
            else:
                wanted.add(model_id)
        return 0 if room is None else len(wanted) - room - len(self._unloading)

    def _room(self) -> int | None:
        taken = len(self._loaded) + len(self._loading) + len(self._unloading)
        return None if self.limit is None else self.limit - taken

    def _make_room(self, step: Step[_T], count: int) -> None:
        """Unload what nobody uses, and let of the rest those used longest ago leave."""
        unused = [model_id for model_id, loaded in self._loaded.items() if not loaded.holders][:count]
        for model_id in unused:
            self._unload(step, model_id)
        count -= len(unused)
        if count <= 0:
            return
        self._leaving = frozenset(list(self._loaded)[:count])
        if not self._loading and not self._unloading and self._stuck():
            self._unload(step, self._own_of_first() or next(iter(self._loaded)))

    def _stuck(self) -> bool:
        """Whether every request that uses a model waits here for another: then none of them would ever be over."""
        waiting = {waiting.holder for waiting in self._waiting.values()}
        return bool(self._loaded) and all(loaded.holders <= waiting for loaded in self._loaded.values())

    def _own_of_first(self) -> str:
        """Return the model used longest ago of those that the first in the line has itself; "" if it has none."""
        holder = next(iter(self._waiting.values())).holder
        return next((model_id for model_id, loaded in self._loaded.items() if holder in loaded.holders), "")

    def _unload(self, step: Step[_T], model_id: str) -> None:
        loaded = self._loaded.pop(model_id)
        self._unloading.add(model_id)
        self._leaving -= {model_id}
        step.unload.append((model_id, loaded.model))
