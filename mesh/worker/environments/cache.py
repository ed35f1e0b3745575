"""The cache of a worker: directories by key, made once, then left as they are, shared by all that use them.

Owns `DIRECTORY/entries/KEY`, one lock file for each, and which entries go when there is too much. What makes an entry
writes to `tmp/` and is moved into place whole. Whoever makes an entry holds its lock alone, whoever uses it shares the
lock: so one makes it for all, nothing in use is removed, also with several workers on one directory, and what a killed
process held is free at once. Blocks: called in threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mesh.clock import Clock
from mesh.errors import EnvironmentFailed
from mesh.worker.environments.retention import Entry, surplus
from mesh.worker.environments.work import Work

log = logging.getLogger("mesh.worker")

TREE = "tree"
"""Directory in an entry that has its content."""
_SIZE = "size"
_KEY = re.compile(r"[a-z]+-[0-9a-f]{64}")
_LOCK_AGAIN_S = 0.05
_ATTEMPTS_MAX = 10


@dataclass(slots=True)
class _Use:
    lock: int
    count: int


class Held:
    """An entry that stays while it is held. Whoever gets one releases it."""

    def __init__(self, cache: Cache, key: str, path: Path) -> None:
        self.path = path
        self._cache = cache
        self._key = key
        self._released = False

    def again(self) -> Held:
        """Return another hold of the same entry."""
        assert not self._released
        self._cache.count(self._key, 1)
        return Held(self._cache, self._key, self.path)

    def release(self) -> None:
        """Hold it no more. Repeating it changes nothing."""
        if not self._released:
            self._released = True
            self._cache.count(self._key, -1)


class Cache:
    """The entries of one directory, as this process uses them."""

    def __init__(self, directory: Path, bytes_max: int, clock: Clock) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._clock = clock
        self._uses: dict[str, _Use] = {}
        self._guard = threading.Lock()

    def directory(self, name: str) -> Path:
        """Return a directory of the cache for one purpose; the user's own, closed to others.

        Raises EnvironmentFailed if it cannot be had.
        """
        path = self._directory / name
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
            for each in (self._directory, path):
                found = each.stat()
                if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                    raise _unusable(self._directory, "others may write to it, or own it")
        except OSError as error:
            raise _unusable(self._directory, error.strerror or str(error)) from error
        return path

    def hold(self, key: str, make: Callable[[Path], None], work: Work) -> Held:
        """Return the entry of a key; `make` fills the directory it is given if there is none yet.

        Raises what `make` raises, Stopped, and EnvironmentFailed if the cache cannot be used.
        """
        assert _KEY.fullmatch(key), key
        place = self.directory("entries") / key
        try:
            attempts = 0
            while attempts < _ATTEMPTS_MAX:
                if (held := self._held(key, place, work)) is not None:
                    return held
                # Never waited for: who has it shared has the entry, for as long as it is used.
                if (lock := self._try_lock(key, fcntl.LOCK_EX)) is None:
                    work.pause(_LOCK_AGAIN_S)
                    continue
                attempts += 1
                try:
                    if not place.exists():
                        self._make(key, place, make)
                finally:
                    os.close(lock)
        except OSError as error:
            raise _unusable(self._directory, error.strerror or str(error)) from error
        raise _unusable(self._directory, "what is made is removed again at once")

    @contextlib.contextmanager
    def temporary(self, key: str, work: Work) -> Iterator[Path]:
        """Yield a directory for as long as the block runs, to which nobody else has one of the same key meanwhile.

        Raises Stopped, and EnvironmentFailed if the cache cannot be used.
        """
        assert _KEY.fullmatch(key), key
        made = self.directory("tmp") / f"{key}.{self._clock.token(16)}"
        with self._locked(key, fcntl.LOCK_EX, work):
            made.mkdir(mode=0o700)
            try:
                yield made
            finally:
                _remove(made)
                (self.directory("locks") / key).unlink(missing_ok=True)

    def count(self, key: str, change: int) -> None:
        """Change how often an entry is held; the last one frees it."""
        with self._guard:
            use = self._uses[key]
            use.count += change
            if not use.count:
                del self._uses[key]
                os.close(use.lock)

    def measure(self, held: Held) -> None:
        """Note that an entry has another size now: only one that tools write to, each with locks of its own."""
        size = _size(held.path)
        part = held.path / f"{_SIZE}.{self._clock.token(16)}"
        part.write_text(str(size))
        part.rename(held.path / _SIZE)

    def collect(self) -> None:
        """Remove what was left half made, and the entries that there is no room for, the longest unused first.

        What is in use, here or in another process, stays. Never raises: it is tried again later.
        """
        try:
            if self._directory.exists():
                self._collect()
        except (OSError, EnvironmentFailed) as error:
            log.warning("the cache of environments cannot be tidied up: %s", error)

    def _held(self, key: str, place: Path, work: Work) -> Held | None:
        with self._guard:
            if (use := self._uses.get(key)) is not None:
                use.count += 1
                return Held(self, key, place)
        lock = self._lock(key, fcntl.LOCK_SH, work)
        if not place.is_dir():
            os.close(lock)
            return None
        os.utime(place)
        with self._guard:
            if (use := self._uses.get(key)) is not None:
                use.count += 1
                os.close(lock)
            else:
                self._uses[key] = _Use(lock, 1)
        return Held(self, key, place)

    def _make(self, key: str, place: Path, make: Callable[[Path], None]) -> None:
        temporary = self.directory("tmp")
        for left in temporary.glob(f"{key}.*"):
            _remove(left)
        made = temporary / f"{key}.{self._clock.token(16)}"
        made.mkdir(mode=0o700)
        try:
            make(made)
            (made / _SIZE).write_text(str(_size(made)))
            made.rename(place)
        except BaseException:
            _remove(made)
            raise

    def _collect(self) -> None:
        for left in self.directory("tmp").iterdir():
            self._remove_alone(left.name.partition(".")[0], left)
        with self._guard:
            used = frozenset(self._uses)
        found = list(self._entries())
        for key in surplus(found, used, self._bytes_max, self._clock.wall()):
            place = self.directory("entries") / key
            if self._remove_alone(key, place):
                log.info("removed from the cache of environments: %s", key)
        for lock in self.directory("locks").iterdir():
            # Left by what could not be made.
            if not (self.directory("entries") / lock.name).exists():
                self._remove_alone(lock.name, self.directory("entries") / lock.name)

    def _entries(self) -> Iterator[Entry]:
        for place in self.directory("entries").iterdir():
            with contextlib.suppress(OSError, ValueError):
                yield Entry(place.name, int((place / _SIZE).read_text()), place.stat().st_mtime)

    def _remove_alone(self, key: str, place: Path) -> bool:
        """Remove a directory if nobody uses or makes the entry of `key`."""
        if (lock := self._try_lock(key, fcntl.LOCK_EX)) is None:
            return False
        try:
            # Moved first: it must never be seen half removed.
            doomed = self.directory("tmp") / f"{key}.{self._clock.token(16)}"
            with contextlib.suppress(FileNotFoundError):
                place.rename(doomed)
                _remove(doomed)
            if not (self.directory("entries") / key).exists():
                (self.directory("locks") / key).unlink(missing_ok=True)
            return True
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def _locked(self, key: str, kind: int, work: Work) -> Iterator[None]:
        lock = self._lock(key, kind, work)
        try:
            yield
        finally:
            os.close(lock)

    def _lock(self, key: str, kind: int, work: Work) -> int:
        while (lock := self._try_lock(key, kind)) is None:
            work.pause(_LOCK_AGAIN_S)
        return lock

    def _try_lock(self, key: str, kind: int) -> int | None:
        path = self.directory("locks") / key
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            # One that was removed meanwhile locks nothing any more.
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(lock)
        return None


def _size(directory: Path) -> int:
    size = 0
    for parent, names, files in os.walk(directory):
        for name in (*names, *files):
            with contextlib.suppress(FileNotFoundError):  # another process's, and gone again
                size += os.lstat(os.path.join(parent, name)).st_size
    return size


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _unusable(directory: Path, why: str) -> EnvironmentFailed:
    text = f"the cache of environments on the worker, {directory}, cannot be used: {why}"
    return EnvironmentFailed(text, hint="name another directory with --cache-dir of the worker")
