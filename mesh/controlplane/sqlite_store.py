"""The embedded store: one SQLite file of one process, or memory.

Owns the thread that alone touches the database, the lock that keeps other processes out, leases and watchers.
Knows no SQL (see `sqlite_file`). Called through the `Store` contract; opened by the control plane's server.

Nothing here polls: a commit wakes the watchers that it concerns, and each reads the history from its own
position, page by page, at its consumer's pace. So a slow consumer costs no memory, and one that is slower than
compaction gets Compacted.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mesh.backoff import Backoff
from mesh.clock import SYSTEM, Clock
from mesh.controlplane.commit_rules import check_commit
from mesh.controlplane.sqlite_file import MEMORY, Committed, Page, SqliteFile
from mesh.controlplane.store import Batch, Compare, Item, Listing, OutcomeUnknown, Put, Remove, StoreUnreachable
from mesh.errors import Conflict, InvalidConfig, MeshError, NotFound, Problem, Unreachable
from mesh.lifecycle import Tasks

KEEP_REVISIONS = 10_000
"""Revisions whose history is kept, at least."""
TIMEOUT_S = 10.0
"""Seconds that any call may take; a sound disk needs milliseconds."""
_CALLS_MAX = 256
_RETRY = Backoff(initial_s=0.5, max_s=10.0, floor=0.5)
_T = TypeVar("_T")

log = logging.getLogger("mesh.controlplane.sqlite_store")


async def open_sqlite(
    path: str, *, keep_revisions: int = KEEP_REVISIONS, bulk: bool = False, clock: Clock = SYSTEM
) -> SqliteStore:
    """Open or create the store at `path` (":memory:" keeps nothing) and end leases that an earlier process left.

    `bulk`: it holds large values that prove themselves. The file is not read through when it is opened, and no history
    is kept, which would hold each value twice: whoever watches or lists at an old revision gets Compacted.

    Raises Conflict if another process has it open, InvalidConfig if the file is not a store or cannot be
    opened, Unreachable if the disk fails.
    """
    lock = None if path == MEMORY else _FileLock(path)
    executor = ThreadPoolExecutor(1, thread_name_prefix="store")
    loop = asyncio.get_running_loop()
    try:
        # From the time on: a store that was lost and begun anew still counts on, so that workers and gateways
        # that outlived it, and ignore what is older than they know, follow it.
        kept = 0 if bulk else keep_revisions
        file = await loop.run_in_executor(executor, SqliteFile, path, kept, int(clock.wall()))
        try:
            await loop.run_in_executor(executor, file.end_lease, 0)
        except BaseException:
            executor.submit(file.close)
            raise
    except BaseException:
        executor.shutdown(wait=False)
        if lock is not None:
            lock.release()
        raise
    return SqliteStore(file, executor, lock, clock)


class SqliteStore:
    """Keeps the `Store` contract on a `SqliteFile`. Made by `open_sqlite`."""

    def __init__(
        self, file: SqliteFile, executor: ThreadPoolExecutor, lock: _FileLock | None, clock: Clock = SYSTEM
    ) -> None:
        self._file = file
        self._executor = executor
        self._lock = lock
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(_CALLS_MAX)
        self._watchers: set[_Watcher] = set()
        # Seconds granted and monotonic end of each lease; those that ended but whose keys may still be there.
        self._leases: dict[int, tuple[float, float]] = {}
        self._ended: set[int] = set()
        self._leases_changed = asyncio.Event()
        self._closed = False
        self._tasks = Tasks()
        self._tasks.spawn(self._sweep(), name="store-leases")

    async def get(self, key: str) -> Item | None:
        """Return the item, or None."""
        return await self._call(lambda: self._file.get(key))

    async def list(self, prefix: str, *, revision: int = 0) -> Listing:
        """Return all items under `prefix`, now or at `revision`. Raises Compacted."""
        return await self._call(lambda: self._file.list(prefix, revision))

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Put | Remove]) -> int:
        """Do all operations if all compares hold; return the new revision."""
        compares, operations = tuple(compares), tuple(operations)
        check_commit(compares, operations)
        leases = {operation.lease for operation in operations if isinstance(operation, Put) and operation.lease}

        def check_leases() -> None:
            for lease in leases:
                self._check_lease(lease)

        # The check and the queueing are one step of the loop, and so are a lease's end and the queueing of its
        # removal: a commit that passes the check runs before that removal.
        return (await self._call(lambda: self._write(compares, operations), check=check_leases, writes=True)).revision

    async def watch(self, prefix: str, *, after: int) -> AsyncGenerator[Batch, None]:
        """Yield each change under `prefix` after revision `after`. Ends when the store is closed."""
        watcher = _Watcher(prefix, after)
        self._watchers.add(watcher)
        try:
            while not self._closed:
                if not watcher.behind:
                    await watcher.woken.wait()
                    continue
                page = await self._page(watcher)
                for batch in page.batches:
                    if self._closed:
                        return
                    watcher.after = batch.revision
                    yield batch
                watcher.advance(page)
        finally:
            self._watchers.discard(watcher)

    async def grant(self, ttl_s: float) -> int:
        """Return a new lease of `ttl_s` seconds."""
        self._check_open()
        if not ttl_s > 0:
            raise ValueError("a lease lasts more than 0 seconds")
        lease = int(self._clock.token(15), 16) or 1
        self._leases[lease] = (ttl_s, self._clock.monotonic() + ttl_s)
        self._leases_changed.set()
        return lease

    async def keep_alive(self, lease: int) -> float:
        """Renew the lease and return its seconds. Raises NotFound."""
        self._check_open()
        self._check_lease(lease)
        ttl_s, _ = self._leases[lease]
        self._leases[lease] = (ttl_s, self._clock.monotonic() + ttl_s)
        return ttl_s

    async def revoke(self, lease: int) -> None:
        """End the lease now and remove its keys."""
        self._check_open()
        if self._leases.pop(lease, None) is None:
            return
        # If removing its keys fails now, the sweeper does it later: the lease has ended either way.
        self._ended.add(lease)
        self._leases_changed.set()
        await self._remove_ended(lease)

    async def close(self) -> None:
        """End all watches, finish what is being written and give the file free."""
        if self._closed:
            return
        self._closed = True
        for watcher in self._watchers:
            watcher.woken.set()
        await self._tasks.cancel()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._loop.run_in_executor(self._executor, self._file.close)
        except TimeoutError:
            log.warning("the store did not close within %.0f s; going on", TIMEOUT_S)
        finally:
            self._executor.shutdown(wait=False)
            if self._lock is not None:
                self._lock.release()

    async def _call(
        self, work: Callable[[], _T], *, check: Callable[[], None] | None = None, writes: bool = False
    ) -> _T:
        """Run `work` on the store's thread. `check` runs just before it is queued."""
        queued = False
        try:
            async with asyncio.timeout(TIMEOUT_S), self._slots:
                self._check_open()
                if check is not None:
                    check()
                queued = True
                return await self._loop.run_in_executor(self._executor, work)
        except TimeoutError:
            text = f"the store did not answer within {TIMEOUT_S:.0f} s"
            kind = OutcomeUnknown if writes and queued else StoreUnreachable
            raise kind(text, hint="check the disk it is on") from None

    def _write(self, compares: Sequence[Compare], operations: Sequence[Put | Remove]) -> Committed:
        return self._announced(self._file.commit(compares, operations))

    def _announced(self, committed: Committed) -> Committed:
        """On the store's thread: tell the loop what was committed, whether or not somebody still waits for it."""
        if committed.keys:
            # The loop is gone only when the process ends.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._publish, committed)
        return committed

    def _publish(self, committed: Committed) -> None:
        for watcher in self._watchers:
            watcher.notice(committed)

    async def _page(self, watcher: _Watcher) -> Page:
        try:
            return await self._call(lambda: self._file.changes(watcher.prefix, watcher.after))
        except Unreachable:
            if self._closed:
                return Page((), watcher.after, more=False)
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise Unreachable("the store is closed")

    def _check_lease(self, lease: int) -> None:
        _, end = self._leases.get(lease, (0.0, 0.0))
        if lease not in self._leases or end <= self._clock.monotonic():
            raise NotFound(f"lease {lease:x} has ended")

    async def _sweep(self) -> None:
        """End leases when their time has come, and finish the removals that failed."""
        attempt = 0
        while True:
            now = self._clock.monotonic()
            for lease in [lease for lease, (_, end) in self._leases.items() if end <= now]:
                del self._leases[lease]
                self._ended.add(lease)
            try:
                for lease in tuple(self._ended):
                    await self._remove_ended(lease)
                attempt = 0
            except MeshError as error:
                pause_s = _RETRY.pause_s(attempt, self._clock.random)
                log.warning("the keys of an ended lease could not be removed, trying again: %s", error)
                attempt += 1
                await asyncio.sleep(pause_s)
                continue
            await self._lease_news()

    async def _lease_news(self) -> None:
        """Wait until a lease ends or one is added."""
        ends = [end for _, end in self._leases.values()]
        wait_s = max(0.0, min(ends) - self._clock.monotonic()) if ends else None
        self._leases_changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._leases_changed.wait()

    async def _remove_ended(self, lease: int) -> None:
        await self._call(lambda: self._announced(self._file.end_lease(lease)))
        self._ended.discard(lease)


class _Watcher:
    """How far one watch has come. All before and at `after` was yielded; `behind` if there may be more."""

    def __init__(self, prefix: str, after: int) -> None:
        self.prefix = prefix
        self.after = after
        self.behind = True
        self.woken = asyncio.Event()
        self._noticed = 0

    def notice(self, committed: Committed) -> None:
        """Take note of a commit; commits come in order."""
        if committed.revision <= self.after or not any(key.startswith(self.prefix) for key in committed.keys):
            return
        if not self.behind:
            # Nothing since `after` was of interest, so that compaction of it is none of this watch's business.
            self.after = max(self.after, committed.revision - 1)
        self.behind = True
        self._noticed = committed.revision
        self.woken.set()

    def advance(self, page: Page) -> None:
        """Take note that all of a page was yielded."""
        self.after = max(self.after, page.through)
        self.behind = page.more or self._noticed > self.after
        if not self.behind:
            self.woken.clear()


class _FileLock:
    """Keeps other processes off a store. The system frees it when the process ends, however it ends."""

    def __init__(self, store_path: str) -> None:
        """Raises Conflict if another has it, InvalidConfig if the lock file cannot be made."""
        path = f"{os.path.realpath(store_path)}.lock"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            text = f"the store's lock file {path} cannot be opened: {error.strerror}"
            hint = "check that the directory exists and that this user may write there"
            raise InvalidConfig((Problem("", text, hint),)) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            text = f"the store {store_path} is in use by process {owner or '(unknown)'}"
            hint = f"stop it (kill {owner}), or name another file" if owner else "stop it, or name another file"
            raise Conflict(text, hint=hint) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next process in."""
        os.close(self._fd)
