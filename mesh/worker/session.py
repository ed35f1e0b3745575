"""What a worker does next: which replicas to start, stop, configure, restart or kill, and when.

Owns the generation last obeyed, and when each replica (`life`) goes on to which state: pauses, deadlines, checks.
Never starts a process, reads a clock or logs: the supervisor tells it what happened and does what it answers.
`now` is monotonic seconds everywhere.

PREPARING ─prepared─► STARTING, where there is nothing to prepare it is the first one; ─failed, deadline─► BACKOFF
STARTING ─ready─► READY ─exit─► STARTING (at once, the first time) or BACKOFF ─pause over─► STARTING
    └─exit, deadline─► BACKOFF             STARTING, READY ─not assigned─► DRAINING ─exit─► STOPPED
READY ─told to end by somebody else─► DRAINING ─exit─► STARTING (at once, the first time) or BACKOFF
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from mesh.backoff import Backoff
from mesh.model import DeploymentSettings, Failure, Generation, ReplicaSpec, ReplicaState, ReplicaStatus
from mesh.reasons import Reason
from mesh.serving.options import late_start, option_field
from mesh.worker.environments.environment import in_place
from mesh.worker.life import Life, same

RESTART = Backoff(initial_s=1.0, max_s=30.0, floor=0.5)
HEALTHY_AFTER_S = 60.0
"""A replica that was ready for so long starts with a clean slate when it crashes."""
KILL_GRACE_S = 2.0
"""Seconds beyond the drain time before SIGKILL."""
STOPPED_KEPT_S = 60.0
"""Seconds for which a stopped replica is still reported, so that a lost report does no harm."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make this replica's environment ready: fetch its code, install its packages."""

    spec: ReplicaSpec


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop making this replica's environment ready."""

    replica_id: str


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


Action = Prepare | Abandon | Start | Terminate | Kill | Configure


class Roster:
    """All replicas of a worker: what is assigned against what runs. At most one process each."""

    def __init__(self, random: Callable[[], float], environment_timeout_s: float = 600.0) -> None:
        self.generation = Generation()
        self.closing = False
        self._random = random
        self._environment_timeout_s = environment_timeout_s
        self._lives: dict[str, Life] = {}

    def state(self, replica_id: str) -> ReplicaState:
        """Return the replica's state; UNSPECIFIED if there is none such."""
        life = self._lives.get(replica_id)
        return life.state if life else ReplicaState.UNSPECIFIED

    def settings(self, replica_id: str) -> DeploymentSettings:
        """Return the settings last assigned to a replica that exists."""
        return self._lives[replica_id].spec.settings

    def statuses(self, epoch: float) -> tuple[ReplicaStatus, ...]:
        """Return how each replica is doing. `epoch` is the Unix time at which `now` was 0."""
        return tuple(life.status(epoch) for life in self._lives.values())

    @property
    def drain_s(self) -> float:
        """The longest time that a replica may take to finish what it runs."""
        return max((life.spec.settings.graceful_shutdown_timeout_s for life in self._lives.values()), default=0.0)

    def next_at(self) -> float | None:
        """Return when `tick` is due next, or None if nothing waits for a time."""
        return min((life.deadline for life in self._lives.values() if life.deadline is not None), default=None)

    def assign(
        self, generation: Generation, specs: Iterable[ReplicaSpec], now: float, withdrawn: Collection[str] = ()
    ) -> tuple[Action, ...] | None:
        """Take the whole list of what is to run. Returns None if it is not newer than what was obeyed last.

        Replicas whose ids are in `withdrawn` go on as they are.
        """
        if generation <= self.generation:
            return None
        self.generation = generation
        if self.closing:
            return ()
        wanted = {spec.replica_id: spec for spec in specs}
        actions: list[Action] = []
        for replica_id, life in self._lives.items():
            if replica_id not in wanted and replica_id not in withdrawn:
                actions += self._release(life, now)
        for replica_id, spec in wanted.items():
            actions += self._want(replica_id, spec, now)
        return tuple(actions)

    def started(self, replica_id: str, pid: int) -> None:
        """The process that Start asked for exists."""
        self._lives[replica_id].pid = pid

    def preparing(self, replica_id: str, message: str) -> None:
        """What goes on while the replica's environment is made ready."""
        life = self._lives.get(replica_id)
        if life is not None and life.state is ReplicaState.PREPARING:
            life.say(Reason.PREPARING_ENVIRONMENT, message)

    def prepared(self, replica_id: str, now: float) -> tuple[Action, ...]:
        """The replica's environment is ready."""
        life = self._lives[replica_id]
        return self._launch(life, now, Reason.STARTING) if life.state is ReplicaState.PREPARING else ()

    def not_prepared(self, replica_id: str, failure: Failure, now: float) -> tuple[Action, ...]:
        """The replica's environment cannot be made ready: a start that failed."""
        life = self._lives[replica_id]
        if life.state is not ReplicaState.PREPARING:
            return ()
        life.failure = replace(failure, reason=Reason.ENVIRONMENT_FAILED)
        life.failed_starts += 1
        return self._pause(life, life.failure, now)

    def ready(self, replica_id: str, address: str, admin_address: str, now: float) -> tuple[Action, ...]:
        """The replica's process says that it listens."""
        life = self._lives[replica_id]
        if life.state is not ReplicaState.STARTING:
            return ()
        life.enter(ReplicaState.READY, now, None, Reason.READY)
        life.address, life.admin_address = address, admin_address
        life.failed_starts = life.health_failures = 0
        life.failure = life.unwell = None
        return self._reconfigure(life)

    def draining(self, replica_id: str, now: float) -> bool:
        """The replica's process takes nothing new and will exit. Returns whether that is news: it was not asked to."""
        life = self._lives[replica_id]
        if life.state is not ReplicaState.READY:
            return False
        self._drain(life, now)
        return True

    def loaded(self, replica_id: str, ongoing_requests: int) -> None:
        """Its process said how many requests it runs."""
        self._lives[replica_id].ongoing_requests = ongoing_requests

    def failed(self, replica_id: str, failure: Failure, now: float) -> None:
        """The replica's process says why it is going to exit; one that then stays on is killed."""
        life = self._lives[replica_id]
        if life.cause is None:
            life.cause = life.failure = failure
        if life.state is ReplicaState.STARTING:
            life.deadline = now + KILL_GRACE_S

    def configured(self, replica_id: str, settings: DeploymentSettings) -> tuple[Action, ...]:
        """These settings are in force on the running replica."""
        life = self._lives[replica_id]
        life.in_force = settings
        if life.state is not ReplicaState.READY:
            return ()
        life.failure = None
        life.say(*_health(life))
        return self._reconfigure(life)

    def not_configured(self, replica_id: str, message: str) -> None:
        """Nobody knows whether the running replica took its new settings; it is asked again."""
        life = self._lives[replica_id]
        if life.state is ReplicaState.READY:
            life.say(Reason.SETTINGS_PENDING, message)

    def refused(self, replica_id: str, settings: DeploymentSettings, failure: Failure) -> None:
        """User code in the running replica refused these settings; it goes on with the old ones."""
        life = self._lives[replica_id]
        if life.state is not ReplicaState.READY or not same(settings, life.spec.settings):
            return
        spec = life.spec
        life.say(*_refused(failure))
        # Its process knows the config that it started with only.
        field = option_field(spec.config, spec.deployment, "user_config")
        life.failure = replace(failure, field=field, reason=Reason.SETTINGS_REFUSED)
        life.settings_revision = spec.settings_revision

    def probed(self, replica_id: str, failure: Failure | None) -> tuple[Action, ...]:
        """A health check ended; `failure` is None if the replica is well. The first one comes before it is ready."""
        life = self._lives.get(replica_id)
        if life is None or life.cause is not None or life.state not in (ReplicaState.STARTING, ReplicaState.READY):
            return ()
        told = life.reason is Reason.HEALTH_CHECK_FAILED
        life.unwell = failure
        life.health_failures = life.health_failures + 1 if failure else 0
        if failure is not None or told:
            life.say(*_health(life))
        threshold = _threshold(life)
        if failure is None or life.state is ReplicaState.STARTING or life.health_failures < threshold:
            return ()
        text = f"failed {threshold} health checks in a row: {failure.message}"
        life.cause = replace(failure, message=text, reason=Reason.HEALTH_CHECK_FAILED)
        return (Kill(replica_id, text),)

    def exited(self, replica_id: str, ending: Failure, now: float) -> tuple[Action, ...]:
        """The replica's process, and its group, are gone. `ending` is an exit code or signal, in words."""
        life = self._lives[replica_id]
        cause, life.cause = life.cause or ending, None
        if life.state is ReplicaState.DRAINING:
            if life.wanted and not self.closing:
                return self._drained(life, now)
            life.vacate()
            reason = cause.reason or Reason.STOPPED
            life.enter(ReplicaState.STOPPED, now, now + STOPPED_KEPT_S, reason, cause.message)
            return ()
        if life.state is ReplicaState.READY:
            return self._crashed(life, cause, now)
        life.failed_starts += 1
        life.failure = replace(cause, reason=cause.reason or Reason.START_FAILED)
        return self._pause(life, life.failure, now)

    def tick(self, now: float) -> tuple[Action, ...]:
        """Do what the time asks for."""
        actions: list[Action] = []
        for replica_id, life in list(self._lives.items()):
            if life.deadline is None or life.deadline > now:
                continue
            life.deadline = None
            if life.state is ReplicaState.BACKOFF:
                actions += self._start(life, now, life.reason, life.message)
            elif life.state is ReplicaState.PREPARING:
                actions.append(Abandon(replica_id))
                late = late_environment(self._environment_timeout_s, life.message)
                actions += self.not_prepared(replica_id, late, now)
            elif life.state is ReplicaState.STARTING:
                if life.cause is None:
                    life.cause = life.failure = _late(life)
                actions.append(Kill(replica_id, life.cause.message))
            elif life.state is ReplicaState.DRAINING:
                text = f"killed: it had not drained within {now - life.since:.0f} s"
                life.cause = Failure(text, reason=Reason.DRAIN_TIMEOUT)
                actions.append(Kill(replica_id, text))
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
            life = self._lives[replica_id] = Life(spec)
            return self._start(life, now, Reason.STARTING)
        if not same(life.spec.settings, spec.settings):
            life.failed_starts = 0  # they were those of other settings
        life.spec, life.wanted = spec, True
        if life.state is ReplicaState.STOPPED:
            return self._start(life, now, Reason.STARTING)
        return self._reconfigure(life) if life.state is ReplicaState.READY else ()

    def _release(self, life: Life, now: float) -> tuple[Action, ...]:
        life.wanted = False
        if life.state in (ReplicaState.BACKOFF, ReplicaState.PREPARING):
            abandoned = life.state is ReplicaState.PREPARING
            message = "" if abandoned else life.message
            life.enter(ReplicaState.STOPPED, now, now + STOPPED_KEPT_S, Reason.STOPPED, message)
            return (Abandon(life.spec.replica_id),) if abandoned else ()
        if life.state in (ReplicaState.STARTING, ReplicaState.READY):
            self._drain(life, now)
            return (Terminate(life.spec.replica_id),)
        return ()

    def _drain(self, life: Life, now: float) -> None:
        drain_s = life.spec.settings.graceful_shutdown_timeout_s if life.state is ReplicaState.READY else 0.0
        life.enter(ReplicaState.DRAINING, now, now + drain_s + KILL_GRACE_S, Reason.DRAINING)

    def _start(self, life: Life, now: float, reason: Reason, message: str = "") -> tuple[Action, ...]:
        life.vacate()
        if in_place(life.spec.config.runtime_env) is not None:
            return self._launch(life, now, reason, message)
        ends = now + self._environment_timeout_s
        life.enter(ReplicaState.PREPARING, now, ends, Reason.PREPARING_ENVIRONMENT, message)
        return (Prepare(life.spec),)

    def _launch(self, life: Life, now: float, reason: Reason, message: str = "") -> tuple[Action, ...]:
        life.enter(ReplicaState.STARTING, now, now + life.spec.settings.startup_timeout_s, reason, message)
        life.in_force, life.settings_revision = life.spec.settings, life.spec.settings_revision
        return (Start(life.spec),)

    def _crashed(self, life: Life, cause: Failure, now: float) -> tuple[Action, ...]:
        life.crashes += 1
        life.failure = None
        if now - life.since >= HEALTHY_AFTER_S:
            life.pauses, life.restarted_at_once = 0, False
        if life.restarted_at_once:
            return self._pause(life, replace(cause, reason=cause.reason or Reason.CRASH_LOOP), now)
        life.restarted_at_once = True
        cause = replace(cause, reason=cause.reason or Reason.CRASHED)
        life.last_failure, life.last_failure_at = cause, now
        return self._start(life, now, cause.reason, cause.message)

    def _drained(self, life: Life, now: float) -> tuple[Action, ...]:
        """Run it again: it drained and exited unasked, or was assigned again meanwhile. That is no crash."""
        again = life.drained_at is not None and now - life.drained_at < HEALTHY_AFTER_S
        life.drained_at = now
        if again:  # code that ends itself must not be started in a tight loop
            return self._pause(life, Failure("it keeps being told to end", reason=Reason.STOPPED), now)
        return self._start(life, now, Reason.STARTING, "started again after it had drained")

    def _pause(self, life: Life, cause: Failure, now: float) -> tuple[Action, ...]:
        life.vacate()
        life.last_failure, life.last_failure_at = cause, now
        ends = now + RESTART.pause_s(life.pauses, self._random)
        life.enter(ReplicaState.BACKOFF, now, ends, cause.reason, cause.message)
        life.pauses += 1
        return ()

    def _reconfigure(self, life: Life) -> tuple[Action, ...]:
        wanted = life.spec.settings
        if life.in_force is not None and same(life.in_force, wanted):
            life.settings_revision = life.spec.settings_revision
            return ()
        life.in_force = None
        return (Configure(life.spec.replica_id, wanted),)


def _threshold(life: Life) -> int:
    """Return how many failed checks in a row replace it. Goal state of older versions does not say."""
    return life.spec.settings.health_check_failure_threshold or DeploymentSettings().health_check_failure_threshold


def _health(life: Life) -> tuple[Reason, str]:
    """Return what is to be told of a process that runs: nothing, or what its last health check found."""
    if life.unwell is None and life.state is ReplicaState.STARTING:
        return Reason.STARTING, ""
    if life.unwell is None:
        return (Reason.READY, "") if life.failure is None else _refused(life.failure)
    if life.state is ReplicaState.READY:
        text = f"failed {life.health_failures} of {_threshold(life)} health checks in a row: {life.unwell.message}"
        return Reason.HEALTH_CHECK_FAILED, text
    return Reason.HEALTH_CHECK_FAILED, f"not healthy yet: {life.unwell.message}"


def _refused(failure: Failure) -> tuple[Reason, str]:
    return Reason.SETTINGS_REFUSED, f"it did not take its new settings: {failure.message}"


def _late(life: Life) -> Failure:
    """Return why it was not ready in time."""
    spec = life.spec
    late = late_start(spec.config, spec.deployment, spec.settings.startup_timeout_s)
    if life.unwell is None:
        return late
    hint = f"mend what {spec.deployment}.check_health finds, or allow more with startup_timeout_s"
    return replace(late, message=f"{late.message}: {life.unwell.message}", hint=hint, details=life.unwell.details)


def late_environment(timeout_s: float, message: str) -> Failure:
    """Return the failure of an environment that was not ready in time; `message` is what went on at the end."""
    text = f"its environment was not ready within {timeout_s:g} s" + (f": {message}" if message else "")
    return Failure(text, "runtime_env", "allow more with --environment-timeout of the worker")
