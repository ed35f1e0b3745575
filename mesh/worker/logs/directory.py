"""The directory in which a worker keeps the logs of its replicas: who may read it, what lies in it, whose it is.

Owns names and permissions: `APPLICATION/DEPLOYMENT/REPLICA/PROCESS.PART.jsonl`, directories for the owner only, and a
lock, so that no two workers write to one. Blocks: called from threads, by the keeper and the reader.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from mesh.worker.logs.lines import Source
from mesh.worker.logs.retention import LogFile

_FILE = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.jsonl")
_LOCK = "lock"
_TEMPORARY = "mesh-logs-"


class LogDirectory:
    """An open directory. Empty `path`: a temporary one, removed when it is closed."""

    def __init__(self, path: str) -> None:
        """Raises OSError: it cannot be made, or another worker has it (BlockingIOError)."""
        self.temporary = not path
        if self.temporary:
            _remove_orphans()
        self.path = Path(path or tempfile.mkdtemp(prefix=_TEMPORARY))
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self._lock = _locked(self.path)

    def close(self) -> None:
        """Free it. A temporary one is removed."""
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def files(self, application: str = "") -> list[LogFile]:
        """Return all files, or those of one application."""
        return [file for directory, source in self._replicas(application) for file in _files(directory, source)]

    def sources(self, application: str) -> list[Source]:
        """Return the replicas of an application of which something is kept."""
        return [source for _, source in self._replicas(application)]

    def replica_files(self, source: Source) -> list[LogFile]:
        """Return the files of one replica, oldest first."""
        found = _files(self._replica(source), source)
        return sorted(found, key=lambda file: (file.process, file.part))

    def applications(self) -> list[str]:
        """Return the names of the applications of which something is kept."""
        return sorted(unquote(directory.name) for directory in _directories(self.path, 1))

    def create(self, source: Source, process: int, part: int) -> int:
        """Make a file and return a descriptor to write to. Raises OSError."""
        directory = self._replica(source)
        # mkdir's mode is for the last directory only; those above are in ours, which nobody else enters.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(directory / f"{process}.{part}.jsonl", flags, 0o600)

    def read(self, file: LogFile, offset: int, size: int) -> bytes:
        """Return at most `size` bytes from `offset`; b"" at the end, also if the file is gone by now."""
        try:
            fd = os.open(self._path(file), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(fd, size, offset)
        finally:
            os.close(fd)

    def remove(self, file: LogFile) -> None:
        """Remove a file, and the directories that are empty then."""
        path = self._path(file)
        with contextlib.suppress(OSError):
            path.unlink()
            for directory in list(path.parents)[:3]:
                directory.rmdir()

    def _replicas(self, application: str) -> Iterator[tuple[Path, Source]]:
        start, levels = (self.path / _name(application), 2) if application else (self.path, 3)
        for directory in _directories(start, levels):
            yield directory, Source(*(unquote(part) for part in directory.relative_to(self.path).parts))

    def _replica(self, source: Source) -> Path:
        return self.path / _name(source.application) / _name(source.deployment) / _name(source.replica_id)

    def _path(self, file: LogFile) -> Path:
        return self._replica(file.source) / f"{file.process}.{file.part}.jsonl"


def _name(text: str) -> str:
    """Return a name as that of a directory: what a control plane says must not lead out of ours."""
    name = quote(text, safe="")
    return name.replace(".", "%2E") if set(name) <= {"."} else name


def _directories(start: Path, levels: int) -> Iterator[Path]:
    """Yield the directories that many levels below `start`."""
    try:
        with os.scandir(start) as entries:
            found = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for directory in sorted(found):
        if levels == 1:
            yield directory
        else:
            yield from _directories(directory, levels - 1)


def _files(directory: Path, source: Source) -> list[LogFile]:
    found = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if (name := _FILE.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                stat = entry.stat(follow_symlinks=False)
                found.append(LogFile(source, int(name[1]), int(name[2]), stat.st_size, stat.st_mtime))
    return found


def _locked(directory: Path) -> int:
    fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _remove_orphans() -> None:
    """Remove temporary directories of workers that were killed: they hold their locks no more."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if directory.is_symlink() or directory.stat().st_uid != os.getuid() or not (directory / _LOCK).exists():
                continue
            lock = _locked(directory)
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)
