"""Encrypted connections, with certificates on both sides, and what each call presents."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from mesh_client import Connection, Credentials, Policy, Unavailable, channel

from tests.support.certificates import Authority
from tests.support.refusing import UNARY, RefusingGrpc


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("tls") / "ca")


def server_credentials(authority: Authority) -> grpc.ServerCredentials:
    cert, key = authority.issue("server", "DNS:mesh.test")
    pair = [(key.read_bytes(), cert.read_bytes())]
    return grpc.ssl_server_credentials(pair, authority.cert.read_bytes(), require_client_auth=True)


def test_both_sides_show_who_they_are(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue("client", "DNS:client.test")
    token = tmp_path / "token"
    token.write_text("first-token\n")
    shown = Credentials(token_file=token, ca=authority.cert, cert=cert, key=key, server_name="mesh.test")
    with RefusingGrpc(lambda _: "ok", credentials=server_credentials(authority)) as server:
        with channel(server.address, connection=Connection(shown), metadata=[("application", "shop")]) as opened:
            unary = opened.unary_unary(UNARY)
            assert unary(b"x", metadata=[("mine", "yes")]) == b"x"
            token.write_text("second-token\n")  # renewed
            assert unary(b"x") == b"x"
        assert [each["authorization"] for each in server.seen] == ["Bearer first-token", "Bearer second-token"]
        assert server.seen[0]["application"] == "shop" and server.seen[0]["mine"] == "yes"
        without = Credentials(ca=authority.cert, server_name="mesh.test")
        opened = channel(server.address, connection=Connection(without), policy=Policy(attempts_max=1))
        with opened, pytest.raises(Unavailable):
            opened.unary_unary(UNARY)(b"x")
        assert server.attempts == 2
