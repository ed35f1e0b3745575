"""Makes `examples/library` importable, and serves it: from a mesh, or from a plain gRPC server."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import yaml

from tests.support.mesh_process import EXAMPLES, FREE_PORTS, MeshProcess

sys.path.insert(0, str(EXAMPLES / "library"))

from library.v1 import library_pb2, library_pb2_grpc
from library_app import Library

__all__ = ["LIBRARY", "Library", "config", "library_pb2", "library_pb2_grpc", "plain_server", "served"]

LIBRARY = EXAMPLES / "library"


def config(path: Path, **application: Any) -> Path:
    """Write the example's config file to `path`, with `application` in place of what it says of its one application."""
    document = yaml.safe_load((LIBRARY / "config.yaml").read_text())
    document["applications"][0] |= {"runtime_env": {"working_dir": str(LIBRARY)}, **application}
    path.write_text(yaml.safe_dump(document))
    return path


@contextlib.contextmanager
def served(directory: Path, **application: Any) -> Iterator[MeshProcess]:
    """Serve it by a mesh of its own, as its config file says but for `application`; `directory` is for files."""
    with MeshProcess("run", str(config(directory / "config.yaml", **application)), *FREE_PORTS) as mesh:
        yield mesh


@contextlib.asynccontextmanager
async def plain_server(servicer: library_pb2_grpc.LibraryServiceServicer) -> AsyncIterator[str]:
    """Serve a servicer of its service by grpc.aio alone; the value is host:port."""
    server = grpc.aio.server()
    library_pb2_grpc.add_LibraryServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
