"""Which instance of the control plane leads.

Owns one key and one lease of the store. Knows nothing of what a leader does. Used by the control plane's server,
which puts `fence()` into every write of the leader.

The key holds the leader's control address and hangs on a lease. Whoever creates it leads, and the revision of
that creation is the term: a number that rises with every change of leader. A lease alone keeps nobody from
writing late (a paused process does not notice that its time is over), so each write of a leader compares the
key's revision and is refused once that has changed. And a leader stops by itself when its lease was not renewed
for two thirds of its time, measured from before the renewal was asked for.

One that is killed leaves its key until the lease ends. Whoever starts on the same machine after that need not wait: a
second key tells which process led, and of one that is gone the key is taken away. The fence holds here as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from mesh.backoff import Backoff
from mesh.clock import SYSTEM, Clock
from mesh.controlplane.dead_leader import is_gone, own_mark
from mesh.controlplane.store import Compacted, Compare, Put, Remove, Store
from mesh.errors import Conflict, MeshError, NotFound
from mesh.lifecycle import Tasks

KEY = "leader"
MARK_KEY = "leader-process"
"""Written with KEY, on the same lease: the mark of the process."""
TTL_S = 4.0
"""Seconds until another instance takes over from a leader that died."""
_TRUST = 2.0 / 3.0
_RENEWALS = 3.0
_RETRY = Backoff(initial_s=0.1, max_s=1.0, floor=0.1)

log = logging.getLogger("mesh.controlplane.leader")


@dataclass(frozen=True, slots=True)
class LeaderState:
    """Who leads, as far as this instance knows. `term` is 0 unless it leads itself."""

    is_leader: bool = False
    term: int = 0
    leader_address: str = ""


@dataclass(frozen=True, slots=True)
class _Holder:
    """What the store said last of the key: its address and revision, or nobody's, as of `seen` (-1: nothing yet)."""

    address: str = ""
    revision: int = 0
    seen: int = -1


class Leadership:
    """One instance's part in the election. `run` takes part until `resign` or cancellation."""

    def __init__(self, store: Store, address: str, *, ttl_s: float = TTL_S, clock: Clock = SYSTEM) -> None:
        """`address` is where others reach this instance's control service; `ttl_s` the lease's seconds."""
        self._store = store
        self._address = address
        self._ttl_s = ttl_s
        self._clock = clock
        self._holder = _Holder()
        self._term = 0
        self._lease = 0
        self._left = 0
        self._trusted_until = 0.0
        self._resigned = False
        self._looked_at = 0
        """Revision of the key whose holder's process was looked for."""
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    @property
    def is_leader(self) -> bool:
        """Whether this instance leads now. False from the moment its lease can no longer be trusted."""
        return self._term != 0 and self._clock.monotonic() < self._trusted_until

    @property
    def term(self) -> int:
        """The store revision at which this instance won; 0 while it does not lead."""
        return self._term if self.is_leader else 0

    @property
    def leader_address(self) -> str:
        """The control address of whoever leads; empty while nobody is known to."""
        if self.is_leader:
            return self._address
        # Not an own address left over from a lost term or an earlier process: nobody acts there.
        return self._holder.address if self._holder.address != self._address else ""

    @property
    def state(self) -> LeaderState:
        """All three at one moment."""
        term = self.term
        return LeaderState(term != 0, term, self.leader_address)

    def fence(self) -> Compare:
        """Return what every write of the leader must compare. Raises Conflict if this instance does not lead."""
        if not self.is_leader:
            raise Conflict("this control plane does not lead", hint=f"the leader is {self.leader_address or 'unknown'}")
        return Compare(KEY, self._term)

    async def changed(self, last: LeaderState) -> LeaderState:
        """Wait until the state is not `last` and return it."""
        while (state := self.state) == last:
            news = self._news
            # Losing by mere lapse of time is noticed here too, should the loop that renews be stuck.
            wait_s = self._trusted_until - self._clock.monotonic() if state.is_leader else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await news.wait()
        return state

    async def run(self) -> None:
        """Campaign, lead, campaign again, until `resign`. The store's troubles only cause pauses.

        If it is cancelled instead, its lease ends by itself.
        """
        self._ended.clear()
        tasks = Tasks()
        tasks.spawn(self._watch(), name="leader-watch")
        attempt = 0
        try:
            while not self._resigned:
                if not self._left and (self._holder.seen < 0 or self._holder.revision):
                    attempt = 0
                    if not await self._take_from_the_dead():
                        await self._news.wait()
                    continue
                # Nobody leads, or nobody but a term of this instance that is over and whose lease is in the way.
                if await self._end_left() and await self._win():
                    attempt = 0
                    await self._hold()
                else:
                    await self._pause(attempt)
                    attempt += 1
        finally:
            self._lose("this instance stops", logging.INFO)
            self._ended.set()
            await tasks.cancel()

    async def resign(self) -> None:
        """Stop leading and taking part, and return when `run` has ended. Another can take over at once."""
        self._resigned = True
        self._lose("it resigned", logging.INFO)
        self._notify()
        await self._give_up_lease()
        await self._ended.wait()

    async def _win(self) -> bool:
        """Try to create the key. Whatever goes wrong, the lease goes, and with it the key."""
        asked = self._clock.monotonic()
        try:
            self._lease = await self._store.grant(self._ttl_s)
            put = Put(KEY, self._address.encode(), self._lease)
            mark = Put(MARK_KEY, own_mark().encode(), self._lease)
            term = await self._store.commit((Compare(KEY, 0),), (put, mark))
        except Conflict:
            await self._give_up_lease()
            return False
        except MeshError as error:
            log.warning("campaign failed, trying again: %s", error)
            await self._give_up_lease()
            return False
        # The watch may be ahead of the answer, and have seen the key go again.
        if self._resigned or self._holder.seen > term:
            await self._give_up_lease()
            return False
        self._term = term
        self._trusted_until = asked + self._ttl_s * _TRUST
        self._holder = _Holder(self._address, term, term)
        log.info("this control plane leads (term %d)", term)
        self._notify()
        return True

    async def _take_from_the_dead(self) -> bool:
        """Look once for the process that holds the key; if it is gone remove the key.

        Returns whether there is something to look at: that nobody leads now, or what came meanwhile.
        """
        news, holder = self._news, self._holder
        if holder.revision in (0, self._looked_at):
            return False
        self._looked_at = holder.revision
        try:
            mark = await self._store.get(MARK_KEY)
            if mark is None or mark.revision != holder.revision or not is_gone(mark.value.decode(errors="replace")):
                return news is not self._news
            removed = await self._store.commit((Compare(KEY, holder.revision),), (Remove(KEY), Remove(MARK_KEY)))
        except MeshError as error:
            log.debug("the last leader's process was not looked for: %s", error)
            return news is not self._news
        log.info("the process that led is gone (term %d)", holder.revision)
        self._observe(removed, None, removed)
        return True

    async def _hold(self) -> None:
        """Renew the lease until leadership is lost."""
        wait_s = self._ttl_s / _RENEWALS
        attempt = 0
        while await self._still_holding(wait_s):
            asked = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._trusted_until - asked):
                    left_s = await self._store.keep_alive(self._lease)
            except TimeoutError:
                break
            except NotFound:
                self._lose("its lease has ended")
                break
            except MeshError as error:
                log.warning("the lease could not be renewed, trying again: %s", error)
                wait_s = _RETRY.pause_s(attempt, self._clock.random)
                attempt += 1
            else:
                if not self.is_leader:
                    break
                self._trusted_until = max(self._trusted_until, asked + min(left_s, self._ttl_s) * _TRUST)
                wait_s = self._ttl_s / _RENEWALS
                attempt = 0
        self._lose("its lease was not renewed in time")
        await self._give_up_lease()

    async def _still_holding(self, wait_s: float) -> bool:
        """Wait for at most `wait_s`, less if something changes; return whether this instance still leads."""
        until = self._clock.monotonic() + wait_s
        while self.is_leader and (left_s := min(until, self._trusted_until) - self._clock.monotonic()) > 0:
            news = self._news
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await news.wait()
        return self.is_leader

    async def _watch(self) -> None:
        """Know who holds the key, for ever."""
        attempt = 0
        while True:
            try:
                listing = await self._store.list(KEY)
                found = next((item for item in listing.items if item.key == KEY), None)
                value, revision = (found.value, found.revision) if found else (None, 0)
                self._observe(listing.revision, value, revision)
                attempt = 0
                changes = self._store.watch(KEY, after=listing.revision)
                async with contextlib.aclosing(changes):
                    async for batch in changes:
                        for event in batch.events:
                            if event.key == KEY:
                                self._observe(event.revision, event.value, event.revision)
            except Compacted:
                log.debug("the leader's history is gone; reading anew")
            except MeshError as error:
                log.warning("the leader cannot be watched, trying again: %s", error)
            await asyncio.sleep(_RETRY.pause_s(attempt, self._clock.random))
            attempt += 1

    def _observe(self, seen: int, value: bytes | None, revision: int) -> None:
        """Take note that as of revision `seen` the key had this value since `revision`, or was not there (None)."""
        if seen < self._holder.seen:
            return
        if value is None:
            self._holder = _Holder(seen=seen)
        else:
            self._holder = _Holder(value.decode(errors="replace"), revision, seen)
        if self._term != 0 and self._holder.revision != self._term:
            self._lose("its key was taken away")
        self._notify()

    def _lose(self, why: str, level: int = logging.WARNING) -> None:
        if self._term == 0:
            return
        log.log(level, "this control plane no longer leads (term %d): %s", self._term, why)
        self._term = 0
        self._notify()

    async def _give_up_lease(self) -> None:
        if self._lease == 0:
            return
        self._left, self._lease = self._lease, 0
        await self._end_left(logging.WARNING)

    async def _end_left(self, level: int = logging.DEBUG) -> bool:
        """End the lease that was given up, if it still has to be. Returns whether that is done.

        A store that was away keeps it, and with it the key, for as long again as it lasts.
        """
        if self._left == 0:
            return True
        try:
            await self._store.revoke(self._left)
        except MeshError as error:
            log.log(level, "the lease could not be given up and ends by itself in %.0f s: %s", self._ttl_s, error)
            return False
        self._left = 0
        return True

    async def _pause(self, attempt: int) -> None:
        news = self._news
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETRY.pause_s(attempt, self._clock.random)):
                await news.wait()

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
