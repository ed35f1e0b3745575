"""The gateway's stream to the control plane: snapshots in, acknowledgements out.

Owns finding the leader and reconnecting. While no control plane answers, the gateway serves from what it has.
Called by `server`; hands each snapshot to `pipeline`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import grpc

from mesh import wire
from mesh.backoff import Backoff
from mesh.clock import Clock
from mesh.model import Generation
from mesh.settings import MESSAGE_BYTES_MAX, GatewaySettings
from mesh.v1 import deployment_pb2
from mesh.v1 import discovery_service_pb2 as pb
from mesh.v1.discovery_service_pb2_grpc import DiscoveryServiceStub

CONNECT_S = 3.0
RECONNECT = Backoff(initial_s=0.05, max_s=3.0, floor=0.2)
_WARN_AFTER = 5
"""Rounds without a snapshot after which the silence is logged, once."""
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

log = logging.getLogger("mesh.gateway")


class Discovery:
    """Keeps a stream of snapshots open for as long as `run` runs."""

    def __init__(self, settings: GatewaySettings, clock: Clock, apply: Callable[[pb.Snapshot], bool]) -> None:
        self._settings = settings
        self._clock = clock
        self._apply = apply
        self._serving: Generation | None = None

    async def run(self) -> None:
        """Follow the leader's snapshots until cancelled."""
        addresses = itertools.cycle(self._settings.control)
        redirect = ""
        attempt = 0
        while True:
            address = redirect or next(addresses)
            redirect, heard = await self._follow(address)
            attempt = 0 if heard else attempt + 1
            if attempt == _WARN_AFTER * len(self._settings.control):
                tried = ",".join(self._settings.control)
                log.warning("no control plane leads or answers; serving from the last snapshot", extra={"tried": tried})
            if not redirect or attempt > 1:
                await asyncio.sleep(RECONNECT.pause_s(attempt, self._clock.random))

    async def _follow(self, address: str) -> tuple[str, bool]:
        """Read one stream to its end. Returns the leader's address, if told, and whether a snapshot came."""
        heard = False
        channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        try:
            stream: Any = DiscoveryServiceStub(channel).StreamSnapshots()
            async with asyncio.timeout(CONNECT_S):
                await stream.wait_for_connection()
                await stream.write(self._acknowledgement())
            while (message := await stream.read()) is not grpc.aio.EOF:
                if message.WhichOneof("kind") == "redirect":
                    return message.redirect.leader, heard
                heard = True
                if self._apply(message.snapshot):
                    self._serving = wire.from_proto(message.snapshot.generation, Generation)
                await stream.write(self._acknowledgement())
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError, TimeoutError) as error:
            cause = error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
            log.info("snapshot stream ended", extra={"control": address, "cause": cause})
        except Exception:
            # A snapshot that this gateway cannot apply must not be its last: it serves on and asks again.
            log.exception("snapshot not applied", extra={"control": address})
            heard = False
        finally:
            await channel.close()
        return "", heard

    def _acknowledgement(self) -> Any:
        request = pb.StreamSnapshotsRequest(gateway_id=self._settings.gateway_id)
        if self._serving is not None:
            request.serving.CopyFrom(wire.to_proto(self._serving, deployment_pb2.Generation))
        return request
