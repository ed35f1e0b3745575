"""Servers that ask who calls, and channels that say it: tokens, TLS, both, and what happens without."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh import connection
from mesh.controlplane.forward import Forwarder, NoLeader
from mesh.credentials import OPEN, Credentials
from mesh.errors import Unreachable
from mesh.security import NO_SECURITY, Security
from mesh.v1.deployment_service_pb2 import GetStatusRequest
from mesh.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from tests.support.certificates import Authority

WAIT_S = 20.0
TOKEN, OTHER = "the-token-of-this-mesh", "the-token-of-another"
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
CODE = grpc.StatusCode


class Served:
    """Echoes bytes, by methods of all four kinds. `ran` counts calls that reached a handler."""

    def __init__(self, credentials: Credentials) -> None:
        self.ran = 0
        self._credentials = credentials
        self.address = ""
        self.answers: Callable[[Any, Any], Awaitable[bytes]] = self._echo

    async def start(self) -> grpc.aio.Server:
        server = connection.server(self._credentials, OPTIONS)
        handlers: dict[str, Any] = {
            "unary_unary": grpc.unary_unary_rpc_method_handler(self._one),
            "unary_stream": grpc.unary_stream_rpc_method_handler(self._each),
            "stream_unary": grpc.stream_unary_rpc_method_handler(self._first),
            "stream_stream": grpc.stream_stream_rpc_method_handler(self._read),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
        well = health.aio.HealthServicer()
        await well.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(well, server)
        self.address = f"127.0.0.1:{connection.bind(server, '127.0.0.1:0', self._credentials)}"
        await server.start()
        return server

    async def _one(self, request: Any, context: Any) -> bytes:
        self.ran += 1
        return await self.answers(request, context)

    async def _echo(self, request: Any, _: Any) -> bytes:
        return bytes(request)

    async def _each(self, request: Any, _: Any) -> Any:
        self.ran += 1
        yield request

    async def _first(self, requests: Any, _: Any) -> bytes:
        self.ran += 1
        return b"".join([request async for request in requests])

    async def _read(self, _: Any, context: Any) -> None:
        # As the pipe is served: read and write on the context.
        self.ran += 1
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)


@contextlib.asynccontextmanager
async def serving(credentials: Credentials) -> AsyncIterator[Served]:
    served = Served(credentials)
    server = await served.start()
    try:
        async with asyncio.timeout(WAIT_S):
            yield served
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def reaching(served: Served, security: Security) -> AsyncIterator[grpc.aio.Channel]:
    async with connection.channel(served.address, Credentials(security), OPTIONS) as opened:
        yield opened


async def called(opened: Any, kind: str, metadata: Any = None) -> bytes:
    """Make one call of a kind and return what came back."""
    method = getattr(opened, kind)(f"/test.Echo/{kind}")
    given: Any = b"x" if kind.startswith("unary") else iter([b"x"])
    call = method(given, timeout=WAIT_S, metadata=metadata)
    if kind.endswith("unary"):
        return bytes(await call)
    return b"".join([part async for part in call])


async def code(opened: Any, kind: str = "unary_unary", metadata: Any = None) -> grpc.StatusCode:
    """Return the status of one call."""
    try:
        await called(opened, kind, metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return CODE.OK


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return written(tmp_path / "token", TOKEN)


def written(path: Path, *tokens: str) -> Path:
    """Write a token file as secrets are renewed: a new one takes the old one's place."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text("\n".join(tokens))
    fresh.chmod(0o600)
    os.replace(fresh, path)
    return path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca") / "mesh")


@pytest.fixture(scope="module")
def tls(authority: Authority) -> Security:
    cert, key = authority.issue("node", "IP:127.0.0.1", "DNS:localhost")
    return Security(tls_cert=str(cert), tls_key=str(key), tls_ca=str(authority.cert))


async def test_without_credentials_all_is_open() -> None:
    async with serving(OPEN) as served, reaching(served, NO_SECURITY) as opened:
        assert [await called(opened, kind) for kind in KINDS] == [b"x"] * 4


async def test_calls_of_all_kinds_present_the_token(token_file: Path, tmp_path: Path) -> None:
    security = Security(token_file=str(token_file))
    other = Security(token_file=str(written(tmp_path / "other", OTHER)))
    async with serving(Credentials(security)) as served:
        async with reaching(served, security) as opened:
            assert [await called(opened, kind, (("x-more", "1"),)) for kind in KINDS] == [b"x"] * 4
        assert served.ran == 4
        for stranger in (NO_SECURITY, other):
            async with reaching(served, stranger) as opened:
                assert [await code(opened, kind) for kind in KINDS] == [CODE.UNAUTHENTICATED] * 4
        assert served.ran == 4


async def test_probes_need_no_token_and_all_else_of_health_does(token_file: Path) -> None:
    asked = Credentials(Security(token_file=str(token_file)))
    async with serving(asked) as served, reaching(served, NO_SECURITY) as opened:
        stub = health_pb2_grpc.HealthStub(opened)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="token"):
            await stub.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S).read()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await opened.unary_unary("/test.Echo/unknown")(b"", timeout=WAIT_S)  # type: ignore[arg-type]
        assert raised.value.code() is CODE.UNAUTHENTICATED  # what there is, is nobody's business


async def test_metadata_of_strangers_is_refused_whatever_it_is(
    token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(7)
    letters = [chr(code) for code in range(0x20, 0x7F)]
    tried: list[tuple[tuple[str, str | bytes], ...]] = [
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")),
        (("authorization", f"Basic {TOKEN}"),),
        (("authorization-bin", f"Bearer {TOKEN}".encode()),),
        (("proxy-authorization", f"Bearer {TOKEN}"),),
    ]
    for _ in range(200):
        value = "".join(chance.choices(letters, k=chance.randrange(300)))
        tried.append((("authorization", chance.choice(("", "Bearer ", "bearer  ")) + value),))
    asked = Credentials(Security(token_file=str(token_file)))
    async with serving(asked) as served, reaching(served, NO_SECURITY) as opened:
        with caplog.at_level(logging.WARNING, "mesh.connection"):
            for metadata in tried:
                assert await code(opened, "unary_unary", metadata) is CODE.UNAUTHENTICATED, metadata
        assert served.ran == 0
        assert await code(opened, metadata=(("authorization", f"Bearer {TOKEN}"),)) is CODE.OK
    assert TOKEN not in caplog.text


async def test_tokens_change_while_all_runs(token_file: Path) -> None:
    security = Security(token_file=str(token_file))
    async with serving(Credentials(security)) as served, reaching(served, security) as opened:
        stream: Any = opened.stream_stream("/test.Echo/stream_stream")()
        await stream.write(b"before")
        assert await stream.read() == b"before"
        for tokens in ((TOKEN, OTHER), (OTHER, TOKEN), (OTHER,)):
            written(token_file, *tokens)
            assert await code(opened) is CODE.OK
        old = Security(token_file=str(written(token_file.with_name("old"), TOKEN)))
        async with reaching(served, old) as late:
            assert await code(late) is CODE.UNAUTHENTICATED
        await stream.write(b"still")
        assert await stream.read() == b"still"  # what stood goes on
        stream.cancel()


async def test_tls_on_both_sides(tls: Security, token_file: Path) -> None:
    both = Security(str(token_file), tls.tls_cert, tls.tls_key, tls.tls_ca)
    for security in (tls, both):
        async with serving(Credentials(security)) as served, reaching(served, security) as opened:
            await connection.connect(opened, served.address)
            assert [await called(opened, kind) for kind in KINDS] == [b"x"] * 4
    async with serving(Credentials(both)) as served, reaching(served, tls) as opened:
        assert await code(opened) is CODE.UNAUTHENTICATED


async def test_a_name_for_all_certificates(authority: Authority) -> None:
    cert, key = authority.issue("shared", "DNS:mesh")
    named = Security("", str(cert), str(key), str(authority.cert), tls_server_name="mesh")
    async with serving(Credentials(named)) as served:
        async with reaching(served, named) as opened:
            assert await called(opened, "unary_unary") == b"x"
        async with reaching(served, Security("", str(cert), str(key), str(authority.cert))) as opened:
            with pytest.raises(connection.HandshakeFailed, match="certificate is for other names"):
                await connection.connect(opened, served.address)


async def test_why_two_do_not_take_each_other(authority: Authority, tls: Security, tmp_path: Path) -> None:
    stranger = Authority.create(tmp_path / "stranger")
    cert, key = stranger.issue("node", "IP:127.0.0.1")
    of_another = Security("", str(cert), str(key), str(stranger.cert))
    not_taken = Security("", str(cert), str(key), str(authority.cert))
    cases = [
        (tls, of_another, "not of the authority in --tls-ca"),
        (tls, not_taken, "ended the connection at once"),
        (tls, NO_SECURITY, "ended the connection at once"),
        (NO_SECURITY, tls, "does not speak TLS"),
    ]
    for there, here, why in cases:
        async with serving(Credentials(there)) as served, reaching(served, here) as opened:
            with pytest.raises(connection.HandshakeFailed, match=re.escape(why)) as raised:
                await connection.connect(opened, served.address)
            assert served.address in raised.value.message
            assert raised.value.hint
            assert await code(opened) is CODE.UNAVAILABLE
            assert served.ran == 0


async def test_a_leader_that_does_not_take_this_process_is_not_the_callers_fault(
    token_file: Path, tls: Security, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    async def pass_on(_: Any, context: Any) -> bytes:
        for leader in (asking, encrypted):
            with pytest.raises(NoLeader):
                await forwarder.unary(
                    leader.address, DeploymentServiceStub, "GetStatus", GetStatusRequest(), context, reads=True
                )
            told.append(leader.address)
        return b"tried"

    forwarder = Forwarder(OPEN)
    token = Credentials(Security(token_file=str(token_file)))
    async with serving(token) as asking, serving(Credentials(tls)) as encrypted, serving(OPEN) as follower:
        follower.answers = pass_on
        with caplog.at_level(logging.WARNING, "mesh.controlplane"):
            async with reaching(follower, NO_SECURITY) as opened:
                assert await called(opened, "unary_unary") == b"tried"
        await forwarder.close()
    assert told == [asking.address, encrypted.address]
    assert "does not take this process's token" in caplog.text
    assert TOKEN not in caplog.text


async def test_nobody_there_is_said_as_ever(tls: Security) -> None:
    async with serving(OPEN) as served:
        address = served.address
    for security in (NO_SECURITY, tls):
        async with connection.channel(address, Credentials(security), OPTIONS) as opened:
            with pytest.raises(Unreachable, match="nobody listens") as raised:
                await connection.connect(opened, address)
            assert not isinstance(raised.value, connection.HandshakeFailed)


async def test_a_renewed_certificate_is_served_to_the_next_that_connects(authority: Authority, tmp_path: Path) -> None:
    def renew(name: str) -> None:
        for source, to in zip(authority.issue(name, "DNS:mesh", f"DNS:{name}"), (cert, key), strict=True):
            os.replace(source, to)

    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    renew("first")
    at = (str(cert), str(key), str(authority.cert))
    server, first, second = (Security("", *at, tls_server_name=name) for name in ("mesh", "first", "second"))
    async with serving(Credentials(server)) as served, reaching(served, first) as before:
        assert await code(before) is CODE.OK
        renew("second")
        assert await code(before) is CODE.OK  # its connection stands
        async with reaching(served, second) as after:
            assert await code(after) is CODE.OK
        async with reaching(served, first) as late:
            assert await code(late) is CODE.UNAVAILABLE
