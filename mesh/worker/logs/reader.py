"""Reads the log of one replica from the worker's disk, line by line in the order in which it was written.

Owns positions in files. Files that go while they are read are passed over. Blocks: called from threads, by `reading`.
"""

from __future__ import annotations

from collections import deque

from mesh.worker.logs.directory import LogDirectory
from mesh.worker.logs.lines import EARLY_S, Kept, Source, Wanted, decoded, time_and_number
from mesh.worker.logs.retention import LogFile

BLOCK_BYTES = 32 * 1024
LINE_BYTES_MAX = 1024 * 1024
Position = tuple[int, int]
"""Number of a process, and of a line of it."""


class ReplicaReader:
    """One replica's lines, of all its processes or one. At the start it stands before the first."""

    def __init__(self, directory: LogDirectory, source: Source, wanted: Wanted, process: int = 0) -> None:
        """`process`: read this one only; 0: all."""
        self.source = source
        self._directory = directory
        self._wanted = wanted
        self._process = process
        self._file: LogFile | None = None
        self._offset = 0
        self._after: Position = (process, 0)
        self._lines: deque[tuple[int, Kept]] = deque()

    def skip_to(self, after: Position) -> None:
        """Read what comes after this line."""
        self._after = max(after, self._after)

    def newest_process(self) -> int:
        """Return the number of the newest process; 0: there is none. A directory that was lost counts anew."""
        return max((file.process for file in self._files()), default=0)

    def seek_tail(self, count: int) -> None:
        """Read the last `count` lines of what is there, and what comes later."""
        files = self._files()
        left = count
        for file in reversed(files):
            data = self._whole(file)
            offset, found, over = _tail(data, left, self._wanted)
            left -= found
            if left <= 0 or over:
                self._file, self._offset = file, offset
                return

    def peek(self) -> tuple[int, Kept] | None:
        """Return the number of the process and the line that come next; None: there is no more now."""
        while not self._lines and self._read():
            pass
        return self._lines[0] if self._lines else None

    def take(self) -> None:
        """Go on to the line after the one that `peek` returned."""
        self._lines.popleft()

    def _files(self) -> list[LogFile]:
        files = self._directory.replica_files(self.source)
        return [file for file in files if not self._process or file.process == self._process]

    def _whole(self, file: LogFile) -> bytes:
        data = bytearray()
        while block := self._directory.read(file, len(data), LINE_BYTES_MAX):
            data += block
        return bytes(data)

    def _read(self) -> bool:
        """Read some more. False if there is no more."""
        if self._read_block():
            return True
        at = (self._file.process, self._file.part) if self._file else (self._after[0], 0)
        later = [file for file in self._files() if (file.process, file.part) > at]
        if not later:
            return False
        # Once more: what was written to it before the next file was made must not be missed.
        if self._read_block():
            return True
        self._file, self._offset = later[0], 0
        return True

    def _read_block(self) -> bool:
        if (file := self._file) is None:
            return False
        size = BLOCK_BYTES
        while (end := (data := self._directory.read(file, self._offset, size)).rfind(b"\n")) < 0:
            if len(data) < size or size > LINE_BYTES_MAX:
                return False
            size *= 4
        self._offset += end + 1
        for kept in data[:end].split(b"\n"):
            head = time_and_number(kept)
            if head is None or (file.process, head[1]) <= self._after:
                continue
            if (line := decoded(kept, self._wanted)) is not None:
                self._lines.append((file.process, line))
        return True


def _tail(data: bytes, count: int, wanted: Wanted) -> tuple[int, int, bool]:
    """Return where the last `count` wanted lines begin, how many they are, and whether older ones are too old."""
    end = data.rfind(b"\n")
    offset, found = end + 1, 0
    every = wanted == Wanted()
    while end > 0 and found < count:
        start = data.rfind(b"\n", 0, end) + 1
        kept = data[start:end]
        end = start - 1
        head = time_and_number(kept)
        if head is not None and head[0] < wanted.since - EARLY_S:
            return offset, found, True
        if head is not None and (every or decoded(kept, wanted) is not None):
            found, offset = found + 1, start
    return offset, found, False
