"""The worker's session with the control plane: registers, obeys assignments, reports, runs builds.

Owns the search for a leader. A lost control plane changes nothing for the replicas. Decides nothing about them: that is
`session`'s, through the supervisor. Called by the server.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import grpc

from mesh import model, wire
from mesh.clock import Clock
from mesh.connection import channel, connect
from mesh.credentials import Credentials
from mesh.errors import Unreachable
from mesh.leader_search import LeaderSearch
from mesh.liveness import ANSWER_TIMEOUT_S, RECONNECT, STOOD_S, pings
from mesh.settings import MESSAGE_BYTES_MAX
from mesh.v1 import deployment_pb2, worker_service_pb2
from mesh.v1.worker_service_pb2_grpc import WorkerServiceStub
from mesh.worker.stream import Call, Duties, Heart, Stream, replica_statuses

log = logging.getLogger("mesh.worker")

LEADER_S = 3.0
"""Seconds for which a worker that was told to end looks for a leader to tell."""
_TOLD_MAX = 20
"""Causes of failure that are logged before somebody answers."""
_OPTIONS = (
    *pings(),
    ("grpc.enable_http_proxy", 0),
    # Channels to one address would otherwise share gRPC's own, much longer, reconnect pauses.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the worker is. `started_at` is Unix time in seconds."""

    worker_id: str
    incarnation: str
    started_at: float
    host: str
    resources: model.Resources
    version: str


class Agent:
    """One worker's side of `WorkerService.Session`, over all its streams."""

    def __init__(
        self,
        identity: Identity,
        control: tuple[str, ...],
        credentials: Credentials,
        duties: Duties,
        clock: Clock,
    ) -> None:
        self._identity = identity
        self._control = control
        self._credentials = credentials
        self._duties = duties
        self._clock = clock
        self._stream: Stream | None = None
        self._draining = False
        self._left = False
        self._news = asyncio.Event()
        self._told: set[str] = set()
        """What was logged of failures since the last session."""
        self.welcomed = False
        """Whether a leader has ever taken this worker."""

    def changed(self) -> None:
        """A replica's status may have changed: report soon."""
        self._news.set()
        if self._stream is not None:
            self._stream.report()

    async def run(self) -> None:
        """Keep a session with whoever leads, until told to leave or cancelled."""
        search = LeaderSearch(self._control)
        while not self._left:
            address = search.address
            began = self._clock.monotonic()
            try:
                leader = await self._connect(address)
                log.debug("control plane %s does not lead; leader: %s", address, leader or "nobody")
                search.redirected(leader)
            except _Ended as ended:
                self._log_end(address, ended.reason)
                search.lost(ended.leader, stood=self._clock.monotonic() - began > STOOD_S)
            except Unreachable as error:
                self._log_failure(error.message)
                search.failed()
            if search.round_over:
                await asyncio.sleep(RECONNECT.pause_s(max(0, search.rounds - 1), self._clock.random))

    async def empty(self) -> None:
        """Have the replicas replaced on other workers; they serve on meanwhile. The caller bounds the time.

        Returns when none is left, when there is no room for the rest elsewhere, or when nobody leads who could help.
        """
        self.announce_drain()
        while not self._duties.supervisor.is_empty and not (self._stream and self._stream.no_room_elsewhere):
            self._news.clear()
            try:
                async with asyncio.timeout(None if self._stream else LEADER_S):
                    await self._news.wait()
            except TimeoutError:
                log.warning("no control plane is there to replace the replicas elsewhere")
                return

    def announce_drain(self) -> None:
        """Tell the leader, this one and any to come, that nothing new is to be placed here."""
        self._draining = True
        if self._stream is not None:
            self._stream.draining = True
            self._stream.report()

    async def leave(self) -> None:
        """Tell the leader that this worker and its replicas are going, and connect no more."""
        self._left = True
        if self._stream is not None:
            await self._stream.leave()

    def _log_failure(self, message: str) -> None:
        """Say why there is no session: each cause once. The first need not be the one that stays."""
        news = message not in self._told and len(self._told) < _TOLD_MAX
        if news:
            self._told.add(message)
        log.log(logging.WARNING if news else logging.DEBUG, "control plane %s; trying again", message)

    def _log_end(self, address: str, reason: str) -> None:
        level = logging.DEBUG if self._left else logging.WARNING
        log.log(level, "session with the control plane %s ended: %s", address, reason)

    async def _connect(self, address: str) -> str:
        """Hold one session. Returns the leader to ask instead, "" if nobody leads.

        Raises Unreachable if there was no session, _Ended when it is over.
        """
        async with channel(address, self._credentials, _OPTIONS) as opened:
            await connect(opened, address)
            stub = WorkerServiceStub(opened)
            call = stub.Session()
            said = self._duties.supervisor.statuses()
            welcome = await self._greet(call, address, said)
            if welcome.HasField("redirect"):
                call.cancel()
                return welcome.redirect.leader
            log.info("registered as %s with the control plane %s", self._identity.worker_id, address)
            heart = Heart(welcome.welcome.heartbeat_interval_s, self._clock)
            stream = Stream(call, heart, said, self._duties, stub)
            stream.draining, stream.heard = self._draining, self._news.set
            self.welcomed, self._stream = True, stream
            self._told.clear()
            self._news.set()
            try:
                reason = await stream.run()
            finally:
                self._stream = None
                self._news.set()
            raise _Ended(reason, stream.leader)

    async def _greet(
        self, call: Call, address: str, replicas: tuple[model.ReplicaStatus, ...]
    ) -> worker_service_pb2.SessionResponse:
        identity = self._identity
        hello = worker_service_pb2.Hello(
            worker_id=identity.worker_id,
            incarnation=identity.incarnation,
            started_at=identity.started_at,
            host=identity.host,
            resources=wire.to_proto(identity.resources, deployment_pb2.Resources),
            replicas=replica_statuses(replicas),
            version=identity.version,
            draining=self._draining,
        )
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await call.write(worker_service_pb2.SessionRequest(hello=hello))
                answer = await call.read()
        except grpc.aio.AioRpcError as error:
            raise Unreachable(f"{address}: {error.code().name}: {error.details()}") from error
        except TimeoutError as error:
            raise Unreachable(f"{address} did not answer within {ANSWER_TIMEOUT_S:g} s") from error
        except asyncio.InvalidStateError as error:
            raise Unreachable(f"{address} ended the session at once") from error
        if not isinstance(answer, worker_service_pb2.SessionResponse):
            raise Unreachable(f"{address} ended the session without an answer")
        if (kind := answer.WhichOneof("kind")) not in ("welcome", "redirect"):
            raise Unreachable(f"{address} answered {kind} where Welcome or Redirect was due")
        return answer


class _Ended(Exception):
    """A session that stood is over. `leader` is whom to ask next, if that was said."""

    def __init__(self, reason: str, leader: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.leader = leader
