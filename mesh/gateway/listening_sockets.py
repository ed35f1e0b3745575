"""Ends the listening of a server that cannot stop it without stopping everything: gRPC's.

Owns how its socket is found: among this process's own. Called by `grpc_front`.
"""

from __future__ import annotations

import contextlib
import os
import socket

DESCRIPTORS = "/proc/self/fd"


def shut(port: int) -> int:
    """Shut this process's sockets that listen on TCP `port`, and return how many. Outside Linux it does nothing.

    The descriptors stay with their owner: new clients are refused, and whoever is connected stays so.
    """
    try:
        found = [int(name) for name in os.listdir(DESCRIPTORS)]
    except OSError:
        return 0
    return sum(_shut(descriptor, port) for descriptor in found)


def _shut(descriptor: int, port: int) -> bool:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as found:
        internet = found.family in (socket.AF_INET, socket.AF_INET6)
        if internet and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and found.getsockname()[1] == port:
            found.shutdown(socket.SHUT_RDWR)
            return True
    return False
