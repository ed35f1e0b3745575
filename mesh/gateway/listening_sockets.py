"""Ends the listening of a server that cannot stop it without stopping everything: gRPC's.

Owns how its socket is found: among this process's own. Called by `grpc_front`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat

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
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            duplicate = os.dup(descriptor)
            try:
                return _shut_listener(duplicate, port)
            finally:
                os.close(duplicate)
    return False


def _shut_listener(descriptor: int, port: int) -> bool:
    found = socket.socket(fileno=descriptor)
    try:
        internet = found.family in (socket.AF_INET, socket.AF_INET6)
        if internet and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and found.getsockname()[1] == port:
            found.shutdown(socket.SHUT_RDWR)
            return True
        return False
    finally:
        found.detach()
