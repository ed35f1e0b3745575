"""From a host's name to the addresses that may be connected to.

Owns the look-up. Whoever connects uses the addresses that come from here and looks nothing up again, so that a name
cannot mean another host by then. Blocks: called in threads.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from mesh.errors import EnvironmentFailed
from mesh.worker.environments.addresses import is_public


@dataclass(frozen=True, slots=True)
class Resolver:
    """Looks names up; `allow_private` lets the answers be private addresses."""

    allow_private: bool

    def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """Return the addresses of a host, all of which may be connected to. Raises EnvironmentFailed."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "it is no name"
            raise EnvironmentFailed(f"host {host!r} cannot be found: {why}", hint="mend the URL") from error
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self.allow_private and not all(map(is_public, addresses)):
            wrong = next(address for address in addresses if not is_public(address))
            meaning = "" if wrong == host else f" ({wrong})"
            text = f"host {host!r}{meaning} is not on the public internet, and code is not fetched from elsewhere"
            raise EnvironmentFailed(text, hint="start the workers with --allow-private-urls if it is meant")
        return addresses
