"""Reads logs of the control plane without gaps or repeats, over streams that may break.

Owns where a read goes on: after the last line that was seen of each replica. Called by `logs`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc
import grpc.aio

from mesh.backoff import Backoff
from mesh.cli.client import CALL_TIMEOUT_S, Client, mesh_error
from mesh.clock import SYSTEM
from mesh.errors import Unreachable
from mesh.v1.log_service_pb2 import LogPosition, ReadLogsRequest, ReadLogsResponse
from mesh.v1.log_service_pb2_grpc import LogServiceStub

PATIENCE_S = 60.0
"""Seconds for which it is tried again to follow logs."""
TAIL_LINES_MAX = 10_000
OVERLAP_S = 5.0
"""Clocks of workers differ: what is new is asked for from that much before the last line on."""
_POSITIONS_MAX = 10_000
_AGAIN = Backoff(initial_s=0.2, max_s=2.0, floor=0.5)


async def read(
    client: Client, request: ReadLogsRequest, lost: Callable[[str], None]
) -> AsyncGenerator[ReadLogsResponse, None]:
    """Yield what is answered, to the end, or for ever if it is followed. A lost stream is opened again.

    `lost` is told why. Raises what the control plane answers, Unreachable when nobody does for some time.
    """
    seen: dict[str, LogPosition] = {}
    latest, attempt = 0.0, 0
    asked = ReadLogsRequest()
    asked.CopyFrom(request)

    async def opened(stub: Any) -> tuple[Any, ReadLogsResponse]:
        call = stub.ReadLogs(asked)
        first = await asyncio.wait_for(call.read(), CALL_TIMEOUT_S)
        if first is grpc.aio.EOF:
            raise Unreachable("the control plane ended the stream")
        return call, first

    while True:
        patience_s = PATIENCE_S if attempt else None
        call, response = await client.call(opened, service=LogServiceStub, patience_s=patience_s)
        try:
            while isinstance(response, ReadLogsResponse):
                for entry in response.entries:
                    latest = max(latest, entry.time)
                    if entry.position.replica_id in seen or len(seen) < _POSITIONS_MAX:
                        seen[entry.position.replica_id] = entry.position
                yield response
                response = await call.read()
            return
        except grpc.aio.AioRpcError as error:
            if not isinstance(cause := mesh_error(error, client.address), Unreachable):
                raise cause from error
            lost(cause.message)
        finally:
            call.cancel()
        if seen:
            asked.tail_lines = TAIL_LINES_MAX
            asked.since = max(request.since, latest - OVERLAP_S)
            del asked.after[:]
            asked.after.extend(seen.values())
        await asyncio.sleep(_AGAIN.pause_s(attempt, SYSTEM.random))
        attempt += 1
