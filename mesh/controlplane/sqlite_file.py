"""The embedded store's database: its tables, its transactions, its history.

Owns all SQL. Blocking, and bound to the one thread that opened it; knows no event loop, watcher or timer.
Called by `sqlite_store` only.

`items` holds what is there now, `changes` what happened: each revision's changes, and of the time before the
oldest revision kept only the newest change of each key that still existed then.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.controlplane.commit_rules import prefix_end
from mesh.controlplane.store import (
    Batch,
    Compacted,
    Compare,
    Event,
    Item,
    Listing,
    OutcomeUnknown,
    Put,
    Remove,
    StoreUnreachable,
)
from mesh.errors import Conflict, InvalidConfig, Problem, Unreachable

MEMORY = ":memory:"
_APPLICATION_ID = 0x6D657368
_FORMAT = 1
_PAGE_BYTES_MAX = 1024 * 1024
_LAST_KEY = b"\xff"  # no UTF-8 text starts with it
_Rows = list[tuple[Any, ...]]

_SCHEMA = """
CREATE TABLE items (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER NOT NULL);
CREATE INDEX items_by_lease ON items (lease) WHERE lease != 0;
CREATE TABLE changes (
    revision INTEGER NOT NULL, position INTEGER NOT NULL, key BLOB NOT NULL, value BLOB,
    PRIMARY KEY (revision, position));
CREATE INDEX changes_by_key ON changes (key, revision);
CREATE TABLE state (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Committed:
    """The revision after a commit and the keys that it changed (none: nothing happened, no new revision)."""

    revision: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Changes in order. All up to revision `through` are in it; `more` if there were too many for one page."""

    batches: tuple[Batch, ...]
    through: int
    more: bool


class SqliteFile:
    """One open database. Every method may raise Unreachable; only `commit` and `end_lease` change anything."""

    def __init__(self, path: str, keep_revisions: int, first_revision: int = 0) -> None:
        """Open or create the file and prove it sound. A new file counts from `first_revision` on.

        Of one that keeps no revisions (0) only that it is a store is proved: it may be large. Raises InvalidConfig or
        Unreachable.
        """
        self._path = path
        self._keep = keep_revisions
        self._compact_every = max(1, keep_revisions // 10)
        if path != MEMORY:
            _create(path)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
            try:
                self._prepare(first_revision)
                self._revision, self._compacted, self._first = self._numbers()
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise _open_error(path, error) from None

    @property
    def revision(self) -> int:
        """The newest revision."""
        return self._revision

    def close(self) -> None:
        """Close the file. Nothing is called afterwards."""
        self._db.close()

    def get(self, key: str) -> Item | None:
        """Return the item, or None."""
        rows = self._read("SELECT value, revision FROM items WHERE key = ?", (key.encode(),))
        return Item(key, rows[0][0], rows[0][1]) if rows else None

    def list(self, prefix: str, revision: int) -> Listing:
        """Return the items under `prefix`, now (0) or at `revision`. Raises Compacted."""
        low, high = _range(prefix)
        if revision == 0 or revision == self._revision:
            sql = "SELECT key, value, revision FROM items WHERE key >= ? AND key < ? ORDER BY key"
            rows = self._read(sql, (low, high))
            return _listing(self._revision, rows)
        if revision > self._revision:
            raise Compacted(f"revision {revision} does not exist; the newest is {self._revision}")
        self._check_kept(revision)
        # With max(), SQLite takes the other columns from the row that holds the maximum.
        sql = (
            "SELECT key, value, max(revision) FROM changes WHERE key >= ? AND key < ? AND revision <= ?"
            " GROUP BY key ORDER BY key"
        )
        rows = self._read(sql, (low, high, revision))
        return _listing(revision, (row for row in rows if row[1] is not None))

    def changes(self, prefix: str, after: int) -> Page:
        """Return changes under `prefix` after revision `after`: whole revisions, about 1 MiB. Raises Compacted."""
        self._check_kept(after)
        low, high = _range(prefix)
        sql = (
            "SELECT revision, key, value FROM changes WHERE revision > ? AND key >= ? AND key < ?"
            " ORDER BY revision, position"
        )
        batches: list[Batch] = []
        events: list[Event] = []
        size = 0
        try:
            for revision, key, value in self._db.execute(sql, (after, low, high)):
                if events and events[0].revision != revision:
                    batches.append(Batch(events[0].revision, tuple(events)))
                    events = []
                    if size > _PAGE_BYTES_MAX:
                        return Page(tuple(batches), batches[-1].revision, more=True)
                events.append(Event(key.decode(), value, revision))
                size += len(key) + len(value or b"") + 100
        except sqlite3.Error as error:
            raise self._unreachable(error) from None
        if events:
            batches.append(Batch(events[0].revision, tuple(events)))
        return Page(tuple(batches), max(after, self._revision), more=False)

    def commit(self, compares: Sequence[Compare], operations: Sequence[Put | Remove]) -> Committed:
        """Do all operations if all compares hold. Raises Conflict, or OutcomeUnknown if the disk failed at the end."""
        self._begin()
        try:
            for compare in compares:
                self._check(compare)
            changed = [operation for operation in operations if self._apply(operation)]
            return self._end(changed)
        except sqlite3.Error as error:
            self._rollback()
            raise self._unreachable(error) from None
        except BaseException:
            self._rollback()
            raise

    def end_lease(self, lease: int) -> Committed:
        """Remove all keys of the lease (0: of all leases) as one revision."""
        where = "lease = ?" if lease else "lease != ?"
        rows = self._read(f"SELECT key FROM items WHERE {where} ORDER BY key", (lease,))
        return self.commit((), [Remove(row[0].decode()) for row in rows])

    def _prepare(self, first_revision: int) -> None:
        if self._keep and (verdict := self._pragma("quick_check(1)")) != "ok":
            raise sqlite3.DatabaseError(str(verdict))
        application, version = self._pragma("application_id"), self._pragma("user_version")
        fresh = application == 0 and version == 0 and self._pragma("schema_version") == 0
        if not fresh and application != _APPLICATION_ID:
            raise _invalid(self._path, "is a database of another program", "name another file")
        if not fresh and version != _FORMAT:
            text = f"has format {version}, this version of mesh reads format {_FORMAT}"
            raise _invalid(self._path, text, "run the version of mesh that wrote it, or name another file")
        # Only now: nothing above writes to what is not ours.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA journal_size_limit = 16777216")
        if fresh:
            at = f"{first_revision:d}"
            numbers = f"INSERT INTO state VALUES ('revision', {at}), ('first', {at}), ('compacted', 0);"
            script = f"{numbers} PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_FORMAT};"
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {script} COMMIT;")

    def _pragma(self, name: str) -> object:
        return self._db.execute(f"PRAGMA {name}").fetchone()[0]

    def _numbers(self) -> tuple[int, int, int]:
        numbers = dict(self._db.execute("SELECT name, number FROM state").fetchall())
        return numbers["revision"], numbers["compacted"], numbers["first"]

    def _check_kept(self, revision: int) -> None:
        if revision < self._compacted:
            raise Compacted(f"the history of revision {revision} is gone; the oldest kept is {self._compacted}")

    def _check(self, compare: Compare) -> None:
        row = self._db.execute("SELECT revision FROM items WHERE key = ?", (compare.key.encode(),)).fetchone()
        found = row[0] if row else 0
        if found != compare.revision:
            text = f"{compare.key!r} is at revision {found}, not {compare.revision}: it was changed meanwhile"
            raise Conflict(text, hint="read it again and repeat the change")

    def _apply(self, operation: Put | Remove) -> bool:
        key = operation.key.encode()
        if isinstance(operation, Remove):
            return self._db.execute("DELETE FROM items WHERE key = ?", (key,)).rowcount > 0
        row = (key, operation.value, self._revision + 1, operation.lease)
        self._db.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", row)
        return True

    def _end(self, changed: Sequence[Put | Remove]) -> Committed:
        if not changed:
            self._rollback()
            return Committed(self._revision, ())
        revision, compacted = self._revision + 1, self._compacted
        rows = (
            (revision, position, operation.key.encode(), operation.value if isinstance(operation, Put) else None)
            for position, operation in enumerate(changed)
        )
        if self._keep:
            self._db.executemany("INSERT INTO changes VALUES (?, ?, ?, ?)", rows)
        if revision - (compacted or self._first) >= self._keep + self._compact_every:
            compacted = revision - self._keep
            self._compact(compacted)
        numbers = ((revision, "revision"), (compacted, "compacted"))
        self._db.executemany("UPDATE state SET number = ? WHERE name = ?", numbers)
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._rollback()
            text = f"writing the store {self._path} failed at the last step ({error})"
            raise OutcomeUnknown(text, hint="check the disk") from None
        self._revision, self._compacted = revision, compacted
        return Committed(revision, tuple(operation.key for operation in changed))

    def _compact(self, through: int) -> None:
        """Forget what nobody can ask for once `through` is the oldest revision. The two steps must not be one:
        a removal is the proof that the changes before it are old, so it goes last."""
        superseded = (
            "DELETE FROM changes WHERE revision <= ?1 AND EXISTS (SELECT 1 FROM changes AS newer"
            " WHERE newer.key = changes.key AND newer.revision > changes.revision AND newer.revision <= ?1)"
        )
        self._db.execute(superseded, (through,))
        self._db.execute("DELETE FROM changes WHERE revision <= ? AND value IS NULL", (through,))

    def _begin(self) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._unreachable(error) from None

    def _rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _read(self, sql: str, arguments: Sequence[object]) -> _Rows:
        try:
            return self._db.execute(sql, arguments).fetchall()
        except sqlite3.Error as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: sqlite3.Error) -> StoreUnreachable:
        text = f"the store {self._path} cannot be used: {error}"
        return StoreUnreachable(text, hint="check that the disk is not full and the file is readable and writable")


def _create(path: str) -> None:
    """Make the file if it is not there, readable by this user only: goal state may hold secrets."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        hint = "check that the directory exists and that this user may write there"
        raise _invalid(path, f"cannot be opened: {error.strerror}", hint) from None


def _range(prefix: str) -> tuple[bytes, bytes]:
    low = prefix.encode()
    return low, prefix_end(low) or _LAST_KEY


def _listing(revision: int, rows: Iterable[tuple[Any, ...]]) -> Listing:
    return Listing(revision, tuple(Item(key.decode(), value, changed) for key, value, changed in rows))


def _open_error(path: str, error: sqlite3.Error) -> InvalidConfig | Unreachable:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        hint = "end the program that has it open, or name another file"
        return Unreachable(f"the store {path} is locked by another program", hint=hint)
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        hint = "check that the directory exists and that this user may write there"
        return _invalid(path, f"cannot be opened: {error}", hint)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM):
        return Unreachable(f"the store {path} cannot be used: {error}", hint="check the disk and its free space")
    backups = "restore it from a copy, or move it away to start with an empty store"
    return _invalid(path, f"is not a sound store: {error}", backups)


def _invalid(path: str, text: str, hint: str) -> InvalidConfig:
    return InvalidConfig((Problem("", f"the store {path} {text}", hint),))
