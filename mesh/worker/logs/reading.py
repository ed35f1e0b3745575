"""What one read wants of a worker: which replicas, the last lines of each merged by time, and what comes after.

Owns the choice of replicas and the merge. Blocks: called from threads, by the sender.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mesh.worker.logs.directory import LogDirectory
from mesh.worker.logs.lines import Kept, Source, Wanted
from mesh.worker.logs.reader import Position, ReplicaReader

TAIL_LINES_MAX = 10_000
REPLICAS_MAX = 1000
"""Of one read; the last ones to have written."""
NAMES_MAX = 1000
LINES_MAX, CHUNK_BYTES_MAX = 500, 128 * 1024
"""Of what one `next` returns."""
_LINE_BYTES = 200
"""Of a line, besides its texts."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a read is about. Empty deployment and replica: all; `replica` is how an id begins."""

    application: str
    deployment: str = ""
    replica: str = ""
    wanted: Wanted = field(default_factory=Wanted)
    tail_lines: int = 0
    previous: bool = False
    after: Mapping[str, Position] = field(default_factory=dict)
    """Of replicas whose lines up to there are known."""


@dataclass(frozen=True, slots=True)
class Found:
    """A line, whose it is and which process printed it."""

    source: Source
    process: int
    kept: Kept


@dataclass(frozen=True, slots=True)
class Names:
    """Of what the worker keeps logs; deployments and replicas are those of the application that was asked for."""

    applications: tuple[str, ...] = ()
    deployments: tuple[str, ...] = ()
    replica_ids: tuple[str, ...] = ()


class Reading:
    """One read, from its first line to wherever it is given up."""

    def __init__(self, directory: LogDirectory, asked: Asked, alive: Callable[[], Mapping[Source, int]]) -> None:
        """`alive` returns the replicas that are not gone, each with the process that runs, 0: none."""
        self._directory = directory
        self._asked = asked
        self._alive = alive
        self._readers: dict[Source, ReplicaReader] = {}
        self._next: list[tuple[float, int, ReplicaReader]] = []
        self._idle: list[ReplicaReader] = []
        self._count = 0

    def begin(self) -> Names:
        """Find the replicas, and where to begin in each. Returns what there is to be asked for."""
        files = self._directory.files(self._asked.application)
        modified: dict[Source, float] = {}
        for file in files:
            modified[file.source] = max(file.modified, modified.get(file.source, 0.0))
        newest = sorted(modified, key=lambda source: modified[source], reverse=True)
        for source in [source for source in newest if self._is_asked(source)][:REPLICAS_MAX]:
            self._open(source, tail=True)
        return Names(
            tuple(self._directory.applications()[:NAMES_MAX]),
            tuple(sorted({source.deployment for source in modified})[:NAMES_MAX]),
            tuple(sorted(source.replica_id for source in newest[:NAMES_MAX])),
        )

    def next(self) -> list[Found]:
        """Return the lines that come next, in order of time; empty: there are no more now."""
        found: list[Found] = []
        size = 0
        while self._next and len(found) < LINES_MAX and size < CHUNK_BYTES_MAX:
            _, _, reader = heapq.heappop(self._next)
            if (line := reader.peek()) is not None:
                process, kept = line
                found.append(Found(reader.source, process, kept))
                size += _LINE_BYTES + len(kept.line.message) + sum(map(len, kept.line.fields.values()))
                reader.take()
            self._push(reader)
        return found

    def look(self) -> None:
        """See what was written since, by replicas that are new as well."""
        for source in self._directory.sources(self._asked.application):
            if source not in self._readers and self._is_asked(source):
                self._open(source, tail=False)
        idle, self._idle = self._idle, []
        for reader in idle:
            self._push(reader)

    def _is_asked(self, source: Source) -> bool:
        asked = self._asked
        return asked.deployment in ("", source.deployment) and source.replica_id.startswith(asked.replica)

    def _open(self, source: Source, *, tail: bool) -> None:
        if len(self._readers) >= REPLICAS_MAX:
            return
        process = 0
        if self._asked.previous and not (process := self._previous(source)):
            return
        reader = self._readers[source] = ReplicaReader(self._directory, source, self._asked.wanted, process)
        after = self._asked.after.get(source.replica_id)
        if after is not None and after[0] <= reader.newest_process():
            reader.skip_to(after)
        elif tail:
            reader.seek_tail(min(self._asked.tail_lines, TAIL_LINES_MAX))
        self._push(reader)

    def _previous(self, source: Source) -> int:
        """Return the last process of a replica that has ended; 0: there is none, or the replica is gone."""
        if (running := self._alive().get(source)) is None:
            return 0
        processes = [file.process for file in self._directory.replica_files(source)]
        return max((process for process in processes if not running or process < running), default=0)

    def _push(self, reader: ReplicaReader) -> None:
        if (line := reader.peek()) is None:
            self._idle.append(reader)
            return
        self._count += 1
        heapq.heappush(self._next, (line[1].line.time, self._count, reader))
