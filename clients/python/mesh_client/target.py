"""What the requests to one target share: the policy, the budget of repeats, how long answers took.

Owns that state and its lock: channels and sessions are used from many threads. Called by `repeating` and the shells.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from mesh_client.budget import RetryBudget
from mesh_client.call_options import current
from mesh_client.clock import SYSTEM, Clock
from mesh_client.course import Course
from mesh_client.latency import Latencies
from mesh_client.policy import Policy


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a target has seen. `attempts` counts repeats and hedges too; `tokens`: so many more there may be now."""

    requests: int
    attempts: int
    tokens: float


class Target:
    """One channel's, or one session's towards one set of addresses. Channels may share it."""

    def __init__(self, policy: Policy | None = None, clock: Clock = SYSTEM) -> None:
        self.policy = policy or Policy()
        self.clock = clock
        self._lock = threading.Lock()
        self._budget = RetryBudget(self.policy.budget, clock.monotonic())
        self._latencies = Latencies()
        self._requests = 0
        self._repeats = 0

    def statistics(self) -> Statistics:
        """Return what happened so far."""
        with self._lock:
            return Statistics(self._requests, self._requests + self._repeats, self._budget.tokens)

    def course(self, *, timeout_s: float | None, idempotent: bool, stream: bool = False) -> Course:
        """Begin a request; `idempotent` as far as its method says."""
        now, options = self.clock.monotonic(), current()
        with self._lock:
            self._requests += 1
            self._budget.deposit(now)
        may = idempotent if options.idempotent is None else options.idempotent
        return Course(self.policy, now=now, timeout_s=timeout_s, idempotent=may, stream=stream)

    def timeout_s(self, given: float | None, *, unary: bool = True) -> float | None:
        """Return the seconds of a call: what it was given itself, else its block of code, else the policy."""
        if given is not None:
            return given
        if (options := current()).timeout_s is not None:
            return options.timeout_s
        return self.policy.timeout_s if unary else None

    def request_id(self) -> str:
        """Return the id under which a request is sent, the same for each attempt."""
        return current().request_id or self.clock.token()

    def withdraw(self) -> bool:
        """Take a token of the budget, for a repeat or a hedge."""
        with self._lock:
            taken = self._budget.withdraw(self.clock.monotonic())
            self._repeats += taken
            return taken

    def answered(self, seconds: float) -> None:
        """Note how long an answer took."""
        if self.policy.hedge is not None:
            with self._lock:
                self._latencies.add(seconds)

    def hedge_after_s(self, course: Course) -> float | None:
        """Return the seconds after which a second attempt may go beside the first; None: never."""
        if self.policy.hedge is None or not course.hedgeable:
            return None
        with self._lock:
            return self._latencies.hedge_after_s(self.policy.hedge)
