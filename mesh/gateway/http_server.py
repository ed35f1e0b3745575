"""Hosts the ASGI application on granian, embedded in this process's event loop.

Owns the listening socket, granian's settings and its shutdown. The only module that knows the HTTP server.
Why granian: docs/decisions/0003-http-server.md.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from granian import _granian
from granian.constants import Interfaces
from granian.http import HTTP1Settings, HTTP2Settings
from granian.server.embed import Server

from mesh.errors import Conflict
from mesh.lifecycle import Tasks, deadline
from mesh.settings import GatewaySettings


class HttpServer:
    """One listener for HTTP/1.1 and HTTP/2 (prior knowledge)."""

    def __init__(self, application: Any, settings: GatewaySettings) -> None:
        self._application = application
        self._settings = settings
        self._tasks = Tasks()
        self._socket: socket.socket | None = None
        self._server: _Embedded | None = None
        self._serving: asyncio.Task[None] | None = None
        self._ending = False
        self.address = ""

    def listen(self) -> None:
        """Take the port; whoever connects waits. Raises Conflict when it is taken."""
        settings = self._settings
        self._socket = bind(settings.host, settings.port, settings.backlog, shared=settings.shared_ports)
        host, port = self._socket.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def serve(self) -> None:
        """Answer from now on. After `listen`."""
        assert self._socket is not None
        settings = self._settings
        host, port = self._socket.getsockname()[:2]
        self._server = _Embedded(
            self._application,
            address=host,
            port=port,
            interface=Interfaces.ASGINL,
            backlog=settings.backlog,
            log_enabled=False,
            websockets=True,
            http1_settings=HTTP1Settings(
                header_read_timeout=int(settings.keep_alive_timeout_s * 1000),
                max_buffer_size=max(settings.header_bytes_max * 2, 256 * 1024),
            ),
            http2_settings=HTTP2Settings(
                max_headers_size=settings.header_bytes_max * 2, max_concurrent_streams=200, keep_alive_interval=20_000
            ),
        )
        self._server.listener = self._socket
        self._serving = self._tasks.spawn(self._server.serve(), name="http-server")

    async def drain(self) -> None:
        """Close the listener, and each connection once it is idle; return when the last one is closed."""
        if self._server is None or self._serving is None or self._serving.done():
            return
        if not self._ending:
            self._ending = True
            self._server.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait((self._serving,))

    async def stop(self) -> None:
        """Close the listener and all connections."""
        async with deadline(2.0, "the HTTP server"):
            await self.drain()
        await self._tasks.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Embedded(Server):
    """granian's embedded server on a socket of ours: port 0 works, and a port in use is an error."""

    listener: socket.socket

    _shd: Any

    def _init_shared_socket(self) -> None:
        self._ssp = None
        # From here on granian owns the descriptor and closes it.
        self._shd = _holder(self.listener.detach(), False, self.backlog)

    def _drop_shared_socket(self) -> None:
        self._shd = None


_holder: Any = _granian.SocketHolder
"""Takes a descriptor, whether it is a unix socket, and the backlog. granian's stubs leave that out."""


def bind(host: str, port: int, backlog: int, *, shared: bool = False) -> socket.socket:
    """Return a bound socket. Raises Conflict when the address is taken or cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Its connections have it from the listener. Without it, parts of a streamed answer wait for the client's word
        # that the last one came, which may take 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        # Listening now makes a second process fail at its bind, and no connection is refused meanwhile.
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        hint = "end the process that uses it, or choose another with --port (0: a free one)"
        raise Conflict(f"cannot listen for HTTP on {host}:{port}: {error.strerror}", hint=hint) from error
    listener.setblocking(False)
    return listener
