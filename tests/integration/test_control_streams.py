"""What the control plane's streams make of a client that goes at the wrong moment."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from mesh.controlplane.streams import PeerGone, read, write
from mesh.v1.discovery_service_pb2 import StreamSnapshotsRequest, StreamSnapshotsResponse
from mesh.v1.discovery_service_pb2_grpc import (
    DiscoveryServiceServicer,
    DiscoveryServiceStub,
    add_DiscoveryServiceServicer_to_server,
)

WAIT_S = 20.0


class LateServicer(DiscoveryServiceServicer):
    """Goes on with a stream after its client has gone, as one does that stood still meanwhile."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[tuple[object, object]] = asyncio.get_running_loop().create_future()

    async def StreamSnapshots(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        assert await read(context, WAIT_S) is not None
        await write(context, StreamSnapshotsResponse())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(PeerGone) as gone:
                await write(context, StreamSnapshotsResponse(), WAIT_S)
            self.outcome.set_result((await read(context, WAIT_S), gone.type))
            raise


async def test_a_client_that_has_gone_is_no_error() -> None:
    server = grpc.aio.server()
    servicer = LateServicer()
    add_DiscoveryServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(WAIT_S):
            call: Any = DiscoveryServiceStub(channel).StreamSnapshots()
            await call.write(StreamSnapshotsRequest(gateway_id="g1"))
            await call.read()
            call.cancel()
            assert await servicer.outcome == (None, PeerGone)
    finally:
        await server.stop(0)
