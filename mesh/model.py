"""The words of the project as values: what is deployed, where it runs and how it is doing.

Owns the frozen dataclasses and enums that the pure modules decide on. Field names are those of
`protos/mesh/v1/deployment.proto`; `wire.py` maps one to the other. Never does I/O. Imported by everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from mesh.reasons import EventReason, Reason, Severity


class ReplicaState(IntEnum):
    """Where one replica is in its life, as its worker reported it."""

    UNSPECIFIED = 0
    PENDING = 1
    STARTING = 2
    READY = 3
    BACKOFF = 4
    DRAINING = 5
    STOPPED = 6
    PREPARING = 7


class DeploymentState(IntEnum):
    """State of one deployment, derived from its replicas."""

    UNSPECIFIED = 0
    UPDATING = 1
    HEALTHY = 2
    UNHEALTHY = 3
    DEPLOY_FAILED = 4


class ApplicationState(IntEnum):
    """State of one application, derived from its deployments."""

    UNSPECIFIED = 0
    DEPLOYING = 1
    RUNNING = 2
    UNHEALTHY = 3
    DEPLOY_FAILED = 4
    DELETING = 5


class WorkerState(IntEnum):
    """Whether a worker's session stands, and whether it is to be emptied."""

    UNSPECIFIED = 0
    READY = 1
    DISCONNECTED = 2
    DRAINING = 3
    DRAINED = 4


class Change(IntEnum):
    """What applying a config did to one application."""

    UNSPECIFIED = 0
    CREATED = 1
    UPDATED = 2
    UNCHANGED = 3
    DELETED = 4


@dataclass(frozen=True, slots=True)
class RuntimeEnv:
    """What surrounds a replica's code. The forms of a place are those of the message."""

    working_dir: str = ""
    py_modules: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    env_vars: Mapping[str, str] = field(default_factory=dict)
    env_vars_from_env: Mapping[str, str] = field(default_factory=dict)
    """By name of a variable: the worker's own one that has its value; then, the file there that has it."""
    env_vars_from_file: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JsonOptions:
    """How the REST routes of a deployment write JSON; None means not set, which is false in the end."""

    emit_defaults: bool | None = None
    """Write fields without presence also when they are zero or empty."""
    proto_names: bool | None = None
    """Write the names of the .proto file and not their lowerCamelCase."""
    enums_as_numbers: bool | None = None


@dataclass(frozen=True, slots=True)
class Cors:
    """Which pages of other origins may call applications from a browser."""

    allow_origins: tuple[str, ...] = ()
    """"*", or scheme://host[:port] as browsers write it; none: it is switched off."""
    allow_headers: tuple[str, ...] = ()
    max_age_s: int | None = None
    allow_credentials: bool | None = None


@dataclass(frozen=True, slots=True)
class DeploymentConfig:
    """Options of one deployment as set by somebody; None means not set."""

    name: str = ""
    num_replicas: int | None = None
    max_ongoing_requests: int | None = None
    max_queued_requests: int | None = None
    user_config_json: str | None = None
    request_timeout_s: float | None = None
    graceful_shutdown_timeout_s: float | None = None
    health_check_period_s: float | None = None
    health_check_timeout_s: float | None = None
    startup_timeout_s: float | None = None
    json: JsonOptions | None = None
    health_check_failure_threshold: int | None = None
    rolling_update_percentage: float | None = None


@dataclass(frozen=True, slots=True)
class DeploymentSettings:
    """Options of one deployment, every one resolved. What changes on live replicas without a restart."""

    num_replicas: int = 1
    max_ongoing_requests: int = 100
    max_queued_requests: int = 100
    """-1 unlimited, 0 never queue."""
    user_config_json: str = ""
    request_timeout_s: float = 0.0
    """0: the gateway's own default holds."""
    graceful_shutdown_timeout_s: float = 20.0
    health_check_period_s: float = 10.0
    health_check_timeout_s: float = 30.0
    startup_timeout_s: float = 60.0
    json: JsonOptions = JsonOptions()
    health_check_failure_threshold: int = 3
    """Failed checks in a row after which a replica is replaced."""
    rolling_update_percentage: float = 0.2
    """Share of num_replicas that a rollout starts beside the old ones at a time; at least one."""


@dataclass(frozen=True, slots=True)
class ApplicationConfig:
    """Goal of one application as it was written."""

    name: str = "default"
    route_prefix: str = "/"
    import_path: str = ""
    runtime_env: RuntimeEnv = RuntimeEnv()
    args_json: str = ""
    deployments: tuple[DeploymentConfig, ...] = ()
    code_version: str = ""


@dataclass(frozen=True, slots=True)
class Interface:
    """What a deployment answers to, as a build found it in its code."""

    grpc_only: bool = False
    """It has no HTTP handler."""
    services: tuple[str, ...] = ()
    """Full names of its gRPC services."""
    descriptor_set: bytes = b""
    """Their FileDescriptorSet, compressed with zlib; empty without services."""


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """A deployment of a built plan."""

    name: str = ""
    ingress: bool = False
    version: str = ""
    """Digest of all that needs new replicas when it changes."""
    settings: DeploymentSettings = DeploymentSettings()
    interface: Interface = Interface()
    depth: int = 0
    """How many calls by handles away from the ingress it is, at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The built form of one revision."""

    revision: int = 0
    config: ApplicationConfig = ApplicationConfig()
    deployments: tuple[DeploymentSpec, ...] = ()
    restarts: Mapping[str, int] = field(default_factory=dict)
    """Application.restarts as they were when it was built."""
    resolved_env: RuntimeEnv | None = None
    """config.runtime_env as the build pinned it; None: there was nothing to pin."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a build, a start or a revision failed, for the people who deploy."""

    message: str = ""
    """One line; where user code raised it ends with file and line."""
    field: str = ""
    """Path of the field of the application's config that is to blame, such as "import_path"; empty: none."""
    hint: str = ""
    details: str = ""
    """The traceback, or what the process printed last."""
    reason: Reason = Reason.UNSPECIFIED
    """The same in one word."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """An application that must be ready, at this revision or a later one, before something else happens."""

    application: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Application:
    """Stored goal state of one application."""

    config: ApplicationConfig = ApplicationConfig()
    revision: int = 0
    plan: Plan | None = None
    """Built from `config` once its revision is `revision`; until then the one before, or None."""
    serving: Plan | None = None
    """The last plan that was wholly ready (or, before there was one, that had begun to serve)."""
    failure: Failure | None = None
    """Why `revision` failed; None while it has not."""
    deleting: bool = False
    applied_at: float = 0.0
    superseded: tuple[Plan, ...] = ()
    """Plans that were replaced before they were wholly ready, newest first, while replicas of theirs still serve."""
    leaving: bool = False
    """Left out by an apply: to be deleted once all of `awaits` is ready. If one of them fails it leaves no more."""
    awaits: tuple[Awaited, ...] = ()
    """What the same apply brought. While there are any, the application keeps the route that it has."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """Deployments that somebody asked to restart, and the revision at which."""
    paused: bool = False
    """Rollouts stand still: what was lost is restored, nothing else is started or stopped."""
    hold_on_failure: bool = False
    """A revision that fails is left as it is, beside what serves, and not rolled back."""
    pinned_env: RuntimeEnv | None = None
    """`config.runtime_env` as an earlier build pinned it, for a revision that goes back to what ran then."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What a worker last said of one replica."""

    replica_id: str = ""
    state: ReplicaState = ReplicaState.UNSPECIFIED
    address: str = ""
    pid: int = 0
    failed_starts: int = 0
    crashes: int = 0
    message: str = ""
    since: float = 0.0
    ongoing_requests: int = 0
    admin_address: str = ""
    failure: Failure | None = None
    """Why its last start failed; of a ready one, why it refused the settings of `settings_revision`."""
    settings_revision: int = 0
    """The revision whose settings it started with, took or refused last; 0: its worker does not say."""
    reason: Reason = Reason.UNSPECIFIED
    next_start_at: float = 0.0
    """Unix time in seconds at which it starts again; 0 unless it is in BACKOFF."""
    last_failure: Failure | None = None
    """Why a process of it ended last without having been asked to."""
    last_failure_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Replica:
    """Stored placement of one replica with what was last seen of it."""

    replica_id: str = ""
    application: str = ""
    deployment: str = ""
    version: str = ""
    revision: int = 0
    worker_id: str = ""
    stopping: bool = False
    status: ReplicaStatus = ReplicaStatus()
    depth: int = 0
    """That of its deployment, as it was placed."""


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """What a worker is told to run."""

    replica_id: str = ""
    application: str = ""
    deployment: str = ""
    version: str = ""
    revision: int = 0
    config: ApplicationConfig = ApplicationConfig()
    settings: DeploymentSettings = DeploymentSettings()
    settings_revision: int = 0
    """The revision whose settings these are."""


@dataclass(frozen=True, slots=True)
class WorkerGoal:
    """Stored for a worker that somebody asked to drain. `asked_at` is Unix time in seconds."""

    worker_id: str = ""
    draining: bool = False
    asked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Resources:
    """What a worker has to offer."""

    cpus: int = 0
    memory_bytes: int = 0
    max_replicas: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Generation:
    """Orders what one leader says: epoch first, then number."""

    epoch: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class BuiltDeployment:
    """A deployment as code declares it; only what code set is present in `config`."""

    ingress: bool = False
    config: DeploymentConfig = DeploymentConfig()
    interface: Interface = Interface()
    depth: int = 0
    """How many calls by handles away from the ingress it is, at most."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, or the same thing several times. Times are Unix seconds."""

    sequence: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    count: int = 1
    severity: Severity = Severity.NORMAL
    reason: EventReason = EventReason.UNSPECIFIED
    message: str = ""
    application: str = ""
    deployment: str = ""
    replica_id: str = ""
    worker_id: str = ""
    gateway_id: str = ""
    revision: int = 0
