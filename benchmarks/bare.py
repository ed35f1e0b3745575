"""What mesh stands on, with nothing in between: the HTTP server with an application of three lines, and a gRPC stream.

Both answer what they are asked at once; no less can be had from these libraries. Says where it serves, as JSON.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc

from mesh.gateway.http_server import HttpServer
from mesh.lifecycle import loop_factory, tune_memory
from mesh.settings import GatewaySettings

METHOD = "/bare.Echo/Stream"
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"11")]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application."""
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": b'{"ok":true}', "more_body": False})


async def echo(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """Give each message back."""
    async for message in messages:
        yield message


async def serve() -> None:
    """Serve until killed."""
    http = HttpServer(application, GatewaySettings(port=0))
    http.listen()
    await http.serve()
    server = grpc.aio.server()
    service, _, method = METHOD[1:].partition("/")
    handlers: dict[str, Any] = {method: grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    tune_memory()
    print(json.dumps({"http": f"http://{http.address}", "grpc": f"127.0.0.1:{port}"}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve())
