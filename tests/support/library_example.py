"""Makes `examples/library` importable, and serves it without a mesh."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from tests.support.mesh_process import EXAMPLES

sys.path.insert(0, str(EXAMPLES / "library"))

from library.v1 import library_pb2, library_pb2_grpc
from library_app import Library

__all__ = ["LIBRARY", "library_pb2", "library_pb2_grpc", "plain_server", "servicer"]

LIBRARY = EXAMPLES / "library"


def servicer(**arguments: Any) -> library_pb2_grpc.LibraryServiceServicer:
    """Return the servicer of the example's deployment."""
    deployment: Any = Library
    made: library_pb2_grpc.LibraryServiceServicer = deployment.target(**arguments)
    return made


@contextlib.asynccontextmanager
async def plain_server(servicer: library_pb2_grpc.LibraryServiceServicer) -> AsyncIterator[str]:
    """Serve it by grpc.aio alone; the value is host:port."""
    server = grpc.aio.server()
    library_pb2_grpc.add_LibraryServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
