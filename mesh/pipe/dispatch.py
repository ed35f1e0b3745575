"""Dispatch to the replicas of one deployment: joins admission, balancing and the links.

Owns which call goes where and when: at once, later, elsewhere, or not at all (the exact rule of load
shedding). Called by the gateway's pipeline and by handles; called back by `link`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mesh.clock import Clock
from mesh.credentials import Credentials
from mesh.errors import Overloaded, ReplicaLost, Unavailable
from mesh.lifecycle import Tasks
from mesh.pipe.admission import DrainRate, Line
from mesh.pipe.affinity import Affinity
from mesh.pipe.balance import SECOND_BEST_S, Balance
from mesh.pipe.call import Call
from mesh.pipe.failures import error_of
from mesh.pipe.gauges import Gauges
from mesh.pipe.link import Link
from mesh.pipe.links import Links
from mesh.pipe.retry import RetryBudget, cause_to_repeat
from mesh.telemetry import REPEATED
from mesh.v1 import replica_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Limits:
    """What a snapshot says of a deployment."""

    max_ongoing_requests: int
    max_queued_requests: int
    failure: str = ""
    """Set when no replica could ever serve."""


_OF_HANDLER = (pb.FAILURE_KIND_HANDLER, pb.FAILURE_KIND_UNSPECIFIED)


class _SecondBest:
    """Replicas that fail their calls, now and then, where no other has a free slot."""

    def __init__(self, balance: Balance[Link], loop: asyncio.AbstractEventLoop, again: Callable[[], None]) -> None:
        """`again` is called when one may be had that could not be before."""
        self._balance = balance
        self._loop = loop
        self._again = again
        self._waits = False

    def take(self) -> Link | None:
        """Return one, for a call that no other replica has a slot for, or None."""
        if not self._balance.suspects:
            return None
        link = self._balance.second_best(self._loop.time())
        if link is None and not self._waits:
            self._waits = True
            self._loop.call_later(SECOND_BEST_S, self._look)
        return link

    def _look(self) -> None:
        self._waits = False
        self._again()


class Dispatcher:
    """All calls of this process to one deployment."""

    def __init__(self, application: str, deployment: str, limits: Limits, trust: Credentials, clock: Clock) -> None:
        self.application = application
        self.deployment = deployment
        self._trust, self._clock = trust, clock
        self.loop = asyncio.get_running_loop()
        self._limits = limits
        self._line: Line[Call] = Line(limits.max_queued_requests)
        self._balance: Balance[Link] = Balance(limits.max_ongoing_requests)
        self._affinity: Affinity[Link] = Affinity()
        self._second_best = _SecondBest(self._balance, self.loop, self._pump)
        self._drain_rate, self._budget = DrainRate(), RetryBudget()
        self._tasks = Tasks()
        self._links = Links(self._tasks)
        self._orders = 0
        self._idle: asyncio.Future[None] | None = None
        self._successor: Dispatcher | None = None
        self._gauges = Gauges(self)

    def __repr__(self) -> str:
        return f"<Dispatcher {self.application}/{self.deployment} {self._balance} {self._line}>"

    def rename(self, deployment: str) -> None:
        """Serve a deployment whose name was not known when the first requests came."""
        self._gauges.forget()
        self.deployment = deployment
        self._gauges = Gauges(self)

    @property
    def in_flight(self) -> int:
        """Calls sent and not over."""
        return self._balance.in_flight

    @property
    def queued(self) -> int:
        """Calls that wait for a slot."""
        return len(self._line)

    @property
    def ready_replicas(self) -> int:
        """Replicas that calls can be sent to now."""
        return len(self._balance)

    def submit(self, call: Call, request_id: str) -> None:
        """Dispatch `call` at once, let it wait, or refuse it. Never waits itself.

        Raises Overloaded when the line is full, Unavailable when no replica could ever serve.
        """
        self._orders = call.order = self._orders + 1
        call.holder = self
        if not len(self._line) and (link := self._balance.acquire() or self._second_best.take()) is not None:
            self._send(call, self._having(call.model_id, link) if call.model_id else link, offer=False)
            return
        if self._limits.failure and not self._links:
            raise Unavailable(self._limits.failure)
        # Slots of replicas whose pipes are on their way are as good as free.
        coming = self._limits.max_ongoing_requests * sum(link.fresh for link in self._links.values())
        if (shed := self._line.offer(call, coming)) is None:
            return
        self._gauges.shed(shed.detail, request_id, now := self._clock.monotonic())
        retry_after_s = self._drain_rate.retry_after_s(shed.queued, now, self._clock.random())
        raise Overloaded(shed.detail, retry_after_s=retry_after_s)

    def open(self, call: Call, data: bytes, *, end: bool) -> None:
        """Send a call that holds a slot, now that its first body bytes are at hand.

        Raises what the call failed with, if it was given up meanwhile: then its slot is no longer its own.
        """
        if call.ended:
            call.head.result()
            return
        call.open_with(data, end=end)
        link = call.link
        if link is None:  # its replica was lost meanwhile, and it waits again
            return
        link.held.discard(call)
        link.send_open(call, offer=call.offered)

    def cancel(self, call: Call) -> None:
        """Give a call up, wherever it is. One that waits never runs; one that runs is told to stop."""
        if call.holder is not None and call.holder is not self:
            call.holder.cancel(call)
            return
        if call.ended:
            return
        call.ended = True
        call.window.close()
        if self._line.leave(call):
            self._notice_idle()
            return
        if (link := call.link) is None:
            return
        if call in link.held:
            link.held.discard(call)
            if call.offered:
                link.decline()
            self._free(link)
        else:
            link.send_cancel(call)

    def update(self, limits: Limits, endpoints: Iterable[tuple[str, str]]) -> None:
        """Put a snapshot in force: limits, and (replica id, address) of each replica."""
        self._limits, self._links.run_out = limits, False
        self._line.length_max = limits.max_queued_requests
        self._balance.limit = limits.max_ongoing_requests
        wanted = dict(endpoints)
        for replica_id, link in list(self._links.items()):
            if wanted.get(replica_id) != link.address:
                self._links.leave(link)
                self._balance.close(link)
                self._links.ended(link)
        for replica_id, address in wanted.items():
            if replica_id not in self._links:
                self._links.add(Link(replica_id, address, self, self._trust, self._clock))
        self._pump()

    def run_out(self, reason: str) -> None:
        """There will be no more replicas: those known take calls until they refuse or are lost; then `reason` holds."""
        self._limits, self._links.run_out = replace(self._limits, failure=reason), True
        for link in [link for link in self._links.values() if link.draining]:
            self._links.leave(link)
        self._pump()

    async def drain(self) -> None:
        """Return when no call waits or runs any more."""
        while self._balance.in_flight or len(self._line):
            self._idle = self.loop.create_future()
            await self._idle

    def retire(self, reason: str, successor: Dispatcher | None = None) -> None:
        """Take nothing new: whoever waits goes to `successor`, or gets Unavailable with `reason`; what runs may end."""
        self._successor = successor
        self.update(Limits(1, 0, reason), ())
        self._gauges.forget()

    async def close(self, reason: str) -> None:
        """End everything now; whoever waits gets Unavailable with `reason`."""
        self._successor = None
        self._limits = Limits(1, 0, reason)
        for link in self._links.values():
            link.retiring = True
        self._links.clear()
        self._pump()
        # What was sent and not accepted comes back from the links now; `_pump` answers it like the rest.
        await self._tasks.cancel()
        self._gauges.forget()

    # What links report.

    def connected(self, link: Link) -> None:
        """Calls can be sent to this replica."""
        link.fresh = link.draining = False
        link.refusals = 0
        if not link.retiring:
            self._balance.open(link)
            self._pump()

    def lost(self, link: Link, calls: list[Call]) -> None:
        """The pipe broke: put back what never ran, repeat what may be, fail the rest."""
        self._balance.close(link)
        self._affinity.forget(link)
        self._links.lost(link)
        held, link.held = link.held, set()
        for call in held:
            self._balance.release(link)
            call.link = None
            if not call.ended:
                call.revoke_grant()
                self._line.put_back(call)
        for call in sorted(calls, key=lambda each: each.order):
            self._balance.release(link)
            call.link, call.number = None, 0
            if not call.ended:
                self._after_loss(call, link)
        self._pump()

    def rejected(self, link: Link, call: Call, refusal: int) -> None:
        """The replica refused the call before running it: it waits again, at its old place."""
        if refusal == pb.REFUSAL_DRAINING:
            self._links.refused(link)
        else:
            link.refusals += 1
        self._balance.close(link)
        self._balance.release(link)
        call.link, call.number = None, 0
        if not call.ended:
            self._line.put_back(call)
        self._pump()
        self._links.ended(link)

    def offered(self, link: Link) -> None:
        """The replica reserved a slot: the first in the line takes it."""
        link.refusals -= 1
        call = self._line.pop() if not link.retiring else None
        if call is None:
            link.decline()
        else:
            self._balance.count(link)
            if call.model_id:
                self._affinity.sent(link, call.model_id)
            self._send(call, link, offer=True)
        if link.refusals <= 0 and not link.draining and not link.retiring:
            self._balance.open(link)
            self._pump()

    def models(self, link: Link, model_ids: Sequence[str]) -> None:
        """The replica told which models it has."""
        self._affinity.told(link, model_ids)

    def done(self, link: Link, call: Call) -> None:
        """A call is over; its slot goes to the first in the line."""
        if not call.ended:
            if call.body.ended and call.head.done():
                call.ended = True
                call.window.close()
                if call.broken or link.failures:
                    self._balance.ended(link, failed=call.broken)
            else:
                call.fail(ReplicaLost("the replica ended the call without a complete answer"))
        self._drain_rate.add()
        self._free(link)

    def failed(self, link: Link, call: Call, told: pb.Failed) -> None:
        """The handler raised."""
        if not call.ended:
            if told.kind in _OF_HANDLER:  # else another deployment refused, or time was over: not this replica's fault
                self._balance.ended(link, failed=True)
            call.fail(error_of(told))

    # How it does it.

    def _send(self, call: Call, link: Link, *, offer: bool) -> None:
        self._budget.deposit()
        call.link, call.offered = link, offer
        if call.ready:
            link.send_open(call, offer=offer)
        else:
            link.held.add(call)
            call.grant()

    def _having(self, model_id: str, link: Link) -> Link:
        """Return a link for a call that names a model, in place of `link`, on which it was counted."""
        link = self._balance.exchange(link, self._affinity.having(model_id), self._affinity.count)
        self._affinity.sent(link, model_id)
        return link

    def _free(self, link: Link) -> None:
        self._balance.release(link)
        if len(self._line):
            self._pump()
        elif self._idle is not None:
            self._notice_idle()
        if link.retiring:
            self._links.ended(link)

    def _pump(self) -> None:
        """Send from the line while there are free slots; empty it if there will never be any."""
        while len(self._line) and (link := self._balance.acquire() or self._second_best.take()) is not None:
            call = self._line.pop()
            assert call is not None
            if call.model_id:
                link = self._having(call.model_id, link)
            self._send(call, link, offer=False)
        if len(self._line) and self._limits.failure and not self._links:
            waiting = self._line.clear()
            if self._successor is not None:
                self._successor._take_over(waiting)
            else:
                for call in waiting:
                    call.fail(Unavailable(self._limits.failure))
        self._notice_idle()

    def _take_over(self, calls: Iterable[Call]) -> None:
        """Let calls that never ran, of a deployment that is gone, wait here."""
        for call in calls:
            self._orders = call.order = self._orders + 1
            call.holder = self
            self._line.append(call)
        self._pump()

    def _after_loss(self, call: Call, link: Link) -> None:
        if cause := cause_to_repeat(call, self._budget, answered=call.head.done() or call.streams):
            REPEATED.labels(self.application, self.deployment, cause).inc()
            self._line.put_back(call)
        else:
            call.fail(ReplicaLost(f"replica {link.replica_id} went away while it ran the request"))

    def _notice_idle(self) -> None:
        if self._idle is not None and not self._balance.in_flight and not len(self._line):
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None
