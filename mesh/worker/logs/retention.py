"""Which files of logs are kept, and which go.

Owns the bounds. Pure: it is told what lies there and names what is to be removed. Called by the keeper.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from mesh.worker.logs.lines import Source

FILE_BYTES_MAX = 2 * 1024 * 1024
REPLICA_BYTES_MAX = 8 * 1024 * 1024
REPLICA_FILES_MAX = 20
"""A replica that crashes again and again leaves a small file each time."""
WORKER_BYTES_MAX = 512 * 1024 * 1024
WORKER_FILES_MAX = 10_000
DEAD_KEPT_S = 24 * 3600.0
"""Seconds for which what a replica that is gone printed last is kept."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file: a part of what one process of a replica printed."""

    source: Source
    process: int
    part: int
    bytes: int
    modified: float
    """Unix seconds."""


def full(source_files: Iterable[LogFile], *, spare: int = 0) -> list[LogFile]:
    """Return what of one replica's files is too much, oldest first; `spare` bytes are to have room as well.

    The newest is never among them.
    """
    files = sorted(source_files, key=lambda file: (file.process, file.part))
    size = sum(file.bytes for file in files) + spare
    gone = []
    for i, file in enumerate(files[:-1]):
        if size <= REPLICA_BYTES_MAX and len(files) - i <= REPLICA_FILES_MAX:
            break
        gone.append(file)
        size -= file.bytes
    return gone


def removals(files: Iterable[LogFile], alive: frozenset[Source], now: float) -> list[LogFile]:
    """Return the files that are to go: what is too much of a replica, dead ones' old files, what is too much of all.

    For room in all, files of the dead go first, oldest first. A file that its process may still write to stays.
    """
    ordered = sorted(files, key=lambda file: (_text(file.source), file.process, file.part))
    gone: list[LogFile] = []
    dead: list[LogFile] = []
    living: list[LogFile] = []
    for source, group in groupby(ordered, key=lambda file: file.source):
        own = list(group)
        is_alive = source in alive
        if not is_alive and max(file.modified for file in own) < now - DEAD_KEPT_S:
            gone += own
            continue
        too_much = full(own)
        gone += too_much
        left = own[len(too_much) :]
        (living if is_alive else dead).extend(left[:-1] if is_alive else left)
    return gone + _for_room(ordered, gone, dead, living)


def _for_room(files: list[LogFile], gone: list[LogFile], dead: list[LogFile], living: list[LogFile]) -> list[LogFile]:
    size = sum(file.bytes for file in files) - sum(file.bytes for file in gone)
    count = len(files) - len(gone)
    more: list[LogFile] = []
    for group in (dead, living):
        for file in sorted(group, key=lambda file: file.modified):
            if size <= WORKER_BYTES_MAX and count <= WORKER_FILES_MAX:
                return more
            more.append(file)
            size -= file.bytes
            count -= 1
    return more


def _text(source: Source) -> tuple[str, str, str]:
    return (source.application, source.deployment, source.replica_id)
