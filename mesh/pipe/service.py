"""`ReplicaService.Pipe` at either end, with messages as lists of frames.

Owns that the stream's messages pass `codec` and not protobuf's own classes. Called by `link`, and by whoever serves
`ReplicaService`.
"""

from __future__ import annotations

from typing import Any

import grpc

from mesh.pipe.codec import REQUESTS, RESPONSES
from mesh.v1.replica_service_pb2 import DESCRIPTOR
from mesh.v1.replica_service_pb2_grpc import ReplicaServiceServicer, add_ReplicaServiceServicer_to_server

_SERVICE = DESCRIPTOR.services_by_name["ReplicaService"].full_name


def open_pipe(channel: grpc.aio.Channel) -> Any:
    """Begin a pipe. What is read from it and written to it are lists of frames."""
    method: Any = channel.stream_stream(
        f"/{_SERVICE}/Pipe", request_serializer=REQUESTS.encode, response_deserializer=RESPONSES.decode
    )
    return method()


def add_replica_service(servicer: ReplicaServiceServicer, server: grpc.aio.Server) -> None:
    """Let `server` answer for `servicer`, as the generated function does, but for the messages of its pipes."""
    pipe = grpc.stream_stream_rpc_method_handler(
        servicer.Pipe, request_deserializer=REQUESTS.decode, response_serializer=RESPONSES.encode
    )
    add_ReplicaServiceServicer_to_server(servicer, server)
    server.add_registered_method_handlers(_SERVICE, {"Pipe": pipe})
