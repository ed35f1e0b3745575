"""The errors that callers get.

MeshClientError
├── Overloaded         a limit is reached; `retry_after_s` says when to come back
├── Unavailable        nobody could take it, or the connection broke
│   └── ReplicaLost        the replica went away while it ran the request
├── DeadlineExceeded   it took longer than it may
├── Cancelled          somebody called it off
├── Unauthenticated    the other side wants to know who calls, and was not told, or wrongly
├── PermissionDenied   it knows, and this one may not
├── InvalidRequest     the request is wrong; `problems` names each field, where known
├── NotFound           no such route, service, method or thing
├── Conflict           the state of things does not allow it: it exists already, or somebody else changed it
│   └── RolloutUnderWay    another change of the application has not come true yet
├── ResourceExhausted  a limit of the application itself, not of mesh
├── HandlerFailed      the handler raised
└── DeployFailed       what was deployed did not come to serve

Owns the tree. What an answer means is decided in `answers`; foreign exceptions stay as `__cause__`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request. `field` is its place; empty for the whole."""

    field: str
    message: str
    hint: str = ""


class MeshClientError(Exception):
    """Base of all errors of this package."""

    def __init__(
        self, message: str, *, reason: str = "", code: str = "", status: int = 0, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        """For programs, such as "OVERLOADED" or "REPLICA_LOST"; empty if nobody said."""
        self.code = code
        """Name of the gRPC status code; empty if there is none."""
        self.status = status
        """HTTP status; 0 if there is none."""
        self.retry_after_s = retry_after_s
        """Seconds after which the other side asks to be called again."""
        self.request_id = ""
        """By which the other side's log tells of it."""
        self.attempts = 1
        """How often the request was sent, this time included."""
        self.response: Any = None
        """The answer of requests or httpx, over HTTP, where there was one."""
        self.never_ran = False
        """The request was refused before anything ran, so that sending it again does no harm."""
        self.transient = False
        """The same request may well succeed a little later."""
        self.final = False
        """The other side asks not to send it again."""

    def __str__(self) -> str:
        more = [f"reason {self.reason}"] if self.reason else []
        more += [f"request id {self.request_id}"] if self.request_id else []
        more += [f"{self.attempts} attempts"] if self.attempts > 1 else []
        return f"{self.message} ({', '.join(more)})" if more else self.message


class Overloaded(MeshClientError):
    """A limit is reached."""


class Unavailable(MeshClientError):
    """Nobody could take the request, or the connection broke."""


class ReplicaLost(Unavailable):
    """The replica went away while it ran the request."""


class DeadlineExceeded(MeshClientError):
    """It took longer than it may."""


class Cancelled(MeshClientError):
    """Somebody called it off."""


class Unauthenticated(MeshClientError):
    """The other side wants to know who calls, and was not told, or wrongly."""


class PermissionDenied(MeshClientError):
    """The other side knows who calls, and does not allow it."""


class InvalidRequest(MeshClientError):
    """The request is wrong."""

    problems: tuple[Problem, ...] = ()


class NotFound(MeshClientError):
    """There is no such route, service, method or thing."""


class Conflict(MeshClientError):
    """The state of things does not allow it."""


class RolloutUnderWay(Conflict):
    """Applications are on their way to `revisions`, each by name. Nothing was changed."""

    revisions: Mapping[str, int] = {}


class ResourceExhausted(MeshClientError):
    """A limit of the application itself."""


class HandlerFailed(MeshClientError):
    """The handler raised."""


class DeployFailed(MeshClientError):
    """What was deployed did not come to serve; `failures` tells why, by application."""

    failures: Mapping[str, str] = {}
