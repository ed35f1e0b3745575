"""The stream of a gateway, or of a caller by handles, to the control plane: snapshots in, acknowledgements out.

Owns finding the leader and reconnecting. While no control plane answers, calls go by what is known.
Called by the gateway's server and by `worker/handles.py`, which put each snapshot in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from mesh import wire
from mesh.clock import Clock
from mesh.connection import HandshakeFailed, channel, connect
from mesh.credentials import Credentials
from mesh.errors import Unreachable
from mesh.leader_search import LeaderSearch
from mesh.liveness import ANSWER_TIMEOUT_S, RECONNECT, STOOD_S, pings, silence_limit_s
from mesh.model import Generation
from mesh.pipe.held_snapshot import HeldSnapshot
from mesh.settings import MESSAGE_BYTES_MAX
from mesh.v1 import deployment_pb2
from mesh.v1 import discovery_service_pb2 as pb
from mesh.v1.discovery_service_pb2_grpc import DiscoveryServiceStub

_WARN_AFTER = 10
"""Rounds without a snapshot after which the silence is logged, once."""
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    *pings(),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

log = logging.getLogger("mesh.discovery")


@dataclass(slots=True)
class _Ended:
    """How a stream ended: whether anything was said on it, a snapshot among that, and who leads, if that was told."""

    answered: bool = False
    heard: bool = False
    leader: str = ""


class Discovery:
    """Keeps a stream of snapshots open for as long as `run` runs."""

    def __init__(
        self,
        control: Sequence[str],
        says: Callable[[], pb.StreamSnapshotsRequest],
        credentials: Credentials,
        clock: Clock,
        apply: Callable[[pb.Snapshot], bool],
    ) -> None:
        """`says` returns who this is and what it wants; `apply` puts a snapshot in force, unless it is an old one."""
        self._control = tuple(control)
        self._says = says
        self._stream: Any = None
        self._writing = asyncio.Lock()
        self._credentials = credentials
        self._clock = clock
        self._apply = apply
        self._serving: Generation | None = None
        self._refused: dict[str, bool] = {}
        """Of each control plane, whether one of the two did not take the other at the last attempt."""

    async def run(self) -> None:
        """Follow the leader's snapshots until cancelled."""
        search = LeaderSearch(self._control)
        while True:
            began = self._clock.monotonic()
            ended = await self._follow(search.address)
            if ended.heard:
                search.lost(ended.leader, stood=self._clock.monotonic() - began > STOOD_S)
            elif ended.answered:
                search.redirected(ended.leader)
            else:
                search.failed()
            if not search.round_over:
                continue
            if search.rounds == _WARN_AFTER:
                tried = ",".join(self._control)
                log.warning("no control plane leads or answers; serving from the last snapshot", extra={"tried": tried})
            await asyncio.sleep(RECONNECT.pause_s(max(0, search.rounds - 1), self._clock.random))

    async def say_again(self) -> None:
        """Tell the control plane at once that something else is wanted; without a stream the next one tells it."""
        if (stream := self._stream) is not None:
            # A stream that breaks is noticed by whoever reads it.
            with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError, TimeoutError):
                await self._say(stream, ANSWER_TIMEOUT_S)

    async def _follow(self, address: str) -> _Ended:
        """Read one stream to its end."""
        ended = _Ended()
        opened = channel(address, self._credentials, CHANNEL_OPTIONS)
        try:
            await connect(opened, address)
            await self._read(DiscoveryServiceStub(opened).StreamSnapshots(), ended)
        except (
            grpc.aio.AioRpcError,
            grpc.aio.UsageError,
            asyncio.InvalidStateError,
            TimeoutError,
            Unreachable,
        ) as error:
            self._log_end(address, error)
        except Exception:
            # A snapshot that this gateway cannot apply must not be its last: it serves on and asks again.
            log.exception("snapshot not applied", extra={"control": address})
            ended.heard = False
        finally:
            self._stream = None
            await opened.close()
        return ended

    def _log_end(self, address: str, error: Exception) -> None:
        """Say why a stream ended; that one of the two does not take the other is for people, and said once."""
        cause = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error) or "it is silent"
        if isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNAUTHENTICATED:
            refused = error.details() or cause
        else:
            refused = cause if isinstance(error, HandshakeFailed) else ""
        level = logging.WARNING if refused and not self._refused.get(address) else logging.INFO
        self._refused[address] = bool(refused)
        log.log(level, "snapshot stream ended", extra={"control": address, "cause": refused or cause})

    async def _read(self, stream: Any, ended: _Ended) -> None:
        """Follow one stream. Raises TimeoutError when it is silent: a leader that is frozen keeps its connections."""
        limit_s = ANSWER_TIMEOUT_S
        held = HeldSnapshot()
        await self._say(stream, limit_s)
        self._stream = stream
        while True:
            async with asyncio.timeout(limit_s):
                message = await stream.read()
            if message is grpc.aio.EOF:
                return
            ended.answered = True
            match message.WhichOneof("kind"):
                case "redirect":
                    ended.leader = message.redirect.leader
                    return
                case "welcome":
                    limit_s = silence_limit_s(message.welcome.heartbeat_interval_s)
                case "snapshot":
                    ended.heard = True
                    snapshot = held.take(message.snapshot)
                    if self._apply(snapshot):
                        self._serving = wire.from_proto(snapshot.generation, Generation)
                    await self._say(stream, limit_s)

    async def _say(self, stream: Any, limit_s: float) -> None:
        """Tell what is wanted, and what is routed by."""
        async with asyncio.timeout(limit_s), self._writing:
            request = self._says()
            request.takes_changes = True
            if self._serving is not None:
                request.serving.CopyFrom(wire.to_proto(self._serving, deployment_pb2.Generation))
            await stream.write(request)
