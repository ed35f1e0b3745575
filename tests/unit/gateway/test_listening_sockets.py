from __future__ import annotations

import os
import socket

from mesh.gateway.listening_sockets import DESCRIPTORS, shut


def test_only_the_listener_of_the_port_is_shut_and_no_descriptor_is_left() -> None:
    reader, writer = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as ours, socket.create_server(("127.0.0.1", 0)) as other:
        before = len(os.listdir(DESCRIPTORS))
        assert shut(ours.getsockname()[1]) == 1
        assert len(os.listdir(DESCRIPTORS)) == before
        socket.create_connection(other.getsockname(), timeout=5).close()
    os.close(reader)
    os.close(writer)
