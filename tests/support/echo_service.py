"""User code of the conformance cases: serves all services of the descriptor sets beside it, whatever they are.

Each method answers with its request. Which one it was is told in the header `x-route`, and what it got in
`x-request-bin` if that is not too large for a header. Copied into the working directory of a replica.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.api import annotations_pb2, httpbody_pb2  # noqa: F401
from google.protobuf import (  # noqa: F401
    any_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import mesh

HEADER_BYTES_MAX = 16 * 1024


def echo(name: str) -> Callable[[bytes, Any], Any]:
    async def method(request: bytes, context: Any) -> bytes:
        told: list[tuple[str, str | bytes]] = [("x-route", name)]
        if len(request) <= HEADER_BYTES_MAX:
            told.append(("x-request-bin", request))
        await context.send_initial_metadata(told)
        return request

    return method


def servicer(service: Any) -> type:
    """Do what generated stubs do: make a base class, and the function that registers it."""

    def register(_: Any, server: Any) -> None:
        methods: dict[str, Any] = {m.name: grpc.unary_unary_rpc_method_handler(echo(m.name)) for m in service.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, methods),))

    name = service.full_name.replace(".", "_")
    globals()[f"add_{name}_to_server"] = register
    return type(name, (), {"__module__": __name__})


def bases() -> list[type]:
    pool = descriptor_pool.Default()
    made = []
    for path in sorted(Path.cwd().glob("*.set")):
        for file in FileDescriptorSet.FromString(path.read_bytes()).file:
            if not file.name.startswith("google/"):
                pool.AddSerializedFile(file.SerializeToString())
                made += [servicer(each) for each in pool.FindFileByName(file.name).services_by_name.values()]
    return made


app = mesh.deployment(name="Handler")(type("Echo", tuple(bases()), {})).bind()
