"""One replica of a worker, across all its processes: the states it goes through and what is known of it.

Owns which state may follow which, and how a replica is told of in a report. Pure. Called by `session`, which decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mesh.model import DeploymentSettings, Failure, ReplicaSpec, ReplicaState, ReplicaStatus
from mesh.reasons import Reason

_MESSAGE_CHARS_MAX = 4000

_BEGUN = frozenset({ReplicaState.PREPARING, ReplicaState.STARTING})
NEXT: Mapping[ReplicaState, frozenset[ReplicaState]] = {
    ReplicaState.PENDING: _BEGUN,
    ReplicaState.PREPARING: frozenset({ReplicaState.STARTING, ReplicaState.BACKOFF, ReplicaState.STOPPED}),
    ReplicaState.STARTING: frozenset({ReplicaState.READY, ReplicaState.BACKOFF, ReplicaState.DRAINING}),
    ReplicaState.READY: _BEGUN | {ReplicaState.BACKOFF, ReplicaState.DRAINING},
    ReplicaState.BACKOFF: _BEGUN | {ReplicaState.STOPPED},
    ReplicaState.DRAINING: _BEGUN | {ReplicaState.BACKOFF, ReplicaState.STOPPED},
    ReplicaState.STOPPED: _BEGUN,
}
"""Which state may follow which."""


@dataclass(slots=True)
class Life:
    """One replica. Times are monotonic seconds."""

    spec: ReplicaSpec
    wanted: bool = True
    state: ReplicaState = ReplicaState.PENDING
    reason: Reason = Reason.UNSPECIFIED
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
    cause: Failure | None = None
    """Why the process is about to end, if that is known before it does."""
    failure: Failure | None = None
    """Why the last start failed; while it is ready, why it refused its settings."""
    last_failure: Failure | None = None
    last_failure_at: float = 0.0
    unwell: Failure | None = None
    """What its last health check found."""
    health_failures: int = 0
    """In a row."""
    failed_starts: int = 0
    crashes: int = 0
    pauses: int = 0
    restarted_at_once: bool = False
    drained_at: float | None = None
    """When it last exited in good order without an order."""
    ongoing_requests: int = 0

    def enter(self, state: ReplicaState, now: float, deadline: float | None, reason: Reason, message: str = "") -> None:
        """Go on to another state."""
        assert state in NEXT[self.state], f"{self.state.name} -> {state.name}"
        self.state, self.since, self.deadline = state, now, deadline
        self.say(reason, message)

    def say(self, reason: Reason, message: str = "") -> None:
        """Set what is told of its state."""
        self.reason, self.message = reason, message[:_MESSAGE_CHARS_MAX]

    def vacate(self) -> None:
        """Its process is gone, or not there yet."""
        self.pid, self.address, self.admin_address, self.in_force = 0, "", "", None
        self.ongoing_requests, self.health_failures, self.unwell = 0, 0, None

    def status(self, epoch: float) -> ReplicaStatus:
        """Return what is told of it. `epoch` is the Unix time at which `now` was 0."""
        paused = self.state is ReplicaState.BACKOFF and self.deadline is not None
        return ReplicaStatus(
            replica_id=self.spec.replica_id,
            state=self.state,
            address=self.address,
            pid=self.pid,
            failed_starts=self.failed_starts,
            crashes=self.crashes,
            message=self.message,
            since=epoch + self.since,
            ongoing_requests=self.ongoing_requests,
            admin_address=self.admin_address,
            failure=self.failure,
            settings_revision=self.settings_revision,
            reason=self.reason,
            next_start_at=epoch + self.deadline if paused and self.deadline is not None else 0.0,
            last_failure=self.last_failure,
            last_failure_at=epoch + self.last_failure_at if self.last_failure is not None else 0.0,
        )


def same(one: DeploymentSettings, other: DeploymentSettings) -> bool:
    """Whether a replica can tell them apart; how many replicas there are is nothing to it."""
    return replace(one, num_replicas=other.num_replicas) == other
