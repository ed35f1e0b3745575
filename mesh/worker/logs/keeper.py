"""Writes what replicas print to the worker's disk.

Owns the queue between the event loop and the disk, the one thread that writes, and what is left out when the disk is
too slow, full or not there: that is counted and told, and costs no replica anything. What is kept is decided in
`retention`. Called by the supervisor, through `running`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from mesh.clock import Clock
from mesh.worker.logs import retention
from mesh.worker.logs.directory import LogDirectory
from mesh.worker.logs.lines import Line, Source, encoded, in_order, line_of

QUEUE_LINES_MAX = 20_000
BATCH_S = 0.05
"""Seconds for which lines gather between two writes."""
SWEEP_S = 60.0
SWEEP_BYTES = 16 * 1024 * 1024
"""Written bytes after which it is looked at once more what is to go."""
PAUSE_S = 60.0
"""Seconds after the end of its last process for which a replica counts as alive: it may only pause between two."""
WARN_EVERY_S = 60.0
_STOP_S = 5.0

log = logging.getLogger("mesh.worker")


@dataclass(eq=False)
class ProcessLog:
    """The log of one process of a replica. Written to by the keeper's thread."""

    source: Source
    process: int
    keeper: Keeper
    number: int = 0
    time: float = 0.0
    """Of its last line."""
    part: int = 0
    size: int = 0
    fd: int = -1
    torn: bool = False
    """The last line in the file is a part of one."""
    lost: int = 0
    """Lines that were left out and not told of yet."""

    def write(self, texts: list[str]) -> None:
        """Keep lines that the process printed. Never waits."""
        self.keeper.put(self, texts)

    def end(self, words: str, level: str) -> None:
        """Keep how the process ended, and close."""
        self.keeper.put(self, [], words, level)


@dataclass(slots=True)
class _Batch:
    """Lines of one process that were read at one moment, and how it ended, if it did."""

    log: ProcessLog
    now: float
    texts: list[str]
    ended: str = ""
    level: str = ""


@dataclass(slots=True)
class _Queue:
    batches: list[_Batch] = field(default_factory=list)
    lines: int = 0


class Keeper:
    """The logs of one worker. Empty `path`: a temporary directory, removed when it is closed."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self.directory: LogDirectory | None = None
        self.trouble = ""
        """Why lines cannot be kept now."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._queue = _Queue()
        self._thread: threading.Thread | None = None
        self._processes: dict[Source, int] = {}
        self._open: dict[Source, ProcessLog] = {}
        self._ended: dict[Source, float] = {}
        self._listeners: set[Callable[[], None]] = set()
        self._warned_at = -WARN_EVERY_S
        self._swept_at = 0.0
        self._written = 0

    def start(self) -> None:
        """Open the directory, and begin to write. One that cannot be used is warned of, and nothing is kept."""
        for path in dict.fromkeys((self._path, "")):
            try:
                self.directory = LogDirectory(path)
                break
            except BlockingIOError:
                log.warning("another worker keeps its logs in %s: they go to a temporary directory", path)
            except OSError as error:
                self._failed(error)
                return
        if self.directory is None:
            return
        for file in self.directory.files():
            self._processes[file.source] = max(file.process, self._processes.get(file.source, 0))
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and end. Blocks for some seconds at most."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)
            self._thread = None
        directory, self.directory = self.directory, None
        if directory is not None:
            directory.close()

    def open(self, source: Source) -> ProcessLog:
        """Return the log of the replica's next process."""
        with self._lock:
            process = self._processes[source] = self._processes.get(source, 0) + 1
            opened = self._open[source] = ProcessLog(source, process, self)
        return opened

    def alive(self) -> dict[Source, int]:
        """Return the replicas that are not gone, each with its process that runs, 0: none now."""
        now = self._clock.monotonic()
        with self._lock:
            self._ended = {source: at for source, at in self._ended.items() if now - at < PAUSE_S}
            return {**dict.fromkeys(self._ended, 0), **{source: log.process for source, log in self._open.items()}}

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener`, from the keeper's thread, whenever something was written."""
        with self._lock:
            self._listeners.add(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        with self._lock:
            self._listeners.discard(listener)

    def put(self, target: ProcessLog, texts: list[str], ended: str = "", level: str = "") -> None:
        """Queue lines of a process; with `ended` it writes no more. Past the bound they are left out and counted."""
        now = self._clock.wall()
        with self._lock:
            if ended and self._open.get(target.source) is target:
                del self._open[target.source]
                self._ended[target.source] = self._clock.monotonic()
            if self._thread is None:
                return
            if self._queue.lines + len(texts) > QUEUE_LINES_MAX:
                target.lost += len(texts)
                texts = []
            if texts or ended:
                self._queue.batches.append(_Batch(target, now, texts, ended, level))
                self._queue.lines += len(texts)
        self._wake.set()

    # In the thread.

    def _run(self) -> None:
        while True:
            self._wake.wait(SWEEP_S)
            self._wake.clear()
            closing = self._closing.is_set()
            with self._lock:
                queue, self._queue = self._queue, _Queue()
            for target, batches in _by_log(queue.batches).items():
                self._write(target, batches)
            if queue.batches:
                self._notify()
            if closing:
                return
            self._sweep()
            self._closing.wait(BATCH_S)

    def _notify(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            with contextlib.suppress(RuntimeError):  # its event loop is closed
                listener()

    def _write(self, target: ProcessLog, batches: list[_Batch]) -> None:
        with self._lock:
            lost, target.lost = target.lost, 0
        lines = [Line(batches[0].now, f"… {lost} lines left out", "WARNING")] if lost else []
        for batch in batches:
            lines += [line_of(text, batch.now) for text in batch.texts]
            if batch.ended:
                lines.append(Line(batch.now, f"(the process {batch.ended})", batch.level))
        try:
            self._append(target, lines)
            self.trouble = ""
        except OSError as error:
            with self._lock:
                target.lost += lost + sum(len(batch.texts) for batch in batches)
            self._failed(error)
        if batches[-1].ended:
            _close(target)

    def _append(self, target: ProcessLog, lines: list[Line]) -> None:
        assert self.directory is not None
        data = bytearray()
        number = target.number
        for line in lines:
            number += 1
            ordered = in_order(line, target.time)
            target.time = ordered.time
            data += encoded(ordered, number, target.process, target.source)
            if target.size + len(data) >= retention.FILE_BYTES_MAX:
                self._put(target, data)
                target.number = number
                _close(target)
                data.clear()
        if data:
            self._put(target, data)
            target.number = number

    def _put(self, target: ProcessLog, data: bytearray) -> None:
        assert self.directory is not None
        if target.fd < 0:
            target.part += 1
            target.fd = self.directory.create(target.source, target.process, target.part)
            for file in retention.full(self.directory.replica_files(target.source), spare=retention.FILE_BYTES_MAX):
                self.directory.remove(file)
        if target.torn:
            data[:0] = b"\n"
        view = memoryview(bytes(data))
        target.torn = True
        while view:
            written = os.write(target.fd, view)
            target.size += written
            self._written += written
            view = view[written:]
        target.torn = False

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        if self.directory is None or (now - self._swept_at < SWEEP_S and self._written < SWEEP_BYTES):
            return
        self._swept_at, self._written = now, 0
        alive = frozenset(self.alive())
        files = self.directory.files()
        for file in retention.removals(files, alive, self._clock.wall()):
            self.directory.remove(file)
        kept = {file.source for file in files}
        with self._lock:
            self._processes = {s: number for s, number in self._processes.items() if s in kept or s in alive}

    def _failed(self, error: OSError) -> None:
        self.trouble = f"cannot write {self._path or 'a temporary directory'}: {error.strerror or error}"
        if (now := self._clock.monotonic()) - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            log.warning("logs of replicas are not kept: %s", self.trouble)


def _by_log(batches: list[_Batch]) -> dict[ProcessLog, list[_Batch]]:
    by_log: dict[ProcessLog, list[_Batch]] = {}
    for batch in batches:
        by_log.setdefault(batch.log, []).append(batch)
    return by_log


def _close(target: ProcessLog) -> None:
    if target.fd >= 0:
        os.close(target.fd)
    target.fd, target.size, target.torn = -1, 0, False
