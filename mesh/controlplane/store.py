"""The contract of the store that holds goal state.

Owns the contract only; `sqlite_store` and `etcd_store` keep it, and one conformance test runs on both.
Called by `leader`, `loop`, `execute` and `api`. Keys are text such as "applications/default"; values are bytes
(serialised messages). Revisions are the store's own, rising with each commit; 0 is "never".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mesh.errors import MeshError, Unreachable

OPERATIONS_MAX = 100
"""Operations and compares (each) in one commit. etcd allows 128."""
VALUE_BYTES_MAX = 1024 * 1024
"""Bytes in one value."""
COMMIT_BYTES_MAX = 1280 * 1024
"""Bytes of all keys and values in one commit. etcd allows 1.5 MiB in a request."""


class Compacted(MeshError):
    """The history asked for is gone. List again, compare, and watch from the listing's revision."""


class StoreUnreachable(Unreachable):
    """The store does not answer. The message says that it is the store, and where it is looked for."""

    REASON = "STORE_UNREACHABLE"


class OutcomeUnknown(MeshError):
    """A commit timed out or lost its connection: it may have happened. Read before repeating it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One stored value; `revision` is the store revision of its last change."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All items under a prefix, sorted by key, as they were at one `revision`."""

    revision: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """The key's last change was at `revision`; 0: the key does not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Creates or replaces a value. With a lease (not 0) it goes when the lease ends."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Remove:
    """Removes a key; nothing happens if it is not there."""

    key: str


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `value` is None when the key was removed."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """All watched changes of one store revision, never split."""

    revision: int
    events: tuple[Event, ...]


class Store(Protocol):
    """Linearizable, ordered key-value storage with watches and leases.

    Every call ends within the store's own timeout. Raises StoreUnreachable when the store does not answer (a read,
    or a commit that surely did not happen) and OutcomeUnknown when a commit may have happened.
    """

    async def get(self, key: str) -> Item | None:
        """Return the item, or None."""
        ...

    async def list(self, prefix: str, *, revision: int = 0) -> Listing:
        """Return all items whose key starts with `prefix`, now or as they were at `revision`.

        Raises Compacted if that revision's history is gone.
        """
        ...

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Put | Remove]) -> int:
        """Do all operations if all compares hold, and return the new store revision.

        Raises Conflict if a compare does not hold (nothing was done), NotFound if a named lease is gone,
        ValueError above OPERATIONS_MAX, VALUE_BYTES_MAX or COMMIT_BYTES_MAX or when a key stands twice in `operations`.
        """
        ...

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[Batch, None]:
        """Yield each change under `prefix` after revision `after`, in order, without gap or repeat, for ever.

        Connection loss is mended within. Raises Compacted when history is gone. Closing the iterator
        (aclose) frees everything.
        """
        ...

    async def grant(self, ttl_s: float) -> int:
        """Return a new lease that ends `ttl_s` seconds from now unless kept alive."""
        ...

    async def keep_alive(self, lease: int) -> float:
        """Renew the lease once and return the seconds it has now. Raises NotFound if it has ended."""
        ...

    async def revoke(self, lease: int) -> None:
        """End the lease now; its keys are removed. Nothing happens if it has ended."""
        ...

    async def close(self) -> None:
        """End all watches and free everything. Leases of a process that closed end by their time."""
        ...
