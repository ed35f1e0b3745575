"""Watches on etcd that mend themselves.

Owns one stream per watch and where it has come to. Called by `etcd_store` only.

The position moves with events and with etcd's own progress notices, which come in order with the events. Answers
to progress requests only prove that the other side lives: older servers may send them ahead of events. Nothing is
buffered here: a slow consumer is not read for, and etcd serves it from history, or tells it that this is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import grpc

from mesh.backoff import Backoff
from mesh.controlplane import etcdrpc
from mesh.controlplane.commit_rules import prefix_end
from mesh.controlplane.etcd_connection import EtcdConnection
from mesh.controlplane.etcd_errors import Effect, Failure, classify
from mesh.controlplane.etcdrpc.kv_pb2 import Event as WireEvent
from mesh.controlplane.store import Batch, Compacted, Event
from mesh.errors import Unreachable
from mesh.lifecycle import Tasks

_PULSE_S = 15.0
_OPEN_S = 5.0
_RECONNECT = Backoff(initial_s=0.1, max_s=3.0)
_DENIED_MAX = 3

log = logging.getLogger("mesh.controlplane.etcd_watch")


async def follow(connection: EtcdConnection, tasks: Tasks, prefix: str, after: int) -> AsyncGenerator[Batch, None]:
    """Yield each change under `prefix` after revision `after`, until the connection is closed.

    Raises Compacted, and InvalidConfig if etcd keeps refusing this user.
    """
    attempt = denied = 0
    while not connection.closed.is_set():
        stream = _Stream(connection, tasks)
        try:
            await stream.open(connection.options.root + prefix, after)
            while True:
                response = await stream.read()
                for batch in batches(response.events, len(connection.options.root.encode())):
                    if connection.closed.is_set():
                        return
                    if batch.revision > after:
                        after = batch.revision
                        yield batch
                after = max(after, stream.progress(response))
                attempt = denied = 0
        except _Broken as broken:
            if connection.closed.is_set():
                return
            if broken.failure.error is not None:
                denied += 1
                if denied == _DENIED_MAX or not connection.options.user:
                    raise broken.failure.error from None
                await _log_in_again(connection)
            level = logging.WARNING if attempt == 0 else logging.DEBUG
            log.log(level, "watch of %r broke at revision %d, connecting again: %s", prefix, after, broken.failure.text)
        finally:
            stream.close()
        await connection.mend()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RECONNECT.pause_s(attempt, connection.clock.random)):
                await connection.closed.wait()
        attempt += 1


def batches(events: Iterable[Any], root_bytes: int) -> Iterable[Batch]:
    """Group etcd's events, which come in order of revision, by revision; cut the root off each key."""
    for revision, group in itertools.groupby(events, key=lambda event: int(event.kv.mod_revision)):
        yield Batch(revision, tuple(_event(event, root_bytes) for event in group))


def _event(event: Any, root_bytes: int) -> Event:
    removed = event.type == WireEvent.DELETE
    key = event.kv.key[root_bytes:].decode()
    return Event(key, None if removed else event.kv.value, event.kv.mod_revision)


async def _log_in_again(connection: EtcdConnection) -> None:
    try:
        await connection.login()
    except (grpc.RpcError, Unreachable) as error:
        log.debug("a new login failed, trying again: %s", error)


class _Broken(Exception):
    """The stream cannot go on. `failure.error` is set if etcd refused this user."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class _Stream:
    """One Watch call. A task beside it asks for progress when nothing comes, and ends it when nothing answers."""

    def __init__(self, connection: EtcdConnection, tasks: Tasks) -> None:
        self._connection = connection
        self._tasks = tasks
        self._call: Any = None
        self._pulse: asyncio.Task[None] | None = None
        self._watch_id = 0
        self._reading = False
        self._asked = False
        self._silent = False

    async def open(self, prefix: str, after: int) -> None:
        """Start watching after revision `after`. Raises Compacted or _Broken.

        `after` itself is asked for too, to be told if it is gone: etcd accepts the revision of a compaction as the
        first, but may have dropped removals that happened in it. The caller skips what it knows.
        """
        key = prefix.encode() or b"\0"
        end = prefix_end(prefix.encode()) or b"\0"
        create = etcdrpc.WatchCreateRequest(key=key, range_end=end, start_revision=max(after, 1), progress_notify=True)
        try:
            async with asyncio.timeout(_OPEN_S):
                self._call = self._connection.links.watch.Watch(metadata=self._connection.metadata)
                await self._guarded(self._call.write(etcdrpc.WatchRequest(create_request=create)))
                response = await self.read()
        except (TimeoutError, Unreachable) as error:
            text = str(error) or f"etcd did not answer within {_OPEN_S:g} s"
            raise _Broken(Failure(Effect.UNKNOWN, text)) from None
        if not response.created:
            raise _Broken(Failure(Effect.UNKNOWN, "etcd did not confirm the watch"))
        self._watch_id = response.watch_id
        self._pulse = self._tasks.spawn(self._beat(), name="etcd-watch-pulse")

    async def read(self) -> Any:
        """Return the next response. Raises Compacted or _Broken."""
        self._reading = True
        try:
            response = await self._guarded(self._call.read())
        finally:
            self._reading = self._asked = False
        if response is grpc.aio.EOF:
            raise _Broken(Failure(Effect.UNKNOWN, "etcd ended the stream"))
        if response.compact_revision:
            raise Compacted(f"etcd has no history before revision {response.compact_revision}")
        if response.canceled:
            reason = response.cancel_reason or "etcd cancelled the watch"
            raise _Broken(classify(grpc.StatusCode.UNKNOWN, reason))
        return response

    def progress(self, response: Any) -> int:
        """Return the revision up to which etcd says that all was sent; 0 if it says nothing."""
        spontaneous = not response.events and not response.created and response.watch_id == self._watch_id
        return int(response.header.revision) if spontaneous else 0

    def close(self) -> None:
        """End the call."""
        if self._pulse is not None:
            self._pulse.cancel()
        if self._call is not None:
            self._call.cancel()

    async def _guarded(self, step: Any) -> Any:
        try:
            return await step
        except asyncio.CancelledError:
            # gRPC raises it too when the call was cancelled from our side: by `close`, or for its silence.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            text = "etcd has gone silent" if self._silent else "the connection was closed"
            raise _Broken(Failure(Effect.UNKNOWN, text)) from None
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (error.details() or ""):
                raise Compacted("too much has changed for one answer of etcd") from None
            raise _Broken(classify(error.code(), error.details() or "")) from None
        except asyncio.InvalidStateError as error:
            raise _Broken(Failure(Effect.UNKNOWN, str(error))) from None

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_PULSE_S)
            if self._asked:
                self._silent = True
                self._call.cancel()
                return
            if self._reading:
                self._asked = True
                request = etcdrpc.WatchRequest(progress_request=etcdrpc.WatchProgressRequest())
                with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                    await self._call.write(request)
