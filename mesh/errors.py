"""The errors of mesh.

MeshError
├── InvalidConfig      the user's config, option or argument is wrong; `problems` names each field
├── NotFound           the named thing does not exist
├── Conflict           somebody else changed it meanwhile, or it is taken
│   └── RolloutUnderWay    another change of it has not come true yet
├── Unreachable        the other side did not answer
├── Unauthenticated    the other side wants to know who calls, and was not told, or wrongly
├── DeadlineExceeded   it took longer than it may
│   └── RequestTimeout     the same, of a call by handle
├── DeployFailed       user code could not be built or started
│   └── EnvironmentFailed  what it needs around it could not be fetched or built
├── UserCodeError      user code raised; carries the text of its traceback
├── Overloaded         a limit is reached: the request was refused and never ran
│   └── BackPressureError  the same, of a call by handle
├── Unavailable        no replica could ever serve it
│   └── ChildUnavailable   the same, of a call by handle: what made it ran
├── ReplicaLost        the replica went away while it ran the request
├── HandlerFailed      the handler raised while it ran the request
│   ├── RemoteError        the same, of a call by handle
│   └── CallRefused        a gRPC method that was called by handle ended with another status than OK
├── HandleMisused      a handle was used as it cannot be
├── EncodingFailed     a value cannot travel between deployments
└── DecodingFailed     what came between deployments is no value here

Owns the tree and nothing else. Foreign exceptions are mapped to it at the edge where they arise; each tier
has one place that turns it into a status (gateway/answer.py, controlplane/rpc_errors.py, cli/fail.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class MeshError(Exception):
    """Base of all errors that mesh raises on purpose. `hint` says how to mend it, if that is known."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a config.

    `field` is a path such as "applications[0].deployments[1].num_replicas"; empty for the whole.
    """

    field: str
    message: str
    hint: str = ""
    refused: bool = False
    """Well written, and not done: what it asks for is not safe."""


class InvalidConfig(MeshError):
    """The user's config, option or argument is wrong. Nothing was changed."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        assert problems
        first = problems[0]
        super().__init__(f"{first.field}: {first.message}" if first.field else first.message, hint=first.hint)
        self.problems = problems


class NotFound(MeshError):
    """The named thing does not exist."""


class Conflict(MeshError):
    """Somebody else changed it meanwhile, or it is taken."""


class RolloutUnderWay(Conflict):
    """Applications are on their way to `revisions`, each by name. Nothing was changed."""

    def __init__(self, revisions: Mapping[str, int]) -> None:
        parts = [f"application {name!r} is on its way to revision {at}" for name, at in sorted(revisions.items())]
        super().__init__("\n".join(parts), hint="wait until it is there, or replace that rollout with --supersede")
        self.revisions = dict(revisions)


class Unreachable(MeshError):
    """The other side did not answer."""


class Unauthenticated(MeshError):
    """The other side wants to know who calls, and was not told, or wrongly."""


class DeadlineExceeded(MeshError):
    """It took longer than it may."""


class RequestTimeout(DeadlineExceeded, TimeoutError):
    """A call by handle took longer than it, or the request that made it, may."""


class DeployFailed(MeshError):
    """User code could not be built or started."""


class EnvironmentFailed(DeployFailed):
    """What user code needs around it could not be fetched or built.

    `field` is what asks for it in the application's config, `details` is the end of a log, if there is one.
    """

    def __init__(self, message: str, *, hint: str = "", field: str = "", details: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field
        self.details = details


class UserCodeError(MeshError):
    """User code raised, or is not what the config says.

    `message` is one line, `traceback` is for logs and the deployer, `field` is what names the code in its
    application's config.
    """

    def __init__(self, message: str, *, traceback: str = "", field: str = "import_path", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.traceback = traceback
        self.field = field


class Overloaded(MeshError):
    """A limit is reached: the request was refused and never ran. Try again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BackPressureError(Overloaded):
    """A deployment that was called by handle refused the call, for a limit was reached; it never ran.

    Not handled, it tells the client of the whole the same: 503 or RESOURCE_EXHAUSTED, with this deployment's name.
    """

    def __init__(
        self, message: str, *, retry_after_s: float = 1.0, application: str = "", deployment: str = ""
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.application = application
        self.deployment = deployment


class Unavailable(MeshError):
    """No replica could ever serve it, or the process is going down: it never ran."""


class ChildUnavailable(Unavailable):
    """The same, of a call that a handler made: the handler ran."""


class ReplicaLost(MeshError):
    """The replica went away while it ran the request."""


class HandlerFailed(MeshError):
    """The handler raised while it ran the request. The message is for logs, never for the client.

    `raised` is the class of what it raised, as "module.Name", where that is known.
    """

    def __init__(self, message: str, *, raised: str = "") -> None:
        super().__init__(message)
        self.raised = raised


class RemoteError(HandlerFailed):
    """Code of a deployment that was called by handle raised.

    `raised` is the class of what it raised, as "module.Name"; the deployment's own log has the traceback.
    """

    def __init__(self, message: str, *, raised: str = "", application: str = "", deployment: str = "") -> None:
        super().__init__(message, raised=raised)
        self.application = application
        self.deployment = deployment


class CallRefused(HandlerFailed):
    """A gRPC method that was called by handle ended with a status other than OK.

    `code` is the number of the status, `details` what the method said.
    """

    def __init__(self, message: str, *, code: int, details: str, application: str = "", deployment: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details
        self.application = application
        self.deployment = deployment


class HandleMisused(MeshError, RuntimeError):
    """A handle, or the response of a call, was used as it cannot be there."""


class EncodingFailed(MeshError, TypeError):
    """A value cannot travel between deployments. The message tells where it stands."""


class DecodingFailed(MeshError, ValueError):
    """What came between deployments is no value here: a class of it is not loaded, or it is broken."""
