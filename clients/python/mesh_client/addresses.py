"""Where requests go: the target of a gRPC channel, and which of several HTTP addresses is next.

Owns the rules for both. Pure. Called by `connecting` and the HTTP shells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import urlsplit

AVOID_S = 1.0
"""Seconds for which an address that took no connection is tried last."""
_SCHEME = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds|google-c2p):")


def grpc_target(addresses: str | Sequence[str]) -> str:
    """Return the target for one address or several: "host:port", or any target that gRPC knows.

    A name is looked up again and again, and all addresses that it has are used. Several names cannot be one target.
    Raises ValueError.
    """
    given = [addresses] if isinstance(addresses, str) else list(addresses)
    given = [part.strip() for each in given for part in ([each] if _SCHEME.match(each) else each.split(","))]
    if not given or not all(given):
        raise ValueError("no address given")
    if len(given) == 1:
        return given[0] if _SCHEME.match(given[0]) else f"dns:///{given[0]}"
    found = {family: [] for family in ("ipv4", "ipv6")} if given else {}  # type: dict[str, list[str]]
    for address in given:
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdecimal():
            raise ValueError(f"{address!r} is not host:port")
        host = "127.0.0.1" if host == "localhost" else host
        found[_family(host, address)].append(f"{host}:{port}")
    if all(found.values()):
        raise ValueError("addresses of IPv4 and IPv6 cannot be one target; give one name that has them all")
    return next(f"{family}:{','.join(those)}" for family, those in found.items() if those)


def _family(host: str, address: str) -> str:
    try:
        if host.startswith("["):
            IPv6Address(host.strip("[]"))
            return "ipv6"
        IPv4Address(host)
    except AddressValueError:
        text = f"{address!r} is a name: several are no target; give one name that has all addresses, or IP addresses"
        raise ValueError(text) from None
    return "ipv4"


def http_origins(addresses: str | Sequence[str]) -> tuple[str, ...]:
    """Return http://host:port of each address, in the form that is compared. Raises ValueError."""
    given = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    origins = []
    for each in given:
        url = each.strip() if "://" in each else f"http://{each.strip()}"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise ValueError(f"{each!r} is not an address such as http://host:port")
        origins.append(f"{parts.scheme}://{parts.netloc}")
    if not origins:
        raise ValueError("no address given")
    return tuple(dict.fromkeys(origins))


class RoundRobin:
    """The addresses of one target, each in its turn; those that took no connection of late come last."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = tuple(origins)
        self._next = 0
        self._avoided: dict[str, float] = {}

    def order(self, now: float) -> list[str]:
        """Return all addresses in the order in which one attempt tries them. `now` is monotonic seconds."""
        at = self._next
        self._next = (at + 1) % len(self._origins)
        turn = [*self._origins[at:], *self._origins[:at]]
        # Stable: within each group they keep their turn.
        return sorted(turn, key=lambda origin: self._avoided.get(origin, now) > now)

    def refused(self, origin: str, now: float) -> None:
        """It took no connection."""
        self._avoided[origin] = now + AVOID_S

    def answered(self, origin: str) -> None:
        """It did."""
        self._avoided.pop(origin, None)
