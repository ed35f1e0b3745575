"""The leader's copy of what is stored.

Owns the values and the revision of each key, kept current by three sources that may overlap: listings, the watch
and the leader's own commits. Never talks to the store. Called by `loop`, `execute` and `api`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from mesh import model
from mesh.controlplane.records import (
    APPLICATIONS,
    EVENTS,
    OPTIONS,
    REPLICAS,
    WORKERS,
    decode_application,
    decode_options,
    decode_replica,
    decode_worker,
)
from mesh.controlplane.store import Batch, Listing
from mesh.v1 import deployment_pb2

_T = TypeVar("_T")


class _Kept(Generic[_T]):
    """Values by name. What is shown of them never changes: after a change another mapping is shown."""

    def __init__(self, prefix: str, decode: Callable[[str, bytes], _T]) -> None:
        self.prefix = prefix
        self._decode = decode
        self._values: dict[str, _T] = {}
        self._shown: Mapping[str, _T] | None = None

    @property
    def shown(self) -> Mapping[str, _T]:
        if self._shown is None:
            self._shown = dict(self._values)
        return self._shown

    def set(self, key: str, value: bytes | None) -> None:
        """Keep what is stored at a key (None: nothing). Raises Unreachable if it cannot be read."""
        name = key.removeprefix(self.prefix)
        if value is None:
            self._values.pop(name, None)
        else:
            self._values[name] = self._decode(key, value)
        self._shown = None


class Mirror:
    """What is stored, as of the newest news of each key. News older than what is known changes nothing."""

    def __init__(self, listing: Listing) -> None:
        self._applications = _Kept(APPLICATIONS, decode_application)
        self._replicas = _Kept(REPLICAS, decode_replica)
        self._workers = _Kept(WORKERS, decode_worker)
        self._events: _Kept[bytes] = _Kept(EVENTS, lambda _, value: value)
        self._kept: tuple[_Kept[Any], ...] = (self._applications, self._replicas, self._workers, self._events)
        self.options = deployment_pb2.Config()
        self.unknown_outcomes = 0
        """Commits of this process of which nobody knows whether they happened. Whoever has made one counts it."""
        self._outcomes_seen = 0
        # Of each key the revision of its last known change. A removed key stays until the watch has passed its
        # removal: a late event of before must not bring it back.
        self._revisions: dict[str, int] = {}
        self._removed: dict[str, int] = {}
        self._listed = 0
        self.load(listing, self.unknown_outcomes)

    @property
    def is_behind(self) -> bool:
        """Whether something may be stored of which it has not heard: a commit of this process, of unknown outcome."""
        return self._outcomes_seen < self.unknown_outcomes

    @property
    def applications(self) -> Mapping[str, model.Application]:
        """The goal state by name. This mapping, like those below, stays as it is; after a change there is another."""
        return self._applications.shown

    @property
    def replicas(self) -> Mapping[str, model.Replica]:
        """The placements by id."""
        return self._replicas.shown

    @property
    def workers(self) -> Mapping[str, model.WorkerGoal]:
        """What was asked of workers, by id."""
        return self._workers.shown

    @property
    def events(self) -> Mapping[str, bytes]:
        """Logs of events as they are stored: nobody reads them but the next leader."""
        return self._events.shown

    @property
    def listed(self) -> int:
        """Revision of the last listing; a watch goes on from there."""
        return self._listed

    def revision_of(self, key: str) -> int:
        """Return the revision of the key's last known change; 0 if it does not exist."""
        return self._revisions.get(key, 0)

    def load(self, listing: Listing, unknown_outcomes: int) -> None:
        """Take a listing of all keys, as good as any news up to its revision.

        `unknown_outcomes` is what it was when the listing was asked for: of later ones the listing tells nothing.
        """
        self._listed = max(self._listed, listing.revision)
        self._outcomes_seen = max(self._outcomes_seen, unknown_outcomes)
        listed = {item.key for item in listing.items}
        gone = [key for key, known in self._revisions.items() if key not in listed and known <= listing.revision]
        for key in gone:
            self._set(key, None, listing.revision)
        for item in listing.items:
            self._news(item.key, item.value, item.revision)

    def apply(self, batch: Batch) -> bool:
        """Take what the watch says. Returns whether it was news."""
        news = [self._news(event.key, event.value, event.revision) for event in batch.events]
        self._removed = {key: at for key, at in self._removed.items() if at > batch.revision}
        return any(news)

    def committed(self, values: Mapping[str, bytes | None], revision: int) -> None:
        """Take what this process itself stored (None: removed)."""
        for key, value in values.items():
            self._news(key, value, revision)

    def _news(self, key: str, value: bytes | None, revision: int) -> bool:
        if revision <= max(self._revisions.get(key, 0), self._removed.get(key, 0)):
            return False
        if value is None and key not in self._revisions:
            return False
        self._set(key, value, revision)
        return key.startswith((APPLICATIONS, REPLICAS, WORKERS)) or key == OPTIONS

    def _set(self, key: str, value: bytes | None, revision: int) -> None:
        if value is None:
            self._revisions.pop(key, None)
            self._removed[key] = revision
        else:
            self._revisions[key] = revision
            self._removed.pop(key, None)
        for kept in self._kept:
            if key.startswith(kept.prefix):
                kept.set(key, value)
                return
        if key == OPTIONS:
            self.options = decode_options(value) if value is not None else deployment_pb2.Config()
