"""The listening socket of the HTTP server."""

from __future__ import annotations

import socket
from contextlib import closing

from mesh.gateway.http_server import bind


def test_parts_of_an_answer_do_not_wait_for_one_another() -> None:
    with closing(bind("127.0.0.1", 0, 10)) as listener:
        listener.setblocking(True)
        with socket.create_connection(listener.getsockname()), closing(listener.accept()[0]) as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
