"""The leader's copy of what is stored.

Owns the values and the revision of each key, kept current by three sources that may overlap: listings, the watch
and the leader's own commits. Never talks to the store. Called by `loop`, `execute` and `api`.
"""

from __future__ import annotations

from collections.abc import Mapping

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


class Mirror:
    """What is stored, as of the newest news of each key. News older than what is known changes nothing."""

    def __init__(self, listing: Listing) -> None:
        self.applications: dict[str, model.Application] = {}
        self.replicas: dict[str, model.Replica] = {}
        self.workers: dict[str, model.WorkerGoal] = {}
        """What was asked of workers."""
        self.options = deployment_pb2.Config()
        self.events: dict[str, bytes] = {}
        """Logs of events as they are stored: nobody reads them but the next leader."""
        # Of each key the revision of its last known change. A removed key stays until the watch has passed its
        # removal: a late event of before must not bring it back.
        self._revisions: dict[str, int] = {}
        self._removed: dict[str, int] = {}
        self._listed = 0
        self.load(listing)

    @property
    def listed(self) -> int:
        """Revision of the last listing; a watch goes on from there."""
        return self._listed

    def revision_of(self, key: str) -> int:
        """Return the revision of the key's last known change; 0 if it does not exist."""
        return self._revisions.get(key, 0)

    def load(self, listing: Listing) -> None:
        """Take a listing of all keys, as good as any news up to its revision."""
        self._listed = max(self._listed, listing.revision)
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
        if key.startswith(APPLICATIONS):
            name = key.removeprefix(APPLICATIONS)
            if value is None:
                self.applications.pop(name, None)
            else:
                self.applications[name] = decode_application(key, value)
        elif key.startswith(REPLICAS):
            replica_id = key.removeprefix(REPLICAS)
            if value is None:
                self.replicas.pop(replica_id, None)
            else:
                self.replicas[replica_id] = decode_replica(key, value)
        elif key.startswith(WORKERS):
            worker_id = key.removeprefix(WORKERS)
            if value is None:
                self.workers.pop(worker_id, None)
            else:
                self.workers[worker_id] = decode_worker(key, value)
        elif key.startswith(EVENTS):
            name = key.removeprefix(EVENTS)
            if value is None:
                self.events.pop(name, None)
            else:
                self.events[name] = value
        elif key == OPTIONS:
            self.options = decode_options(value) if value is not None else deployment_pb2.Config()
