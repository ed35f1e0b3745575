"""What a worker does next: which replicas to start, stop, configure, restart or kill, and when.

Owns the generation last obeyed and the life of each replica: its state, restart pauses, deadlines and health count.
Never starts a process, reads a clock or logs: the supervisor tells it what happened and does what it answers.
`now` is monotonic seconds everywhere.

STARTING ─ready─► READY ─exit─► STARTING (at once, the first time) or BACKOFF ─pause over─► STARTING
    └─exit, deadline─► BACKOFF             STARTING, READY ─not assigned─► DRAINING ─exit─► STOPPED
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from mesh.backoff import Backoff
from mesh.model import DeploymentSettings, Failure, Generation, ReplicaSpec, ReplicaState, ReplicaStatus
from mesh.serving.options import late_start, option_field

RESTART = Backoff(initial_s=1.0, max_s=30.0, floor=0.5)
HEALTHY_AFTER_S = 60.0
"""A replica that was ready for so long starts with a clean slate when it crashes."""
HEALTH_FAILURES_MAX = 3
KILL_GRACE_S = 2.0
"""Seconds beyond the drain time before SIGKILL."""
STOPPED_KEPT_S = 60.0
"""Seconds for which a stopped replica is still reported, so that a lost report does no harm."""
_MESSAGE_CHARS_MAX = 4000

NEXT: Mapping[ReplicaState, frozenset[ReplicaState]] = {
    ReplicaState.PENDING: frozenset({ReplicaState.STARTING}),
    ReplicaState.STARTING: frozenset({ReplicaState.READY, ReplicaState.BACKOFF, ReplicaState.DRAINING}),
    ReplicaState.READY: frozenset({ReplicaState.STARTING, ReplicaState.BACKOFF, ReplicaState.DRAINING}),
    ReplicaState.BACKOFF: frozenset({ReplicaState.STARTING, ReplicaState.STOPPED}),
    ReplicaState.DRAINING: frozenset({ReplicaState.STARTING, ReplicaState.STOPPED}),
    ReplicaState.STOPPED: frozenset({ReplicaState.STARTING}),
}
"""Which state may follow which."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start a process for this replica."""

    spec: ReplicaSpec


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask the replica's process to drain and exit."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the replica's process group now."""

    replica_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Configure:
    """Put these settings in force on the running replica, repeated until `configured` or another Configure."""

    replica_id: str
    settings: DeploymentSettings


Action = Start | Terminate | Kill | Configure


@dataclass(slots=True)
class _Life:
    """One replica, across all its processes."""

    spec: ReplicaSpec
    wanted: bool = True
    state: ReplicaState = ReplicaState.PENDING
    since: float = 0.0
    deadline: float | None = None
    """When the state ends by itself: start-up, pause, drain or memory is over."""
    pid: int = 0
    address: str = ""
    admin_address: str = ""
    in_force: DeploymentSettings | None = None
    """None while that is not known: no process, or one that was told others and has not taken them."""
    settings_revision: int = 0
    """Of the settings that its process started with, took or refused last."""
    message: str = ""
    cause: str = ""
    """Why the process is about to end, if that is known before it does."""
    failure: Failure | None = None
    """Why the last start failed; while it is ready, why it refused its settings."""
    failed_starts: int = 0
    crashes: int = 0
    pauses: int = 0
    restarted_at_once: bool = False
    health_failures: int = 0
    ongoing_requests: int = 0

    def enter(self, state: ReplicaState, now: float, deadline: float | None, message: str = "") -> None:
        assert state in NEXT[self.state], f"{self.state.name} -> {state.name}"
        self.state, self.since, self.deadline = state, now, deadline
        self.message = message[:_MESSAGE_CHARS_MAX]


class Roster:
    """All replicas of a worker: what is assigned against what runs. At most one process each."""

    def __init__(self, random: Callable[[], float]) -> None:
        self.generation = Generation()
        self.closing = False
        self._random = random
        self._lives: dict[str, _Life] = {}

    def state(self, replica_id: str) -> ReplicaState:
        """Return the replica's state; UNSPECIFIED if there is none such."""
        life = self._lives.get(replica_id)
        return life.state if life else ReplicaState.UNSPECIFIED

    def settings(self, replica_id: str) -> DeploymentSettings:
        """Return the settings last assigned to a replica that exists."""
        return self._lives[replica_id].spec.settings

    def statuses(self, epoch: float) -> tuple[ReplicaStatus, ...]:
        """Return how each replica is doing. `epoch` is the Unix time at which `now` was 0."""
        return tuple(
            ReplicaStatus(
                replica_id=replica_id,
                state=life.state,
                address=life.address,
                pid=life.pid,
                failed_starts=life.failed_starts,
                crashes=life.crashes,
                message=life.message,
                since=epoch + life.since,
                ongoing_requests=life.ongoing_requests,
                admin_address=life.admin_address,
                failure=life.failure,
                settings_revision=life.settings_revision,
            )
            for replica_id, life in self._lives.items()
        )

    def next_at(self) -> float | None:
        """Return when `tick` is due next, or None if nothing waits for a time."""
        return min((life.deadline for life in self._lives.values() if life.deadline is not None), default=None)

    def assign(self, generation: Generation, specs: Iterable[ReplicaSpec], now: float) -> tuple[Action, ...] | None:
        """Take the whole list of what is to run. Returns None if it is not newer than what was obeyed last."""
        if generation <= self.generation:
            return None
        self.generation = generation
        if self.closing:
            return ()
        wanted = {spec.replica_id: spec for spec in specs}
        actions: list[Action] = []
        for replica_id, life in self._lives.items():
            if replica_id not in wanted:
                actions += self._release(life, now)
        for replica_id, spec in wanted.items():
            actions += self._want(replica_id, spec, now)
        return tuple(actions)

    def started(self, replica_id: str, pid: int) -> None:
        """The process that Start asked for exists."""
        self._lives[replica_id].pid = pid

    def ready(self, replica_id: str, address: str, admin_address: str, now: float) -> tuple[Action, ...]:
        """The replica's process says that it listens."""
        life = self._lives[replica_id]
        if life.state is not ReplicaState.STARTING:
            return ()
        life.enter(ReplicaState.READY, now, None)
        life.address, life.admin_address = address, admin_address
        life.failed_starts = life.health_failures = 0
        life.failure = None
        return self._reconfigure(life)

    def loaded(self, replica_id: str, ongoing_requests: int) -> None:
        """Its process said how many requests it runs."""
        self._lives[replica_id].ongoing_requests = ongoing_requests

    def failed(self, replica_id: str, failure: Failure, now: float) -> None:
        """The replica's process says why it is going to exit; one that then stays on is killed."""
        life = self._lives[replica_id]
        if not life.cause:
            life.cause, life.failure = failure.message, failure
        if life.state is ReplicaState.STARTING:
            life.deadline = now + KILL_GRACE_S

    def configured(self, replica_id: str, settings: DeploymentSettings) -> tuple[Action, ...]:
        """These settings are in force on the running replica."""
        life = self._lives[replica_id]
        life.in_force = settings
        if life.state is not ReplicaState.READY:
            return ()
        life.message, life.failure = "", None
        return self._reconfigure(life)

    def not_configured(self, replica_id: str, message: str) -> None:
        """Nobody knows whether the running replica took its new settings; it is asked again."""
        life = self._lives[replica_id]
        if life.state is ReplicaState.READY:
            life.message = message[:_MESSAGE_CHARS_MAX]

    def refused(self, replica_id: str, settings: DeploymentSettings, failure: Failure) -> None:
        """User code in the running replica refused these settings; it goes on with the old ones."""
        life = self._lives[replica_id]
        if life.state is not ReplicaState.READY or not _same(settings, life.spec.settings):
            return
        spec = life.spec
        life.message = f"it did not take its new settings: {failure.message}"[:_MESSAGE_CHARS_MAX]
        # Its process knows the config that it started with only.
        life.failure = replace(failure, field=option_field(spec.config, spec.deployment, "user_config"))
        life.settings_revision = spec.settings_revision

    def probed(self, replica_id: str, failure: str) -> tuple[Action, ...]:
        """A health check ended; `failure` is "" if the replica is well."""
        life = self._lives.get(replica_id)
        if life is None or life.state is not ReplicaState.READY or life.cause:
            return ()
        life.health_failures = life.health_failures + 1 if failure else 0
        if life.health_failures < HEALTH_FAILURES_MAX:
            return ()
        life.cause = f"failed {HEALTH_FAILURES_MAX} health checks in a row: {failure}"
        return (Kill(replica_id, life.cause),)

    def exited(self, replica_id: str, ending: Failure, now: float) -> tuple[Action, ...]:
        """The replica's process, and its group, are gone. `ending` is an exit code or signal, in words."""
        life = self._lives[replica_id]
        if not life.cause and life.state is ReplicaState.STARTING:
            life.failure = ending
        reason, life.cause = life.cause or ending.message, ""
        if life.state is ReplicaState.DRAINING:
            if life.wanted and not self.closing:
                return self._start(life, now, "assigned again while it drained")
            self._vacate(life)
            life.enter(ReplicaState.STOPPED, now, now + STOPPED_KEPT_S, reason)
            return ()
        if life.state is ReplicaState.READY:
            return self._crashed(life, reason, now)
        life.failed_starts += 1
        return self._pause(life, reason, now)

    def tick(self, now: float) -> tuple[Action, ...]:
        """Do what the time asks for."""
        actions: list[Action] = []
        for replica_id, life in list(self._lives.items()):
            if life.deadline is None or life.deadline > now:
                continue
            life.deadline = None
            if life.state is ReplicaState.BACKOFF:
                actions += self._start(life, now, life.message)
            elif life.state is ReplicaState.STARTING:
                if not life.cause:
                    spec = life.spec
                    life.failure = late_start(spec.config, spec.deployment, spec.settings.startup_timeout_s)
                    life.cause = life.failure.message
                actions.append(Kill(replica_id, life.cause))
            elif life.state is ReplicaState.DRAINING:
                life.cause = f"killed: it had not drained within {now - life.since:.0f} s"
                actions.append(Kill(replica_id, life.cause))
            else:
                del self._lives[replica_id]
        return tuple(actions)

    def drain(self, now: float) -> tuple[Action, ...]:
        """Stop all replicas gracefully and take no more assignments."""
        self.closing = True
        return tuple(action for life in self._lives.values() for action in self._release(life, now))

    def _want(self, replica_id: str, spec: ReplicaSpec, now: float) -> tuple[Action, ...]:
        life = self._lives.get(replica_id)
        if life is None:
            life = self._lives[replica_id] = _Life(spec)
            return self._start(life, now, "")
        if not _same(life.spec.settings, spec.settings):
            life.failed_starts = 0  # they were those of other settings
        life.spec, life.wanted = spec, True
        if life.state is ReplicaState.STOPPED:
            return self._start(life, now, "")
        return self._reconfigure(life) if life.state is ReplicaState.READY else ()

    def _release(self, life: _Life, now: float) -> tuple[Action, ...]:
        life.wanted = False
        if life.state is ReplicaState.BACKOFF:
            life.enter(ReplicaState.STOPPED, now, now + STOPPED_KEPT_S, life.message)
        elif life.state in (ReplicaState.STARTING, ReplicaState.READY):
            drain_s = life.spec.settings.graceful_shutdown_timeout_s if life.state is ReplicaState.READY else 0.0
            life.enter(ReplicaState.DRAINING, now, now + drain_s + KILL_GRACE_S)
            return (Terminate(life.spec.replica_id),)
        return ()

    def _start(self, life: _Life, now: float, message: str) -> tuple[Action, ...]:
        self._vacate(life)
        life.enter(ReplicaState.STARTING, now, now + life.spec.settings.startup_timeout_s, message)
        life.in_force, life.settings_revision = life.spec.settings, life.spec.settings_revision
        return (Start(life.spec),)

    def _crashed(self, life: _Life, reason: str, now: float) -> tuple[Action, ...]:
        life.crashes += 1
        life.failure = None
        if now - life.since >= HEALTHY_AFTER_S:
            life.pauses, life.restarted_at_once = 0, False
        if not life.restarted_at_once:
            life.restarted_at_once = True
            return self._start(life, now, reason)
        return self._pause(life, reason, now)

    def _pause(self, life: _Life, reason: str, now: float) -> tuple[Action, ...]:
        self._vacate(life)
        life.enter(ReplicaState.BACKOFF, now, now + RESTART.pause_s(life.pauses, self._random), reason)
        life.pauses += 1
        return ()

    def _reconfigure(self, life: _Life) -> tuple[Action, ...]:
        wanted = life.spec.settings
        if life.in_force is not None and _same(life.in_force, wanted):
            life.settings_revision = life.spec.settings_revision
            return ()
        life.in_force = None
        return (Configure(life.spec.replica_id, wanted),)

    def _vacate(self, life: _Life) -> None:
        life.pid, life.address, life.admin_address, life.in_force = 0, "", "", None
        life.ongoing_requests = 0


def _same(one: DeploymentSettings, other: DeploymentSettings) -> bool:
    """Whether a replica can tell them apart; how many replicas there are is nothing to it."""
    return replace(one, num_replicas=other.num_replicas) == other
