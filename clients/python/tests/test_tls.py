"""Encrypted connections, with certificates on both sides, and what each call presents."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from mesh_client import (
    Connection,
    Credentials,
    Policy,
    Unavailable,
    channel,
    httpx_async_client,
    httpx_client,
    requests_session,
)

from tests.support.certificates import Authority
from tests.support.refusing import UNARY, RefusingGrpc, RefusingHttp


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


async def test_both_sides_show_who_they_are_over_http(authority: Authority) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.issue("http-server", "IP:127.0.0.1"))
    tls.load_verify_locations(authority.cert)
    tls.verify_mode = ssl.CERT_REQUIRED
    cert, key = authority.issue("http-client", "DNS:client.test")
    shown: dict[str, Any] = {"credentials": Credentials(token="mine", ca=authority.cert, cert=cert, key=key)}
    with RefusingHttp(lambda number: "ok" if number % 2 else "lost", tls=tls) as server:
        with requests_session(server.address, **shown) as session:
            session.trust_env = False
            assert session.get("/").status_code == 200
        with httpx_client(server.address, **shown) as client:
            assert client.get("/").status_code == 200
        async with httpx_async_client(server.address, **shown) as asynchronous:
            assert (await asynchronous.get("/")).status_code == 200
        assert server.attempts == 6
        assert {each["authorization"] for each in server.seen} == {"Bearer mine"}
        policy = Policy(attempts_max=1)
        with httpx_client(server.address, policy=policy) as client, pytest.raises(Unavailable) as refused:
            client.get("/")
        assert isinstance(refused.value.__cause__, httpx.ConnectError)
        with (
            requests_session(server.address, policy=policy) as session,
            pytest.raises(Unavailable, match="certificate"),
        ):
            session.get("/")
        assert server.attempts == 6
