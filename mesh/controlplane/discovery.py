"""DiscoveryService: the snapshots that gateways and callers by handles route by.

Owns the stream of each. Keeps nothing back and nothing pending: one that is slow gets the newest snapshot, not each.
Called by grpc; made by `server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc

from mesh import wire
from mesh.controlplane.leader import Leadership
from mesh.controlplane.loop import Loop
from mesh.controlplane.streams import PeerGone, read, write
from mesh.controlplane.term import Sent, Subscriber, Term
from mesh.lifecycle import Tasks
from mesh.liveness import TAKE_OFFICE_S
from mesh.model import Generation
from mesh.v1 import discovery_service_pb2_grpc
from mesh.v1.discovery_service_pb2 import StreamSnapshotsRequest, StreamSnapshotsResponse
from mesh.v1.worker_service_pb2 import Heartbeat, Redirect, Welcome

FIRST_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 10.0
"""Seconds a gateway may take to accept one snapshot before its stream is given up."""

log = logging.getLogger("mesh.controlplane.discovery")

_Context: TypeAlias = "grpc.aio.ServicerContext[StreamSnapshotsRequest, StreamSnapshotsResponse]"


class Discovery(discovery_service_pb2_grpc.DiscoveryServiceServicer):
    """Serves DiscoveryService."""

    def __init__(self, loop: Loop, leadership: Leadership, heartbeat_interval_s: float) -> None:
        self._loop = loop
        self._leadership = leadership
        self._interval_s = heartbeat_interval_s

    # The reader/writer form of a handler: an async generator would not be told at once when its client is gone.
    async def StreamSnapshots(  # type: ignore[override]
        self, request_iterator: AsyncIterator[StreamSnapshotsRequest], context: _Context
    ) -> None:
        """Serve one gateway until either side ends the stream."""
        try:
            first = await read(context, FIRST_TIMEOUT_S)
        except TimeoutError:
            first = None
        if first is None or bool(first.gateway_id) == bool(first.caller_id):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a gateway or caller says its id first")
        term = await self._loop.acting(TAKE_OFFICE_S)
        if term is None:
            await self._redirect(context)
            return
        name = first.gateway_id or first.caller_id
        number = term.subscribe(Subscriber(first.gateway_id, first.caller_id, takes_changes=first.takes_changes))
        term.acknowledge(number, wire.from_proto(first.serving, Generation), first.applications)
        gone = asyncio.Event()
        tasks = Tasks(on_failure=lambda _: gone.set())
        try:
            tasks.spawn(self._receive(term, number, first, context, gone), name=f"subscriber-{name}")
            sending = tasks.spawn(self._send(term, number, context), name=f"snapshots-{name}")
            sending.add_done_callback(lambda _: gone.set())
            await gone.wait()
        finally:
            term.unsubscribe(number)
            await tasks.cancel()
        if term.over:
            await self._redirect(context)

    async def _send(self, term: Term, number: int, context: _Context) -> None:
        """Send the newest snapshot whenever there is one, and signs of life in between."""
        message = StreamSnapshotsResponse(welcome=Welcome(heartbeat_interval_s=self._interval_s))
        sent: Sent | None = None
        while not term.over:
            try:
                await write(context, message, WRITE_TIMEOUT_S)
            except TimeoutError:
                log.warning("a gateway or caller did not accept a message within %g s", WRITE_TIMEOUT_S)
                return
            except PeerGone:
                return
            message = StreamSnapshotsResponse(heartbeat=Heartbeat())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    while not term.over:
                        ticket = term.published.ticket()
                        if (news := term.news(number, sent)) is not None:
                            sent, message = news
                            break
                        await ticket.wait()

    async def _receive(
        self, term: Term, number: int, first: StreamSnapshotsRequest, context: _Context, gone: asyncio.Event
    ) -> None:
        request: StreamSnapshotsRequest | None = first
        while request is not None:
            term.acknowledge(number, wire.from_proto(request.serving, Generation), request.applications)
            request = await read(context, None)
        gone.set()

    async def _redirect(self, context: _Context) -> None:
        leader = "" if self._leadership.is_leader else self._leadership.leader_address
        with contextlib.suppress(PeerGone):
            await write(context, StreamSnapshotsResponse(redirect=Redirect(leader=leader)))
