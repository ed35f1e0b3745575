"""Reads of logs that the leader has under way: whom it asked, what has come, what is missing.

Owns the number of reads, the tickets by which workers answer, and the time they have for it. A reader that is slow
slows the workers' sending, not this process. Lines are merged in `log_merge`. Called by `logs` (a read) and `sessions`
(what workers send).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

from mesh.clock import Clock
from mesh.controlplane.bell import Bell, wait_until
from mesh.controlplane.log_merge import LogMerge, bounded
from mesh.controlplane.streams import read
from mesh.controlplane.term import Term
from mesh.errors import Conflict
from mesh.v1.log_service_pb2 import LogEntry, ReadLogsRequest
from mesh.v1.worker_service_pb2 import (
    LogsFound,
    ReadLogs,
    SendLogsRequest,
    SendLogsResponse,
    SessionResponse,
    StopLogs,
)

READS_MAX = 32
ANSWER_S = 5.0
"""Seconds that a worker has to begin its answer, and for each further part of what was there."""
ASK_AGAIN_S = 2.0
"""Seconds after which a worker whose answer broke off is asked again, while its session stands."""
LOOK_S = 0.5
"""Seconds between two looks for workers that came, or came back, while lines are followed."""
MESSAGE_BYTES_MAX = 1024 * 1024
TAIL_LINES_MAX = 10_000
_NOTICES_MAX, _NOTICE_CHARS_MAX, _NAMES_MAX = 20, 500, 1000
_Context = grpc.aio.ServicerContext[Any, Any]


class Feed:
    """One worker's part in a read."""

    def __init__(self, read_id: str, worker_id: str, session: int, now: float) -> None:
        self.read_id = read_id
        self.worker_id = worker_id
        self.session = session
        self.heard_at = now
        """When it sent something last, or was asked for it."""
        self.begun = False
        self.caught_up = False
        self.over = False
        self.names = LogsFound()
        self._limit: asyncio.Timeout | None = None

    @contextlib.asynccontextmanager
    async def until_over(self) -> AsyncIterator[None]:
        """Run the block until it ends or the feed is over, whichever comes first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                self._limit = limit
                try:
                    yield
                finally:
                    self._limit = None

    def end(self) -> None:
        """No more is taken of it."""
        self.over = True
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())


class Read:
    """One read. `request` is checked."""

    def __init__(self, term: Term, request: ReadLogsRequest, reads: LogReads, clock: Clock) -> None:
        self.merge = LogMerge()
        self.changed = Bell()
        """Rings when something has come, was taken, or the read is over."""
        self.closed = False
        self.notices: list[str] = []
        self._term = term
        self._request = request
        self._reads = reads
        self._clock = clock
        self._began = clock.wall()
        self._told: set[str] = set()
        self._feeds: dict[str, Feed] = {}

    def begin(self) -> None:
        """Ask all workers that are connected."""
        for session, outbox in list(self._term.outboxes.items()):
            self._ask(outbox.worker_id, session, self._request, holds_up=True)

    def follow(self) -> None:
        """Ask workers that came, or came back, for what they have written since."""
        for session, outbox in list(self._term.outboxes.items()):
            feed = self._feeds.get(outbox.worker_id)
            if feed is not None and feed.session == session and not self._may_ask_again(feed):
                continue
            request = ReadLogsRequest()
            request.CopyFrom(self._request)
            request.tail_lines = TAIL_LINES_MAX
            if not request.after:  # else the caller has read before, and `since` is where that broke off
                request.since = max(request.since, self._began)
            known = {position.replica_id: position for position in self._request.after}
            del request.after[:]
            request.after.extend((known | self.merge.positions).values())
            self._ask(outbox.worker_id, session, request, holds_up=False)

    async def answers(self) -> None:
        """Wait until each worker that was asked has begun its answer, or its time is over."""
        while any(not (feed.begun or feed.over) for feed in self._feeds.values()):
            ticket = self.changed.ticket()
            self.give_up_silent()
            await wait_until(ticket, LOOK_S)

    def names(self) -> list[LogsFound]:
        """Return what the workers keep."""
        return [feed.names for feed in self._feeds.values()]

    def take(self, count: int) -> list[LogEntry]:
        """Return the lines that come next."""
        if taken := self.merge.take(count):
            now = self._clock.monotonic()
            for feed in self._feeds.values():
                feed.heard_at = now  # it had to wait for the reader
            self.changed.ring()
        return taken

    def take_notices(self) -> list[str]:
        """Return what is to be told of what is missing, once."""
        notices, self.notices = self.notices, []
        return notices

    def notice(self, text: str) -> None:
        """Tell the reader, once, of something that is missing."""
        if len(self._told) < _NOTICES_MAX and text not in self._told:
            self._told.add(text)
            self.notices.append(text[:_NOTICE_CHARS_MAX])

    def give_up_silent(self) -> None:
        """Go on without workers that others wait for and that say nothing."""
        now = self._clock.monotonic()
        for worker_id in self.merge.holding_up():
            feed = self._feeds[worker_id]
            if now - feed.heard_at >= ANSWER_S:
                self.notice(f"worker {worker_id} did not answer within {ANSWER_S:g} s: its lines are missing")
                self.end(feed)

    def end(self, feed: Feed, *, tell: bool = True) -> None:
        """No more will come of this worker; with `tell` it is told so."""
        if feed.over:
            return
        feed.end()
        self._reads.forget(feed)
        if self._feeds.get(feed.worker_id) is feed:
            self.merge.flows(feed.worker_id)
        if tell and (outbox := self._term.outboxes.get(feed.session)) is not None:
            outbox.put(SessionResponse(stop_logs=StopLogs(read_id=feed.read_id)))
        self.changed.ring()

    def close(self) -> None:
        """Nobody reads any more."""
        self.closed = True
        for feed in self._feeds.values():
            self.end(feed)
        self.changed.ring()

    def receive(self, feed: Feed, message: SendLogsRequest) -> None:
        """Take what a worker sent."""
        if feed.over:
            return
        feed.heard_at = self._clock.monotonic()
        feed.begun = True
        if message.HasField("found"):
            feed.names = LogsFound(
                applications=message.found.applications[:_NAMES_MAX],
                deployments=message.found.deployments[:_NAMES_MAX],
                replica_ids=message.found.replica_ids[:_NAMES_MAX],
            )
        for entry in message.entries:
            self.merge.add(feed.worker_id, bounded(entry, feed.worker_id, self._request.application))
        for text in message.notices[:_NOTICES_MAX]:
            self.notice(f"worker {feed.worker_id}: {text}")
        if message.caught_up:
            feed.caught_up = True
            self.merge.flows(feed.worker_id)
        self.changed.ring()

    def _may_ask_again(self, feed: Feed) -> bool:
        return feed.over and self._clock.monotonic() - feed.heard_at >= ASK_AGAIN_S

    def _ask(self, worker_id: str, session: int, request: ReadLogsRequest, *, holds_up: bool) -> None:
        if (old := self._feeds.get(worker_id)) is not None:
            self.end(old)
        feed = Feed(self._clock.token(32), worker_id, session, self._clock.monotonic())
        self._feeds[worker_id] = feed
        self.merge.expect(worker_id, holds_up=holds_up)
        self._reads.await_answer(feed, self)
        asked = SessionResponse(read_logs=ReadLogs(read_id=feed.read_id, request=request))
        self._term.outboxes[session].put(asked)


class LogReads:
    """All reads of this instance."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._count = 0
        self._awaited: dict[str, tuple[Feed, Read]] = {}

    @contextlib.contextmanager
    def open(self, term: Term, request: ReadLogsRequest) -> Iterator[Read]:
        """Yield a new read. Raises Conflict if there are too many."""
        if self._count >= READS_MAX:
            text = f"{READS_MAX} reads of logs are under way already"
            raise Conflict(text, hint="end one of them, or try again later")
        opened = Read(term, request, self, self._clock)
        self._count += 1
        try:
            opened.begin()
            yield opened
        finally:
            self._count -= 1
            opened.close()

    def await_answer(self, feed: Feed, of: Read) -> None:
        """A worker will send this."""
        self._awaited[feed.read_id] = (feed, of)

    def forget(self, feed: Feed) -> None:
        """Nobody waits for it any more."""
        self._awaited.pop(feed.read_id, None)

    async def receive(self, context: _Context) -> SendLogsResponse:
        """Take what a worker sends, no faster than it is read, until either side has enough."""
        try:
            first = await read(context, ANSWER_S)
        except TimeoutError:
            first = None
        found = self._awaited.get(first.read_id) if first is not None else None
        if first is None or found is None or found[0].begun:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nobody waits for this")
        feed, of = found
        try:
            async with feed.until_over():
                await _receive_all(first, feed, of, context)
        finally:
            if not feed.over and not feed.caught_up:
                of.notice(f"worker {feed.worker_id} ended its answer early: lines of it may be missing")
            of.end(feed, tell=False)
        return SendLogsResponse()


async def _receive_all(first: SendLogsRequest, feed: Feed, of: Read, context: _Context) -> None:
    message: SendLogsRequest | None = first
    while message is not None and message.ByteSize() <= MESSAGE_BYTES_MAX:
        of.receive(feed, message)
        while not of.merge.has_room(feed.worker_id):
            await wait_until(of.changed.ticket(), None)
        message = await read(context, None)
