"""How much is kept of what a worker says of a failure or a replica: it is stored, and shown to people.

Owns the bounds, so that no worker can fill the store or end the leader's loop. Pure. Called by `builds`, `reconcile`
and `sessions`.
"""

from __future__ import annotations

from dataclasses import replace

from mesh.model import Failure, ReplicaStatus

LINE_CHARACTERS_MAX = 1000
DETAILS_CHARACTERS_MAX = 16_000
FAILURE_BYTES_MAX = 4 * (3 * LINE_CHARACTERS_MAX + DETAILS_CHARACTERS_MAX) + 64
"""Of a bounded failure, encoded."""


def bounded_failure(failure: Failure) -> Failure:
    """Return a failure without what is too much of it; of the details the end stays, where an exception stands."""
    details = failure.details
    if len(details) > DETAILS_CHARACTERS_MAX:
        details = "…" + details[1 - DETAILS_CHARACTERS_MAX :]
    message, field, hint = (bounded_line(text) for text in (failure.message, failure.field, failure.hint))
    return Failure(message, field, hint, details, failure.reason)


def bounded_status(status: ReplicaStatus) -> ReplicaStatus:
    """Return a replica's status without what is too much of it."""
    return replace(
        status,
        address=bounded_line(status.address),
        admin_address=bounded_line(status.admin_address),
        message=bounded_line(status.message),
        failure=bounded_failure(status.failure) if status.failure is not None else None,
        last_failure=bounded_failure(status.last_failure) if status.last_failure is not None else None,
    )


def bounded_line(text: str) -> str:
    """Return a text without what is too much of it for one line."""
    return text if len(text) <= LINE_CHARACTERS_MAX else text[: LINE_CHARACTERS_MAX - 1] + "…"
