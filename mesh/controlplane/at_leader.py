"""Calls that only the leader can answer: done here if this instance leads, else passed on to the one that does.

Owns the wait for a leader, its bounds, and the answer from this instance's copy of the store where nobody can be asked.
Knows no service. Called by the services of the control plane.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from mesh.clock import Clock
from mesh.controlplane.availability import Availability
from mesh.controlplane.forward import Forwarder, NoLeader, Stub, was_forwarded
from mesh.controlplane.leader import Leadership
from mesh.controlplane.loop import Loop
from mesh.controlplane.mirror import Mirror
from mesh.controlplane.rpc_errors import abort
from mesh.controlplane.store import OutcomeUnknown, StoreUnreachable
from mesh.controlplane.streams import PeerGone
from mesh.controlplane.term import Term
from mesh.errors import MeshError, Unreachable
from mesh.lifecycle import Tasks

LEADER_WAIT_S = 8.0
"""Seconds a call waits for somebody to lead: longer than a change of leader takes."""
CALL_S = 30.0
"""Seconds for a call whose caller set no deadline."""
READ_WAIT_S = 3.0
"""The same for a call that only reads: after that it is answered from this instance's copy of the store."""
LOOK_AGAIN_S = 0.25
"""Seconds after which whoever waits for a leader looks again: at a leader that did not answer, and at the store."""
ANSWER_MARGIN_S = 0.5
"""Seconds kept of the caller's own deadline, so that it is told why instead of running into that."""

log = logging.getLogger("mesh.controlplane.api")

_Context = grpc.aio.ServicerContext[Any, Any]
_T = TypeVar("_T", bound=Message)
_R = TypeVar("_R")


class AtLeader:
    """Where calls are answered."""

    def __init__(
        self, loop: Loop, leadership: Leadership, forwarder: Forwarder, availability: Availability, clock: Clock
    ) -> None:
        self._loop = loop
        self._leadership = leadership
        self._forwarder = forwarder
        self._availability = availability
        self._clock = clock

    async def answer(
        self,
        service: Stub,
        method: str,
        request: Message,
        context: _Context,
        work: Callable[[Term], Awaitable[_T]],
    ) -> _T:
        """Answer here if this instance leads, else let the leader answer."""

        async def forward(leader: str) -> _T:
            answer: _T = await self._forwarder.unary(leader, service, method, request, context)
            return answer

        try:
            try:
                async with asyncio.timeout(_own_s(context)):
                    return await self._at_leader(context, work, forward)
            except TimeoutError:
                text = "the leader or its store did not answer in time; what was asked for may have been done"
                raise OutcomeUnknown(text, hint="see meshctl status, then repeat the command") from None
        except MeshError as error:
            await abort(context, error)

    async def read(
        self,
        service: Stub,
        method: str,
        request: Message,
        context: _Context,
        work: Callable[[Term], Awaitable[_T]],
        stored: Callable[[Mirror, str], _T] | None,
    ) -> _T:
        """Answer as `_answer` does; if the leader cannot be asked soon, from what this instance last read, if it can.

        Without `stored` the error is raised.
        """

        async def forward(leader: str) -> _T:
            answer: _T = await self._forwarder.unary(leader, service, method, request, context, reads=True)
            return answer

        try:
            try:
                async with asyncio.timeout(READ_WAIT_S):
                    return await self._at_leader(context, work, forward, Unreachable)
            except (Unreachable, TimeoutError) as error:
                mirror = self._loop.mirror
                cause = error if isinstance(error, Unreachable) else self._silence()
                if stored is None or mirror is None or was_forwarded(context):
                    raise cause from None
                log.info("%s is answered from the copy of the store: %s", method, cause.message)
                return stored(mirror, cause.message)
        except MeshError as error:
            await abort(context, error)

    def _silence(self) -> Unreachable:
        """Return why there was no answer in time."""
        try:
            self._availability.check()
        except StoreUnreachable as error:
            return error
        if not (leader := self._leadership.leader_address):
            return NoLeader()
        text = f"the leading control plane {leader} does not answer"
        return Unreachable(text, hint="repeat the command in a few seconds")

    async def _at_leader(
        self,
        context: _Context,
        work: Callable[[Term], Awaitable[_R]],
        forward: Callable[[str], Awaitable[_R]],
        again: type[Unreachable] = NoLeader,
    ) -> _R:
        """Do `work` if this instance leads, else `forward` to the leader, waiting while a new one is chosen.

        `again`: after which of the leader's errors its successor is asked; by default after those that say that
        nothing was done. Raises NoLeader if nobody leads in time, or for a call that was passed on to no leader;
        StoreUnreachable as soon as nobody can be asked and the store is away, for then nobody will lead.
        """
        # "Nobody leads" must be said before "no answer in time", which leaves open what was done.
        own_s = _own_s(context)
        ends = self._clock.monotonic() + min(LEADER_WAIT_S, own_s - min(ANSWER_MARGIN_S, own_s / 2))
        while (left_s := ends - self._clock.monotonic()) > 0:
            state = self._leadership.state
            if (term := await self._loop.acting(min(left_s, LOOK_AGAIN_S))) is not None:
                return await work(term)
            if was_forwarded(context) and not state.is_leader:
                break
            if not state.is_leader and state.leader_address:
                try:
                    return await self._while_leading(state.leader_address, forward)
                except StoreUnreachable:
                    raise
                except again:
                    pass  # its successor is known soon; should it come back itself, nothing tells
            self._availability.check()
            if state.is_leader:
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, LOOK_AGAIN_S)):
                    await self._leadership.changed(state)
        self._availability.check()
        raise NoLeader()

    async def _while_leading(self, leader: str, forward: Callable[[str], Awaitable[_R]]) -> _R:
        """Let the leader answer. Raises Unreachable when it leads no more; it may be frozen with the call."""
        tasks = Tasks()
        try:
            async with asyncio.timeout(None) as limit:
                tasks.spawn(self._end_with(leader, limit), name="leader-of-a-call")
                try:
                    return await forward(leader)
                finally:
                    await tasks.cancel()
        except TimeoutError:
            text = f"the control plane {leader} stopped leading while it was asked"
            raise Unreachable(text, hint="repeat the command") from None

    async def _end_with(self, leader: str, limit: asyncio.Timeout) -> None:
        state = self._leadership.state
        while state.leader_address == leader:
            state = await self._leadership.changed(state)
        limit.reschedule(asyncio.get_running_loop().time())

    async def stream(
        self,
        service: Stub,
        method: str,
        request: Message,
        context: _Context,
        work: Callable[[Term], Awaitable[None]],
    ) -> None:
        """Serve a stream here if this instance leads, else pass on the leader's, until the caller cancels.

        `work` returns when its term is over, which the caller is told as UNAVAILABLE, or when the stream is whole
        while the term goes on.
        """

        async def forward(leader: str) -> bool:
            await self._forwarder.stream(leader, service, method, request, context)
            return True

        async def whole(term: Term) -> bool:
            await work(term)
            return not term.over

        try:
            if not await self._at_leader(context, whole, forward):
                # Whoever watches asks again and finds the new leader.
                raise NoLeader()
        except PeerGone:
            return
        except MeshError as error:
            await abort(context, error)


def _own_s(context: _Context) -> float:
    """Return the seconds for a call here: somewhat less than its caller waits."""
    return max(LOOK_AGAIN_S, (context.time_remaining() or CALL_S) - ANSWER_MARGIN_S)
