"""How an etcd is named: its endpoints, its TLS files, its user.

Owns the options and the arithmetic of addresses; no I/O. Called by `etcd_connection` and whoever opens a store.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.errors import InvalidConfig, Problem
from mesh.liveness import ETCD_PING_INTERVAL_S, pings

PORT_DEFAULT = 2379
MESSAGE_BYTES_MAX = 160 * 1024 * 1024
"""Bytes in one answer: above a full page of a listing and any commit's events, far below harm."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """One etcd cluster and the part of it that is used.

    `endpoints` are HOST:PORT; `prefix` stands before every key. TLS is used when `ca_cert` is set; `cert_cert`
    and `cert_key` are this client's own certificate. All are paths of PEM files. `server_name` is the name
    that the certificates of all members must hold (the first endpoint's host if empty). `password_file` is
    read again whenever etcd asks for a new login. `timeout_s` is the time for one call.
    """

    endpoints: tuple[str, ...]
    prefix: str
    ca_cert: str = ""
    cert_cert: str = ""
    cert_key: str = ""
    user: str = ""
    password_file: str = ""
    timeout_s: float = 2.0
    server_name: str = ""

    def addresses(self) -> tuple[Address, ...]:
        """Return host and port of each endpoint. Raises InvalidConfig if any option is wrong."""
        if not self.endpoints:
            raise _invalid("endpoints", "there is none", "name at least one, such as 127.0.0.1:2379")
        if bool(self.cert_cert) != bool(self.cert_key):
            raise _invalid("cert_key", "a client certificate and its key go together", "give both or neither")
        if self.cert_cert and not self.ca_cert:
            raise _invalid("ca_cert", "TLS needs the certificate of the authority", "name the file that etcd trusts")
        if bool(self.user) != bool(self.password_file):
            raise _invalid("password_file", "a user and a password file go together", "give both or neither")
        if not self.timeout_s > 0:
            raise _invalid("timeout_s", "must be more than 0", "")
        return tuple(parse_endpoint(endpoint) for endpoint in self.endpoints)

    @property
    def root(self) -> str:
        """What stands before every key in etcd."""
        return self.prefix.rstrip("/") + "/" if self.prefix.strip("/") else ""

    @property
    def authority(self) -> str:
        """The name that members' certificates must hold."""
        return self.server_name or parse_endpoint(self.endpoints[0])[0]

    @property
    def names(self) -> str:
        """The endpoints, for people."""
        return ", ".join(self.endpoints)


def parse_endpoint(text: str) -> Address:
    """Return host and port of "host", "host:port", "[ipv6]" or "[ipv6]:port". Raises InvalidConfig."""
    host, bracket, rest = text[1:].partition("]") if text.startswith("[") else ("", "", "")
    if bracket:
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = text.partition(":")
    if not host or "/" in host or (colon and not port.isdecimal()) or colon not in ("", ":"):
        raise _invalid("endpoints", f"{text!r} is not an address", "write HOST:PORT, such as 127.0.0.1:2379")
    number = int(port) if colon else PORT_DEFAULT
    if not 0 < number < 65536:
        raise _invalid("endpoints", f"{text!r} has no valid port", "ports go from 1 to 65535")
    return host, number


def is_literal(host: str) -> bool:
    """Whether the host is an IP address and needs no look-up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def channel_target(addresses: Sequence[Address]) -> str:
    """Return the gRPC target of all these IP addresses together.

    gRPC takes a list of one family only: among IPv6 addresses, IPv4 ones are written in their mapped form.
    """
    if all(":" not in host for host, _ in addresses):
        return "ipv4:" + ",".join(f"{host}:{port}" for host, port in addresses)
    hosts = ((host if ":" in host else f"::ffff:{host}", port) for host, port in addresses)
    return "ipv6:" + ",".join(f"[{host}]:{port}" for host, port in hosts)


def channel_arguments(authority: str, *, tls: bool) -> tuple[tuple[str, str | int], ...]:
    """Return the gRPC channel arguments: spread calls over all members that answer, notice dead connections."""
    name = f"[{authority}]" if ":" in authority else authority
    arguments: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
        ("grpc.default_authority", name),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.enable_retries", 0),
        # etcd takes a ping every 5 s while a call is open and none otherwise.
        *pings(ETCD_PING_INTERVAL_S, idle=False),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    if tls:
        arguments.append(("grpc.ssl_target_name_override", authority))
    return tuple(arguments)


def _invalid(field: str, message: str, hint: str) -> InvalidConfig:
    return InvalidConfig((Problem(f"etcd.{field}", message, hint),))
