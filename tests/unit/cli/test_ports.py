from __future__ import annotations

import socket

import pytest

from mesh.cli.ports import Listener, check
from mesh.errors import Conflict, InvalidConfig


def test_all_that_are_taken_are_told_at_once_in_their_order() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        first, second = one.getsockname()[1], other.getsockname()[1]
        with pytest.raises(Conflict) as caught:
            check(
                [
                    Listener("HTTP", "127.0.0.1", first, "--port"),
                    Listener("gRPC", "127.0.0.1", 0, "--grpc-port"),
                    Listener("metrics", "127.0.0.1", second, "--admin-port"),
                ]
            )
    what, *why = caught.value.message.splitlines()
    assert what == "2 ports are taken"
    assert [line.split(" on ")[0] for line in why] == ["cannot listen for HTTP", "cannot listen for metrics"]
    assert all(line.endswith("Address already in use") for line in why)
    assert "--port, --admin-port" in caught.value.hint


def test_one_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        with pytest.raises(Conflict) as caught:
            check([Listener("gRPC", "127.0.0.1", port, "--grpc-port")])
    assert caught.value.message == f"cannot listen for gRPC on 127.0.0.1:{port}: Address already in use"
    assert "--grpc-port (0: a free one)" in caught.value.hint


def test_two_that_want_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    with pytest.raises(Conflict, match="gRPC"):
        check([Listener("HTTP", "127.0.0.1", port, "--port"), Listener("gRPC", "127.0.0.1", port, "--grpc-port")])


def test_free_ones_are_free_afterwards() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    check([Listener("HTTP", "127.0.0.1", port, "--port")])
    check([Listener("HTTP", "127.0.0.1", port, "--port")])


def test_an_address_that_is_not_of_this_machine() -> None:
    with pytest.raises(InvalidConfig) as caught:
        check([Listener("HTTP", "192.0.2.1", 0, "--port")])
    assert caught.value.message.startswith("cannot listen for HTTP on 192.0.2.1:0: ")
    assert "while" not in caught.value.message and caught.value.hint
