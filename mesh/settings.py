"""Settings of each process, read once and passed down.

Owns the names and defaults of flags and environment variables. The only module that reads the environment.
Everything binds loopback unless told otherwise.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mesh.liveness import HEARTBEAT_INTERVAL_S, return_s
from mesh.security import NO_SECURITY, Security

LOOPBACK = "127.0.0.1"
HTTP_PORT = 8000
GRPC_PORT = 9000
CONTROL_PORT = 7070
ADMIN_PORT = 9901

ADDRESS_ENV = "MESH_ADDRESS"
"""host:port[,host:port…] of the control plane, for meshctl, workers and gateways."""
TOKEN_FILE_ENV = "MESH_TOKEN_FILE"
TLS_CERT_ENV = "MESH_TLS_CERT"
TLS_KEY_ENV = "MESH_TLS_KEY"
TLS_CA_ENV = "MESH_TLS_CA"
TLS_SERVER_NAME_ENV = "MESH_TLS_SERVER_NAME"
PACKAGE_QUOTA_BYTES = 512 * 1024 * 1024
"""Of all uploaded code together. It lies in the store: etcd itself takes 2 GiB unless configured."""
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of one gRPC message, either way."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged and how."""

    level: str = "INFO"
    format: str = "auto"
    """"text", "json", or "auto": text on a terminal, else JSON."""
    access: bool = False
    """Log a line for each request."""


@dataclass(frozen=True, slots=True)
class ControlPlaneSettings:
    """One control-plane process."""

    host: str = LOOPBACK
    port: int = CONTROL_PORT
    advertise: str = ""
    """host:port at which the others reach this process; empty: host and the port that was bound."""
    store: str = "sqlite:///:memory:"
    """sqlite:///FILE, or etcd://HOST:PORT[,HOST:PORT…]/PREFIX."""
    etcd_ca_cert: str = ""
    etcd_cert: str = ""
    etcd_key: str = ""
    etcd_user: str = ""
    etcd_password_file: str = ""
    heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S
    worker_grace_s: float = 10.0
    """Seconds a worker may be away before its replicas are placed elsewhere."""
    takeover_grace_s: float = return_s(HEARTBEAT_INTERVAL_S) + 1.0
    """The same for a worker that has not come to a new leader yet: it may have to notice first that the old one is
    gone, so this is longer than that takes."""
    build_timeout_s: float = 60.0
    package_quota_bytes: int = PACKAGE_QUOTA_BYTES
    min_ready_s: float = 1.0
    """Seconds for which a replica of a new version must be ready before one that serves may go for it."""
    security: Security = NO_SECURITY


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """One worker process."""

    worker_id: str = ""
    """Empty: the host's name and a random part."""
    host: str = LOOPBACK
    """Address that replicas bind and gateways reach."""
    control: tuple[str, ...] = (f"{LOOPBACK}:{CONTROL_PORT}",)
    max_replicas: int = 100
    security: Security = NO_SECURITY
    """For the worker's own calls, and for its replicas."""
    drain_timeout_s: float | None = None
    """Seconds for its replicas to be replaced on other workers when it ends. 0: they are drained at once. None: the
    longest graceful_shutdown_timeout_s of them, and half a minute for others to start."""
    cache_dir: str = ""
    """Directory for code and environments, kept between runs and shared by the workers of a user on one host; empty:
    `cache_directory()`."""
    cache_bytes_max: int = 20 * 1024 * 1024 * 1024
    """Above that, what no replica uses is removed, the longest unused first."""
    allow_private_urls: bool = False
    """Whether code may be fetched from private, loopback and link-local addresses."""
    environment_timeout_s: float = 600.0
    """Seconds in which code has to be fetched and packages installed before a build or a replica starts."""
    log_dir: str = ""
    """Directory for what replicas print; empty: a temporary one, removed at the end."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway process."""

    gateway_id: str = ""
    host: str = LOOPBACK
    port: int = HTTP_PORT
    grpc_port: int = GRPC_PORT
    control: tuple[str, ...] = (f"{LOOPBACK}:{CONTROL_PORT}",)
    opens_with: tuple[str, ...] = ()
    """Applications that must be known before the listeners answer."""
    open_timeout_s: float = 2.0
    """Seconds after which they answer even if no control plane has said what to serve: it must be seen."""
    request_timeout_s: float = 60.0
    """Where neither the goal state nor the deployment nor the client says less."""
    message_bytes_max: int = MESSAGE_BYTES_MAX
    """Bytes of one message of a gRPC call, either way."""
    body_bytes_max: int = 1024 * 1024 * 1024
    path_bytes_max: int = 8 * 1024
    """As sent. Finding the route of the worst path of this length takes a millisecond."""
    header_bytes_max: int = 64 * 1024
    header_count_max: int = 200
    keep_alive_timeout_s: float = 75.0
    """Seconds after which an idle HTTP/1.1 connection is closed, and one whose request head has not come whole: the
    HTTP server has one timer for both. Longer than load balancers keep theirs (60 s is usual), so that none sends a
    request on a connection that is being closed."""
    drain_delay_s: float = 0.0
    """Seconds for which it goes on as it is once it is told to end and says that it is not ready: load balancers take
    their time to notice."""
    drain_timeout_s: float = 20.0
    """Seconds after that for clients to go elsewhere and for running requests to end."""
    grpc_connection_age_s: float = 0.0
    """Seconds after which a gRPC client is asked to connect anew, its running calls aside. 0: never. A gateway that
    ends waits for that, and loses no call by it; without it, calls that come in that instant end as CANCELLED."""
    body_idle_timeout_s: float = 30.0
    """Seconds without a byte after which a request whose body is waited for is given up."""
    stream_idle_timeout_s: float = 300.0
    """Seconds without progress after which a streamed answer is given up."""
    backlog: int = 2048
    shared_ports: bool = False
    """Other processes listen on the same ports; the kernel spreads connections over them."""
    security: Security = NO_SECURITY
    """For its calls to control planes and replicas; its own listeners are for everyone."""


def environment() -> Mapping[str, str]:
    """Return a copy of the process's environment, for defaults."""
    return dict(os.environ)


def child_environment() -> Mapping[str, str]:
    """Return the environment for processes that run user code: it is not told where the credentials of mesh are."""
    own = (TOKEN_FILE_ENV, TLS_CERT_ENV, TLS_KEY_ENV, TLS_CA_ENV, TLS_SERVER_NAME_ENV)
    return {name: value for name, value in os.environ.items() if name not in own}


def cache_directory() -> str:
    """Return where a worker keeps code and environments unless it is told: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return str((Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "mesh")


def prepare_grpc() -> None:
    """Set what grpc's core reads from the environment, unless the user did. Before grpc is first imported.

    Its own lines on stderr repeat what is reported as an error anyway. Its older event loop costs less per message
    than the new one: docs/decisions/0004-grpc-event-loop.md.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Each release knows its own experiments and complains of others.
    if _grpc_release().startswith(_GRPC_MEASURED):
        os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")


_GRPC_MEASURED = "1.85."


def _grpc_release() -> str:
    """Return grpc's version without importing it, for that takes longer than `meshctl --help`."""
    spec = find_spec("grpc")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        with contextlib.suppress(OSError):
            return (Path(place) / "_grpcio_metadata.py").read_text().partition("=")[2].strip(' \n"')
    return ""


def control_addresses(text: str) -> tuple[str, ...]:
    """Split "host:port,host:port" as in MESH_ADDRESS."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
