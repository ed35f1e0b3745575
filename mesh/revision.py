"""The revisions of an application that were, as values.

Owns what the history knows of each. Field names are those of `protos/mesh/v1/revision_service.proto`. Never does I/O.
Imported by the control plane and `meshctl`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from mesh.model import ApplicationConfig, RuntimeEnv


class RevisionCause(IntEnum):
    """Why a revision was made."""

    UNSPECIFIED = 0
    DEPLOY = 1
    ROLLBACK = 2
    SCALE = 3
    RESTART = 4


class RevisionOutcome(IntEnum):
    """What became of a revision."""

    UNSPECIFIED = 0
    DEPLOYING = 1
    SERVING = 2
    REPLACED = 3
    FAILED = 4
    SUPERSEDED = 5
    PAUSED = 6


@dataclass(frozen=True, slots=True)
class Revision:
    """One accepted revision of an application, as its history has it."""

    revision: int = 0
    config: ApplicationConfig = field(default_factory=ApplicationConfig)
    accepted_at: float = 0.0
    cause: RevisionCause = RevisionCause.UNSPECIFIED
    detail: str = ""
    """More of the cause, for people."""
    outcome: RevisionOutcome = RevisionOutcome.UNSPECIFIED
    message: str = ""
    """Why it failed, in one line."""
    served: bool = False
    """It was once wholly ready."""
    request_id: str = ""
    resolved_env: RuntimeEnv | None = None
    """`config.runtime_env` as its build pinned it; None: nothing was pinned."""


@dataclass(frozen=True, slots=True)
class RevisionHistory:
    """Revisions of one application, the oldest first."""

    revisions: tuple[Revision, ...] = ()
