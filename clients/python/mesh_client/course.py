"""The course of one request: how long each attempt may take, whether there is another, and after which pause.

Owns the rules. Never reads a clock, waits, or draws. Called by `repeating`.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh_client.errors import DeadlineExceeded, MeshClientError
from mesh_client.policy import Policy

JITTER = 0.1
"""Share of a pause that the other side asked for by which it grows at random: others were asked for the same."""


class Course:
    """One request. `now` is monotonic seconds, `timeout_s` the time for all of it, None: no limit.

    `stream`: its answer may take long although nothing is wrong, so that the policy's limit of an attempt does not
    hold.
    """

    def __init__(
        self, policy: Policy, *, now: float, timeout_s: float | None, idempotent: bool, stream: bool = False
    ) -> None:
        self.idempotent = idempotent
        self.attempts = 0
        """How often it was sent."""
        self.spent = False
        """It cannot be sent again, whatever comes: what it consists of was given away."""
        self._policy = policy
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else now + timeout_s
        self.hedgeable = idempotent and not stream
        self._attempt_timeout_s = None if stream else policy.attempt_timeout_s
        self._cut_short = False

    def begin(self, now: float) -> float | None:
        """Count an attempt; return the seconds that it may take, None: no limit. Raises DeadlineExceeded."""
        seconds = self.allowed_s(now)
        self.attempts += 1
        return seconds

    def allowed_s(self, now: float) -> float | None:
        """Return the seconds that an attempt may take that begins now, None: no limit. Raises DeadlineExceeded."""
        left_s = self.left_s(now)
        limit_s = self._attempt_timeout_s
        self._cut_short = limit_s is not None and (left_s is None or limit_s < left_s)
        return limit_s if self._cut_short else left_s

    def left_s(self, now: float) -> float | None:
        """Return the seconds that are left for all of it, None: no limit. Raises DeadlineExceeded."""
        left_s = None if self._deadline is None else self._deadline - now
        if left_s is not None and left_s <= 0:
            raise self.too_late()
        return left_s

    def repeatable(self, error: MeshClientError) -> bool:
        """Whether the request may be sent again after `error`, as far as it would do no harm and may help."""
        if self.spent or error.final:
            return False
        if error.never_ran:
            return True
        if isinstance(error, DeadlineExceeded):
            return self.idempotent and self._cut_short
        return self.idempotent and error.transient

    def pause_s(self, error: MeshClientError, now: float, random: Callable[[], float]) -> float | None:
        """Return the seconds to wait before the next attempt; None: there is none, and `error` is the outcome.

        Whoever gets a number still needs a token of the budget.
        """
        if self.attempts >= self._policy.attempts_max or not self.repeatable(error):
            return None
        if (asked := error.retry_after_s) is not None:
            if asked > self._policy.pushback_max_s:
                return None
            pause = asked * (1 + JITTER * random())
        else:
            pause = self._policy.backoff.pause_s(self.attempts - 1, random)
        # A pause that ends when the time is over would only hide why.
        if self._deadline is not None and now + pause >= self._deadline:
            return None
        return pause

    def too_late(self) -> DeadlineExceeded:
        """Return the error of a request whose time is over."""
        error = DeadlineExceeded(f"not answered within {self._timeout_s:g} s", reason="DEADLINE_EXCEEDED")
        error.code = "DEADLINE_EXCEEDED"
        error.attempts = self.attempts
        return error
