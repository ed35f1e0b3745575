"""The ports that a process is going to listen on, looked at before anything starts.

Owns one message for all that are taken. A port can still be taken between the look and the start; then its listener
says so. Called by the commands that serve.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from mesh.errors import Conflict, InvalidConfig, Problem


@dataclass(frozen=True, slots=True)
class Listener:
    """Where something is going to listen, and the flag that says so. Port 0 is a free one."""

    what: str
    host: str
    port: int
    flag: str


def check(listeners: Iterable[Listener]) -> None:
    """Raise Conflict if somebody else listens on any of these or two of them want the same.

    Raises InvalidConfig for an address that is not this machine's, or a port that this user may not have.
    """
    held: list[socket.socket] = []
    taken: list[Listener] = []
    try:
        for listener in listeners:
            bare = listener.host.strip("[]")
            family = socket.AF_INET6 if ":" in bare else socket.AF_INET
            try:
                held.append(socket.create_server((bare, listener.port), family=family))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    hint = "name an address of this machine and a port that this user may have"
                    raise InvalidConfig((Problem("", _refused(listener, error), hint),)) from error
                taken.append(listener)
    finally:
        for holder in held:
            holder.close()
    if taken:
        in_use = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        places = [_refused(listener, in_use) for listener in taken]
        text = places[0] if len(places) == 1 else "\n".join([f"{len(places)} ports are taken", *places])
        which = ("it", "another") if len(places) == 1 else ("them", "others")
        flags = ", ".join(listener.flag for listener in taken)
        hint = f"end the process that has {which[0]}, or choose {which[1]} with {flags} (0: a free one)"
        raise Conflict(text, hint=hint)


def _refused(listener: Listener, error: OSError) -> str:
    # Python adds the address to what the system says.
    why = (error.strerror or str(error)).partition(" (while")[0]
    return f"cannot listen for {listener.what} on {listener.host}:{listener.port}: {why}"
