"""Answers the control plane's reads of logs: from the disk to a stream that is read no faster than people read.

Owns how many reads there are at once, and their threads. Knows no replica. Called by the session's stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

from mesh.v1 import log_service_pb2 as pb
from mesh.v1.worker_service_pb2 import LogsFound, ReadLogs, SendLogsRequest
from mesh.worker.logs.keeper import Keeper
from mesh.worker.logs.lines import Wanted
from mesh.worker.logs.reading import Asked, Found, Reading

READS_MAX = 16
LOOK_S = 0.1
"""Seconds between two looks for what was written, at least; what is written meanwhile goes as one."""
LOOK_AGAIN_S = 5.0
"""The same at most: should a word of the keeper be lost."""
END_S = 10.0
_T = TypeVar("_T")

log = logging.getLogger("mesh.worker")


class LogSender:
    """All reads of one worker."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._threads = ThreadPoolExecutor(2, "log-reads")
        self._reads = 0

    def close(self) -> None:
        """Take no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, asked: ReadLogs, stub: Any) -> None:
        """Answer one read by `stub`, of WorkerService.

        It ends when all is sent, when nobody wants it any more, or by cancelling.
        """
        call = stub.SendLogs()
        self._reads += 1
        try:
            await self._send(asked, call)
            async with asyncio.timeout(END_S):
                await call.done_writing()
                await call
        except (grpc.aio.BaseError, asyncio.InvalidStateError, TimeoutError) as error:
            log.debug("a read of logs ended early: %s", error)
        finally:
            self._reads -= 1
            call.cancel()

    async def _send(self, asked: ReadLogs, call: Any) -> None:
        directory = self._keeper.directory
        notices = [f"logs are not kept: {self._keeper.trouble}"] if self._keeper.trouble else []
        if self._reads > READS_MAX or directory is None:
            if directory is not None:
                notices = [f"{READS_MAX} reads of logs run there already; nothing of it is shown"]
            first = SendLogsRequest(read_id=asked.read_id, found=LogsFound(), notices=notices, caught_up=True)
            await call.write(first)
            return
        reading = Reading(directory, _asked(asked.request), self._keeper.alive)
        names = await self._in_thread(reading.begin)
        found = LogsFound(applications=names.applications, deployments=names.deployments, replica_ids=names.replica_ids)
        await call.write(SendLogsRequest(read_id=asked.read_id, found=found, notices=notices))
        with self._news(call) as news:
            await self._send_present(reading, call)
            await call.write(SendLogsRequest(caught_up=True))
            while asked.request.follow and not call.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await news.wait()
                news.clear()
                await self._in_thread(reading.look)
                await self._send_present(reading, call)
                await asyncio.sleep(LOOK_S)

    async def _send_present(self, reading: Reading, call: Any) -> None:
        while lines := await self._in_thread(reading.next):
            await call.write(SendLogsRequest(entries=_entries(lines)))

    @contextlib.contextmanager
    def _news(self, call: Any) -> Any:
        """Yield an event that is set whenever something was written, and when the call is over."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def told() -> None:
            loop.call_soon_threadsafe(news.set)

        call.add_done_callback(lambda _: news.set())
        self._keeper.listen(told)
        try:
            yield news
        finally:
            self._keeper.unlisten(told)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _asked(request: pb.ReadLogsRequest) -> Asked:
    return Asked(
        request.application,
        request.deployment,
        request.replica,
        Wanted(request.since, request.request_id),
        request.tail_lines,
        request.previous,
        {position.replica_id: (position.process, position.line) for position in request.after},
    )


def _entries(lines: Iterable[Found]) -> list[pb.LogEntry]:
    return [
        pb.LogEntry(
            time=found.kept.line.time,
            application=found.source.application,
            deployment=found.source.deployment,
            position=pb.LogPosition(replica_id=found.source.replica_id, process=found.process, line=found.kept.number),
            level=found.kept.line.level,
            message=found.kept.line.message,
            request_id=found.kept.line.request_id,
            trace_id=found.kept.line.trace_id,
            fields=found.kept.line.fields,
        )
        for found in lines
    ]
