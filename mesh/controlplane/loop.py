"""The leader's loop: look, reconcile, act, publish.

Owns when to look: on any change and when time alone asks for it. Acts only while this instance leads; a new term
starts from the store. Never decides what to do (`reconcile` does). Called by `server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from mesh.clock import Clock
from mesh.controlplane.actions import BuildApplication
from mesh.controlplane.bell import Bell, wait_until
from mesh.controlplane.event_log import EventLog
from mesh.controlplane.execute import Executor
from mesh.controlplane.follower import PAUSES, Follower
from mesh.controlplane.leader import Leadership
from mesh.controlplane.mirror import Mirror
from mesh.controlplane.reconcile import next_due, reconcile
from mesh.controlplane.store import OutcomeUnknown, Store
from mesh.controlplane.term import Term
from mesh.errors import Conflict, MeshError, Unreachable
from mesh.lifecycle import Tasks
from mesh.settings import ControlPlaneSettings
from mesh.telemetry import DEPLOYMENT_REPLICAS, RECONCILES, WORKERS

PACE_S_MAX = 0.02
"""Seconds between two passes at most that changes wait for each other: as long as a look takes, so that it never takes
more than half of this process's time."""
IDLE_S_MAX = 5.0
"""Seconds without a pass: were a change ever missed, it is found then."""

log = logging.getLogger("mesh.controlplane")


class Loop:
    """Leads when it is this instance's turn. `term` is there while it does."""

    def __init__(self, store: Store, leadership: Leadership, settings: ControlPlaneSettings, clock: Clock) -> None:
        self._store = store
        self._leadership = leadership
        self._settings = settings
        self._clock = clock
        self._follower = Follower(store, clock)
        self._mirror: Mirror | None = None
        self._term: Term | None = None
        self._look_s = 0.0
        """Seconds that the last look took."""
        self.changed = Bell()
        """Rings when a term began or ended."""
        self._passed = Bell()
        """Rings when a pass ended well, and when a term ended."""

    @property
    def term(self) -> Term | None:
        """The term in which this instance acts now; None while it does not lead."""
        term = self._term
        return term if term is not None and not term.over and self._leadership.is_leader else None

    @property
    def mirror(self) -> Mirror | None:
        """What this instance last heard of the store, leading or not; None until it was first read."""
        return self._mirror

    async def acting(self, seconds: float) -> Term | None:
        """Return the term, waiting at most `seconds` while this instance is about to act; None if it does not."""
        ends = self._clock.monotonic() + seconds
        while True:
            ticket = self.changed.ticket()
            left_s = ends - self._clock.monotonic()
            if self.term is not None or not self._leadership.is_leader or left_s <= 0:
                return self.term
            await wait_until(ticket, left_s)

    async def stored(self) -> None:
        """Return when all that workers told this instance is stored, if it acts as leader.

        Gateways are told before that, and whoever leads next begins with what is stored.
        """
        while (term := self.term) is not None:
            ticket, observed = self._passed.ticket(), term.observed()
            if not observed.sight.unsaved(observed.replicas, observed.workers):
                return
            await wait_until(ticket, None)

    async def run(self) -> None:
        """Lead whenever it is this instance's turn, until cancelled."""
        attempt = 0
        while True:
            try:
                await self._lead(await self._stand_by())
                attempt = 0
            except MeshError as error:
                attempt += 1
                log.warning("cannot act as leader: %s", error)
            await asyncio.sleep(PAUSES.pause_s(attempt, self._clock.random))

    async def _stand_by(self) -> int:
        """Keep the mirror current until it is this instance's turn. Returns the term."""
        state = self._leadership.state
        if state.is_leader:
            return state.term
        tasks = Tasks()
        tasks.spawn(self._follow(), name="standby-mirror")
        try:
            while not state.is_leader:
                state = await self._leadership.changed(state)
        finally:
            await tasks.cancel()
        return state.term

    async def _follow(self) -> None:
        # Read anew also after a term: until it has come, what that term knew is the best there is.
        mirror = self._mirror = await self._follower.first()
        await self._follower.follow(mirror, lambda: None)

    async def _lead(self, epoch: int) -> None:
        now = self._clock.monotonic()
        mirror = self._mirror = await self._follower.mirror()
        term = Term(epoch, mirror, self._settings, now)
        executor = Executor(self._store, self._leadership.fence(), term, self._settings.build_timeout_s)
        term.chronicle.begin(self._leadership.leader_address, self._clock.wall())
        over = asyncio.Event()
        tasks = Tasks(on_failure=lambda _: over.set())
        try:
            tasks.spawn(self._follower.follow(term.mirror, term.changed.ring), name="watch-goal-state")
            tasks.spawn(self._passes(term, executor), name="reconcile")
            tasks.spawn(EventLog(self._store, self._leadership.fence(), term, self._clock).run(), name="write-events")
            tasks.spawn(self._until_lost(epoch, over), name="watch-leadership")
            await over.wait()
        finally:
            self._term = None
            term.end()
            self.changed.ring()
            self._passed.ring()
            await tasks.cancel()
            WORKERS.set(0)
            DEPLOYMENT_REPLICAS.counts = {}

    async def _until_lost(self, epoch: int, over: asyncio.Event) -> None:
        state = self._leadership.state
        while state.term == epoch:
            state = await self._leadership.changed(state)
        over.set()

    async def _passes(self, term: Term, executor: Executor) -> None:
        attempt = 0
        while True:
            ticket = term.changed.ticket()
            try:
                if term.mirror.is_behind:
                    await self._follower.read_again(term.mirror)
                due_s = await self._pass(term, executor)
                self._passed.ring()
                attempt = 0
            except (Conflict, OutcomeUnknown, Unreachable) as error:
                RECONCILES.labels("failed").inc()
                attempt += 1
                level = logging.DEBUG if isinstance(error, Conflict) and attempt == 1 else logging.WARNING
                log.log(level, "goal state could not be changed: %s; looking again", error)
                await asyncio.sleep(PAUSES.pause_s(attempt, self._clock.random))
                # The mirror may be behind, and a commit of unknown outcome may have happened: read before repeating.
                with contextlib.suppress(MeshError):
                    await self._follower.read_again(term.mirror)
                    term.changed.ring()
                continue
            # What comes meanwhile is looked at together.
            await asyncio.sleep(min(PACE_S_MAX, self._look_s))
            await wait_until(ticket, due_s)

    async def _pass(self, term: Term, executor: Executor) -> float:
        """Look once and act on it. Returns the seconds after which to look again if nothing changes."""
        now = self._clock.monotonic()
        paused = {name for name, application in term.mirror.applications.items() if application.paused}
        if paused:
            still = {i for i, replica in term.mirror.replicas.items() if replica.application in paused}
            term.registry.restart_limits(still, now=now)
        desired, observed = term.desired, term.observed(self._clock.token(8))
        actions = reconcile(desired, observed, now)
        # Published first: what is known now must reach the gateways at once, also while the store cannot be written.
        term.publish(observed, now)
        term.note(observed, now=now, wall=self._clock.wall())
        # Only what was noted just now: of one that goes later it must be seen first that it said so.
        placed = [*(replica.worker_id for replica in term.mirror.replicas.values()), *term.mirror.workers]
        term.registry.drop_lost(now=now, grace_s=self._settings.worker_grace_s, placed=placed)
        if self._term is not term:
            self._term = term
            self.changed.ring()
        term.chronicle.decided(actions)
        self._look_s = self._clock.monotonic() - now
        await executor.execute(actions, now=now)
        if any(isinstance(action, BuildApplication) for action in actions):
            # At once: it may have ended by the next look.
            term.note(term.observed(), now=self._clock.monotonic(), wall=self._clock.wall())
        term.builds.keep(term.mirror.applications)
        WORKERS.set(len(term.outboxes))
        DEPLOYMENT_REPLICAS.counts = term.replica_counts(now=now)
        RECONCILES.labels("changed" if actions else "settled").inc()
        due = (next_due(term.desired, term.observed(), now), term.withdrawals.due(now))
        left_s = (at - self._clock.monotonic() for at in due if at is not None)
        return max(0.0, min((IDLE_S_MAX, *left_s)))
