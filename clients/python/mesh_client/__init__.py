"""mesh_client: calls applications that mesh serves, and its control plane.

The public names. What needs an extra (`requests`, `httpx`) is loaded when it is first used.
"""

from importlib import import_module

from mesh_client.call_options import CallOptions, calling
from mesh_client.connecting import Connection, plain_aio_channel, plain_channel
from mesh_client.credentials import Credentials
from mesh_client.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    DeployFailed,
    HandlerFailed,
    InvalidRequest,
    MeshClientError,
    NotFound,
    Overloaded,
    PermissionDenied,
    Problem,
    ReplicaLost,
    ResourceExhausted,
    RolloutUnderWay,
    Unauthenticated,
    Unavailable,
)
from mesh_client.grpc_aio_channel import AioChannel, aio_channel
from mesh_client.grpc_channel import Channel, channel
from mesh_client.policy import Backoff, Budget, Hedge, Policy
from mesh_client.target import Statistics, Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesh_client.admin import Admin
    from mesh_client.aio_admin import AsyncAdmin
    from mesh_client.over_httpx import httpx_async_client, httpx_client
    from mesh_client.over_requests import requests_session

__version__ = "0.1.0"

_LATER = {
    "Admin": "admin",
    "AsyncAdmin": "aio_admin",
    "httpx_async_client": "over_httpx",
    "httpx_client": "over_httpx",
    "requests_session": "over_requests",
}

__all__ = [
    "Admin",
    "AioChannel",
    "AsyncAdmin",
    "Backoff",
    "Budget",
    "CallOptions",
    "Cancelled",
    "Channel",
    "Conflict",
    "Connection",
    "Credentials",
    "DeadlineExceeded",
    "DeployFailed",
    "HandlerFailed",
    "Hedge",
    "InvalidRequest",
    "MeshClientError",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Policy",
    "Problem",
    "ReplicaLost",
    "ResourceExhausted",
    "RolloutUnderWay",
    "Statistics",
    "Target",
    "Unauthenticated",
    "Unavailable",
    "__version__",
    "aio_channel",
    "calling",
    "channel",
    "httpx_async_client",
    "httpx_client",
    "plain_aio_channel",
    "plain_channel",
    "requests_session",
]


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mesh_client.{_LATER[name]}"), name)
