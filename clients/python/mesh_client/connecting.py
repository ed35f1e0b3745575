"""The connections of gRPC channels: options, service config, TLS; and which methods may run twice.

Owns how channels are made, with the calls of gRPC itself. Called by `grpc_channel` and `grpc_aio_channel`, and by
users whose calls gRPC shall repeat (`plain_channel`, `plain_aio_channel`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from mesh_client import service_config
from mesh_client.addresses import grpc_target
from mesh_client.credentials import OPEN, Credentials
from mesh_client.policy import Policy

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""What gateways take and send unless they are told otherwise."""
KEEPALIVE_S = 20.0
"""Silence after which a connection with calls on it is pinged."""
KEEPALIVE_TIMEOUT_S = 5.0
"""Seconds for the answer; without it the connection is closed and its calls end."""
_RECONNECT_MS = (("initial", 200), ("min", 2_000), ("max", 3_000))
"""Pauses of gRPC between attempts to connect. Its own go up to two minutes, long after a gateway is back."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to connect. `options` go to gRPC as they are, after this package's own."""

    credentials: Credentials = OPEN
    message_bytes_max: int = MESSAGE_BYTES_MAX
    keepalive_s: float = KEEPALIVE_S
    options: Sequence[tuple[str, Any]] = ()

    def channel_options(self, config: str) -> list[tuple[str, Any]]:
        """Return all options of a channel with this service config."""
        name = self.credentials.server_name
        return [
            ("grpc.service_config", config),
            ("grpc.max_receive_message_length", self.message_bytes_max),
            ("grpc.max_send_message_length", self.message_bytes_max),
            ("grpc.keepalive_time_ms", int(self.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
            ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
            *((f"grpc.{which}_reconnect_backoff_ms", ms) for which, ms in _RECONNECT_MS),
            *((("grpc.ssl_target_name_override", name),) if name else ()),
            *self.options,
        ]


PLAIN = Connection()


def plain_channel(
    addresses: str | Sequence[str], *, policy: Policy | None = None, connection: Connection = PLAIN
) -> grpc.Channel:
    """Return a channel of gRPC itself, whose calls gRPC repeats by a service config: also streams from the client.

    gRPC knows neither budget nor typed errors; what it knows of repeats is in `service_config.repeating`. Whoever opens
    a channel closes it.
    """
    return open_channel(addresses, connection, service_config.repeating(policy or Policy()))


def plain_aio_channel(
    addresses: str | Sequence[str], *, policy: Policy | None = None, connection: Connection = PLAIN
) -> grpc.aio.Channel:
    """Return the same for event loops."""
    return open_aio_channel(addresses, connection, service_config.repeating(policy or Policy()))


def open_channel(addresses: str | Sequence[str], connection: Connection, config: str) -> grpc.Channel:
    """Return a channel of gRPC itself with a service config."""
    target, options = grpc_target(addresses), connection.channel_options(config)
    if (tls := connection.credentials.of_channel()) is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, tls, options=options)


def open_aio_channel(addresses: str | Sequence[str], connection: Connection, config: str) -> grpc.aio.Channel:
    """Return a channel of gRPC itself, for event loops, with a service config."""
    target, options = grpc_target(addresses), connection.channel_options(config)
    if (tls := connection.credentials.of_channel()) is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, tls, options=options)


def runs_twice(path: str, policy: Policy) -> bool:
    """Whether the method "/package.Service/Method" may run twice: the policy says so, or its `idempotency_level`."""
    service, _, method = path.strip("/").partition("/")
    if policy.idempotent & {f"{service}/{method}", f"/{service}/{method}", service}:
        return True
    try:
        # Importing the generated module that a stub needs has put it there.
        found: Any = descriptor_pool.Default().FindServiceByName(service)
        level = found.methods_by_name[method].GetOptions().idempotency_level
    except KeyError:
        return False
    return level in (MethodOptions.IDEMPOTENT, MethodOptions.NO_SIDE_EFFECTS)
