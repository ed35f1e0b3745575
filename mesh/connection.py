"""gRPC channels and servers between the processes of one mesh: the one place that makes either.

Owns how each call presents the process's credentials, how each server asks for them, the bound of the wait for a
connection, and saying why there is none. Channels and servers belong to their callers. Called by every client and
server of the control plane and of replicas.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from mesh.clock import SYSTEM
from mesh.credentials import AUTHORIZATION, Credentials
from mesh.errors import Unreachable
from mesh.liveness import CONNECT_TIMEOUT_S
from mesh.telemetry import LineLimit

Options = Sequence[tuple[str, Any]]
OPEN_METHODS = frozenset({"/grpc.health.v1.Health/Check"})
"""Methods that anyone may call: probes come without credentials."""
_HEALTH = "/grpc.health.v1.Health/Check"
_WHY_TIMEOUT_S = 1.0

log = logging.getLogger("mesh.connection")


class HandshakeFailed(Unreachable):
    """Somebody listens, and one of the two does not take the other's certificate, or one of them speaks no TLS."""


def channel(address: str, credentials: Credentials, options: Options) -> grpc.aio.Channel:
    """Return a channel to another process of the mesh. Whoever opens one closes it."""
    tls = credentials.of_channel()
    if tls is None:
        opened = grpc.aio.insecure_channel(address, options=options)
    else:
        if name := credentials.security.tls_server_name:
            options = (*options, ("grpc.ssl_target_name_override", name))
        opened = grpc.aio.secure_channel(address, tls, options=options)
    return _Presenting(opened, credentials) if credentials.wants_token else opened


def server(credentials: Credentials, options: Options) -> grpc.aio.Server:
    """Return a server that takes calls with the token only, if there is one."""
    interceptors = (_Doorkeeper(credentials),) if credentials.wants_token else ()
    return grpc.aio.server(options=options, interceptors=interceptors)


def bind(bound: grpc.aio.Server, address: str, credentials: Credentials) -> int:
    """Let a server listen on host:port, a host of IPv6 in brackets; returns the port. Raises RuntimeError if taken."""
    tls = credentials.of_server()
    if tls is None:
        return bound.add_insecure_port(address)
    return bound.add_secure_port(address, tls)


async def connect(channel: grpc.aio.Channel, address: str) -> None:
    """Connect, or return at once if it is.

    gRPC by itself would try on for much longer, or wait in the first call. Raises Unreachable: nobody listens, or the
    host or process stands still; HandshakeFailed: one of the two does not take the other.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    raise _failure(await _why(channel), address)
                if state is grpc.ChannelConnectivity.SHUTDOWN:
                    raise Unreachable(f"the channel to {address} is closed")
                await channel.wait_for_state_change(state)
    except TimeoutError:
        raise Unreachable(f"{address} does not take connections") from None


async def _why(channel: grpc.aio.Channel) -> str:
    """Return gRPC's words for the failure: only a call is told, and in this state it fails without being sent."""
    try:
        probe: Any = channel.unary_unary(_HEALTH)
        await probe(b"", timeout=_WHY_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return error.details() or ""
    return ""


_HUNG_UP = "it ended the connection at once"
_SHOW = "if it wants TLS, give --tls-cert, --tls-key and --tls-ca; if you do, it does not take that certificate"
_FAILURES = (
    ("Hostname Verification", "its certificate is for other names", "check --tls-server-name, or the certificate"),
    ("certificate has expired", "its certificate has expired", "renew it"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not of the authority in --tls-ca", "check --tls-ca"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS", "leave --tls-cert, --tls-key and --tls-ca out, or give it them"),
    ("Tls handshake failed", "the TLS handshake failed", "check --tls-cert, --tls-key and --tls-ca"),
    # A server that wants another certificate, or any, hangs up and says no more.
    ("Socket closed", _HUNG_UP, _SHOW),
    ("Connection reset", _HUNG_UP, _SHOW),
)


def _failure(details: str, address: str) -> Unreachable:
    for part, why, hint in _FAILURES:
        if part in details:
            return HandshakeFailed(f"{address} listens, but {why}", hint=hint)
    return Unreachable(f"nobody listens at {address}")


class _Doorkeeper(grpc.aio.ServerInterceptor):
    """Looks at the head of each call, before any of its messages is read."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._lines = LineLimit()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's handler, or one that refuses the call."""
        details: Any = handler_call_details
        if details.method not in OPEN_METHODS:
            presented = [value for key, value in details.invocation_metadata or () if key == AUTHORIZATION]
            if refusal := self._credentials.refusal(presented):
                return self._refusing(details.method, refusal)
        return await continuation(handler_call_details)

    def _refusing(self, method: str, refusal: str) -> grpc.RpcMethodHandler[Any, Any]:
        async def refuse(_: Any, context: Any) -> None:
            if (left_out := self._lines.take(SYSTEM.monotonic())) is not None:
                fields = {"peer": context.peer(), "method": method[:100], "left_out": left_out}
                log.warning("refused a call without the token", extra=fields)
            hint = "present it with --token-file or MESH_TOKEN_FILE"
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"{refusal}; {hint}")

        # Whatever kind the method is: this one reads nothing and answers with a status.
        return grpc.stream_stream_rpc_method_handler(refuse)


class _Presenting(grpc.aio.Channel):
    """A channel that presents the token with each call. Not by interceptors, which would replace the calls' objects.

    Knows as much of the token as the call that it is made for: each takes what the file holds then.
    """

    def __init__(self, inner: grpc.aio.Channel, credentials: Credentials) -> None:
        self._inner = inner
        self._credentials = credentials

    async def __aenter__(self) -> _Presenting:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._inner.close()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel."""
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return how the connection is."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when that has changed."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return when it stands."""
        await self._inner.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return self._presenting(self._inner.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return self._presenting(self._inner.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return self._presenting(self._inner.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return what makes calls of this kind."""
        return self._presenting(self._inner.stream_stream(*args, **kwargs))

    def _presenting(self, method: Any) -> Callable[..., Any]:
        def call(*args: Any, metadata: Any = None, **kwargs: Any) -> Any:
            return method(*args, metadata=(*(metadata or ()), *self._credentials.metadata()), **kwargs)

        return call
