"""The servicer of the gRPC benchmarks, plain.

Imports what is generated from greeter.proto: `benchmarks.greeter` puts a copy of this file beside it.
"""

from collections.abc import AsyncIterator
from typing import Any

import greeter_pb2  # type: ignore[import-not-found]
import greeter_pb2_grpc  # type: ignore[import-not-found]


class Greeter(greeter_pb2_grpc.GreeterServicer):  # type: ignore[misc]
    async def SayHello(self, request: Any, context: Any) -> Any:
        return _reply(request)

    async def Chat(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async for request in request_iterator:
            yield _reply(request)

    async def Noop(self, request: Any, context: Any) -> Any:
        return greeter_pb2.NoopReply(ok=True)


def _reply(request: Any) -> Any:
    return greeter_pb2.HelloReply(message=f"Hello {request.name}!", number=request.times, formal=request.formal)
