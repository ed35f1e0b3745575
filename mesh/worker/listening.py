"""The address on which a worker's replicas listen, and at which gateways reach them.

Owns what such an address has to be, and how it is written before a port. Asks the system whether it is there, and keeps
nothing open. Called by the worker when it starts, and by replicas.
"""

from __future__ import annotations

import socket

from mesh.errors import InvalidConfig, Problem

_EVERY = ("", "0.0.0.0", "::")
_HINT = "name one address of this host that gateways reach, such as --host 10.0.0.20"


def bare_host(host: str) -> str:
    """Return a host as the system takes it: an address of IPv6 without brackets."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def with_port(host: str, port: int) -> str:
    """Return host:port, an address of IPv6 in brackets."""
    bare = bare_host(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def check_one_address(host: str) -> None:
    """Raise InvalidConfig if `host` stands for all addresses: gateways would be told one that leads to themselves."""
    if bare_host(host) in _EVERY:
        name = repr(host) if host else "an empty address"
        text = f"{name} stands for every address of this host: gateways cannot be told where replicas are"
        raise InvalidConfig((Problem("host", text, _HINT),))


def check_here(host: str) -> None:
    """Raise InvalidConfig unless a port can be had on `host`: each replica would fail for it. May look up a name."""
    bare = bare_host(host)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(bare, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is no name of a host"
        text = f"replicas cannot listen on {host}: {why}"
        raise InvalidConfig((Problem("host", text, _HINT),)) from error
