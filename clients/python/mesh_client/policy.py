"""What a caller may be asked to wait for, and how often it tries.

Owns the settings and their checks. Pure. Given by users, followed by `course` and `budget`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
"""HTTP methods that may run twice (RFC 9110, 9.2.2)."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential pauses with full jitter: each is drawn evenly between 0 and a limit that grows.

    `initial_s` and `max_s` are seconds, the limit of the first pause and of all.
    """

    initial_s: float = 0.1
    max_s: float = 5.0
    multiplier: float = 2.0

    def __post_init__(self) -> None:
        _check(0 < self.initial_s <= self.max_s, "0 < initial_s <= max_s")
        _check(self.multiplier >= 1, "multiplier >= 1")

    def pause_s(self, repeat: int, random: Callable[[], float]) -> float:
        """Seconds to wait before repeat number `repeat` (from 0). `random` draws from [0, 1)."""
        # Past 64 doublings every limit is reached, and floats are not overrun.
        limit: float = min(self.max_s, self.initial_s * self.multiplier ** min(repeat, 64))
        return limit * random()


@dataclass(frozen=True, slots=True)
class Budget:
    """How many repeats and hedges a target gets, as a share of what is asked of it.

    Each request saves up `ratio` of a repeat. Beside that there is a small minimum, so that who asks little may repeat
    at all: `burst` repeats at first, and `min_per_s` a second while fewer than `burst` are saved. At most `saved_max`
    are saved up.
    """

    ratio: float = 0.1
    min_per_s: float = 1.0
    burst: float = 10.0
    saved_max: float = 100.0

    def __post_init__(self) -> None:
        _check(0 <= self.ratio <= 1, "0 <= ratio <= 1")
        _check(self.min_per_s >= 0, "min_per_s >= 0")
        _check(0 <= self.burst <= self.saved_max, "0 <= burst <= saved_max")


@dataclass(frozen=True, slots=True)
class Hedge:
    """A second attempt beside one that is slow, of idempotent requests only; the first answer counts.

    `after_s` is seconds; None: as long as the slowest 5 % of the last answers took (`quantile`), once `samples_min`
    are known. Never sooner than `min_s`.
    """

    after_s: float | None = None
    quantile: float = 0.95
    samples_min: int = 20
    min_s: float = 0.001

    def __post_init__(self) -> None:
        _check(self.after_s is None or self.after_s >= 0, "after_s >= 0")
        _check(0 < self.quantile < 1, "0 < quantile < 1")
        _check(self.samples_min >= 1, "samples_min >= 1")
        _check(self.min_s >= 0, "min_s >= 0")


@dataclass(frozen=True, slots=True)
class Policy:
    """How requests to one target are made. Times are seconds."""

    timeout_s: float | None = 30.0
    """For a request with all its attempts and pauses; None: no limit. Streams have one only if their call gives it."""
    attempt_timeout_s: float | None = None
    """For one attempt, if that is less than what is left; None: all that is left."""
    attempts_max: int = 3
    backoff: Backoff = field(default_factory=Backoff)
    pushback_max_s: float = 30.0
    """Whoever asks to be left alone for longer is not tried again."""
    budget: Budget = field(default_factory=Budget)
    hedge: Hedge | None = None
    connect_timeout_s: float = 2.0
    """For one connection, over HTTP."""
    idempotent: frozenset[str] = frozenset()
    """gRPC methods that may run twice, as "package.Service/Method", beside those whose `idempotency_level` says so."""

    def __post_init__(self) -> None:
        for name in ("timeout_s", "attempt_timeout_s"):
            seconds = getattr(self, name)
            _check(seconds is None or seconds > 0, f"{name} > 0")
        _check(self.attempts_max >= 1, "attempts_max >= 1")
        _check(self.pushback_max_s >= 0, "pushback_max_s >= 0")
        _check(self.connect_timeout_s > 0, "connect_timeout_s > 0")


def _check(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"must be {rule}")
