"""Events from the control plane: a list, or a stream that goes on over changes of the leader.

Owns the filter and where a broken stream goes on. Called by `watching`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from mesh.cli.client import Client
from mesh.v1 import event_pb2 as pb
from mesh.v1 import event_service_pb2 as api
from mesh.v1.event_service_pb2_grpc import EventServiceStub


def wanted(application: str, replica_id: str, worker_id: str, *, warnings: bool, since: float) -> api.EventFilter:
    """Return the filter of what is asked for. `since` is Unix time in seconds."""
    severity = pb.SEVERITY_WARNING if warnings else pb.SEVERITY_UNSPECIFIED
    return api.EventFilter(
        application=application, replica_id=replica_id, worker_id=worker_id, severity=severity, since=since
    )


async def listed(client: Client, filter: api.EventFilter) -> api.ListEventsResponse:
    """Return the events that match."""
    request = api.ListEventsRequest(filter=filter)
    response: api.ListEventsResponse = await client.read(
        lambda stub, s: stub.ListEvents(request, timeout=s), service=EventServiceStub
    )
    return response


async def followed(
    client: Client, filter: api.EventFilter, *, patience_s: float, lost: Callable[[str], None]
) -> AsyncIterator[pb.Event]:
    """Yield the events that match and each that comes, for ever; none twice, also over a change of the leader."""
    after = 0

    def request() -> api.WatchEventsRequest:
        asked = api.WatchEventsRequest(filter=filter)
        asked.filter.after = after
        return asked

    stream = client.stream("WatchEvents", request, service=EventServiceStub, patience_s=patience_s, lost=lost)
    async with contextlib.aclosing(stream) as responses:
        async for response in responses:
            for event in response.events:
                after = max(after, event.sequence)
                yield event
