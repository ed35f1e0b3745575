"""Server reflection on the gRPC port: grpc.reflection.v1 and v1alpha.

Owns the streams. What is answered is decided in `reflection_answers`. Called by the gRPC front.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from mesh.gateway.grpc_status import APPLICATION_METADATA
from mesh.gateway.reflection_answers import V1, V1ALPHA, Answers, SchemaLike, own_schema
from mesh.gateway.reflectionrpc import reflection_pb2 as pb

SERVICES = (V1, V1ALPHA)
METHOD = "ServerReflectionInfo"


class Reflection:
    """Tells clients without generated code what is served.

    `schemas` is called for each question, so a stream sees what is deployed then: with the application that the
    metadata `application` of the stream names, None without it. Services of the gateway itself need not be among them.
    """

    def __init__(self, schemas: Callable[[str | None], Sequence[SchemaLike]]) -> None:
        self._schemas = schemas
        self._own = own_schema()

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return what `grpc.aio.Server.add_generic_rpc_handlers` takes: both versions of the service."""
        # The messages of both are the same on the wire, so both are served with those of v1.
        handler = grpc.stream_stream_rpc_method_handler(
            self.answered,
            request_deserializer=pb.ServerReflectionRequest.FromString,
            response_serializer=pb.ServerReflectionResponse.SerializeToString,
        )
        return tuple(grpc.method_handlers_generic_handler(service, {METHOD: handler}) for service in SERVICES)

    async def answered(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        """Answer each question of a stream, in order."""
        application = dict(context.invocation_metadata() or ()).get(APPLICATION_METADATA)
        answers = Answers(lambda: self._schemas(application), self._own)
        async for request in requests:
            yield answers.answer(request)
