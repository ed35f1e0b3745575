"""EventService: what happened, for people and tools.

Owns the answers only; the events are noted in `chronicle`. Called by grpc; made by `server`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import grpc

from mesh import wire
from mesh.controlplane.at_leader import AtLeader
from mesh.controlplane.bell import wait_until
from mesh.controlplane.events import Filter, found
from mesh.controlplane.mirror import Mirror
from mesh.controlplane.records import decode_events
from mesh.controlplane.streams import write
from mesh.controlplane.term import Term
from mesh.model import Event
from mesh.v1 import event_pb2, event_service_pb2, event_service_pb2_grpc
from mesh.v1.event_service_pb2_grpc import EventServiceStub

COALESCE_S = 0.05
"""Events within this time are told in one message."""

_Context = grpc.aio.ServicerContext[Any, Any]


class Events(event_service_pb2_grpc.EventServiceServicer):
    """Serves EventService."""

    def __init__(self, at_leader: AtLeader) -> None:
        self._at_leader = at_leader

    async def ListEvents(
        self, request: event_service_pb2.ListEventsRequest, context: _Context
    ) -> event_service_pb2.ListEventsResponse:
        """Return the events that match."""
        wanted = wire.from_proto(request.filter, Filter)

        async def work(term: Term) -> event_service_pb2.ListEventsResponse:
            return event_service_pb2.ListEventsResponse(events=_messages(term.chronicle.book.found(wanted)))

        def stored(mirror: Mirror, why: str) -> event_service_pb2.ListEventsResponse:
            events = found(map(decode_events, mirror.events.values()), wanted)
            return event_service_pb2.ListEventsResponse(events=_messages(events), stale=why)

        return await self._at_leader.read(EventServiceStub, "ListEvents", request, context, work, stored)

    async def WatchEvents(  # type: ignore[override]
        self, request: event_service_pb2.WatchEventsRequest, context: _Context
    ) -> None:
        """Send the events that match, then each new one, until the caller cancels or the leader changes."""
        wanted = wire.from_proto(request.filter, Filter)

        async def work(term: Term) -> None:
            await self._watch(term, wanted, context)

        await self._at_leader.stream(EventServiceStub, "WatchEvents", request, context, work)

    async def _watch(self, term: Term, wanted: Filter, context: _Context) -> None:
        first = True
        while not term.over:
            ticket = term.noted.ticket()
            book = term.chronicle.book
            events, wanted = book.found(wanted), replace(wanted, after=max(wanted.after, book.sequence))
            # The first one comes in any case: whoever waits knows by it that the watch stands.
            if events or first:
                first = False
                await write(context, event_service_pb2.WatchEventsResponse(events=_messages(events)))
            await wait_until(ticket, None)
            await asyncio.sleep(COALESCE_S)


def _messages(events: Iterable[Event]) -> list[event_pb2.Event]:
    return [wire.to_proto(event, event_pb2.Event) for event in events]
