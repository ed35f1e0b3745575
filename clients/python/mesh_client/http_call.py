"""What one HTTP request is sent with, and which answers are failures.

Owns what the shells for requests and httpx have in common. Called by `over_requests` and `over_httpx`.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence

from mesh_client import answers
from mesh_client.addresses import RoundRobin, http_origins
from mesh_client.credentials import OPEN, Credentials
from mesh_client.errors import DeadlineExceeded, MeshClientError
from mesh_client.policy import IDEMPOTENT, Policy
from mesh_client.target import Target

TIMEOUT = "x-request-timeout-seconds"
FAILED_FROM = 400
"""Statuses from here on are errors."""


class Requests:
    """What the requests of a session share."""

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        policy: Policy | None = None,
        credentials: Credentials = OPEN,
        raise_errors: bool = True,
        target: Target | None = None,
    ) -> None:
        """Raises ValueError."""
        self.origins = http_origins(addresses)
        self.target = target or Target(policy)
        self.credentials = credentials
        self.raise_errors = raise_errors
        self._turns = RoundRobin(self.origins)

    def order(self) -> list[str]:
        """Return the addresses in the order in which an attempt tries them."""
        return self._turns.order(self.target.clock.monotonic())

    def refused(self, origin: str) -> None:
        """An address took no connection."""
        self._turns.refused(origin, self.target.clock.monotonic())

    def answered(self, origin: str) -> None:
        """An address took one."""
        self._turns.answered(origin)

    def complete(self, headers: MutableMapping[str, str], seconds: float | None, request_id: str) -> None:
        """Add what an attempt is sent with, where its headers do not say it."""
        headers.setdefault(answers.REQUEST_ID, request_id)
        if seconds is not None:
            headers.setdefault(TIMEOUT, answers.sendable_s(seconds))
        if "authorization" not in headers and (value := self.credentials.authorization()) is not None:
            headers["authorization"] = value

    def connect_timeout_s(self, seconds: float | None) -> float:
        """Return the seconds for one connection of an attempt that may take `seconds`."""
        limit = self.target.policy.connect_timeout_s
        return limit if seconds is None else min(limit, seconds)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> MeshClientError:
        """Return the error of an answer."""
        lower = {name.lower(): value for name, value in headers.items()}
        return answers.of_http(status, lower, body, now=self.target.clock.unix())


def idempotent(method: str | None) -> bool:
    """Whether requests of a method may be sent twice."""
    return (method or "").upper() in IDEMPOTENT


def is_small(headers: Mapping[str, str]) -> bool:
    """Whether the body of an answer that failed is read at once."""
    length = headers.get("content-length", "")
    return length.isascii() and length.isdecimal() and int(length[:12]) <= answers.BODY_BYTES_MAX


def timed_out(seconds: float | None) -> DeadlineExceeded:
    """Return the error of an attempt that was not answered in time."""
    within = f" within {seconds:.3g} s" if seconds is not None else " in time"
    return DeadlineExceeded(f"not answered{within}", reason="DEADLINE_EXCEEDED")
