"""What the benchmark of clients under overload calls: two replicas that serve 100 requests a second together.

Imports what is generated from greeter.proto: the benchmark puts a copy of this file beside it.
"""

import asyncio
from typing import Any

import greeter_pb2  # type: ignore[import-not-found]
import greeter_pb2_grpc  # type: ignore[import-not-found]

import mesh

SERVICE_S = 0.2
REPLICAS, ONGOING, QUEUED = 2, 10, 20
CAPACITY = REPLICAS * ONGOING / SERVICE_S


class Slow(greeter_pb2_grpc.GreeterServicer):  # type: ignore[misc]
    async def SayHello(self, request: Any, context: Any) -> Any:
        await asyncio.sleep(SERVICE_S)
        return greeter_pb2.HelloReply(message=f"Hello {request.name}!")


app = mesh.deployment(num_replicas=REPLICAS, max_ongoing_requests=ONGOING, max_queued_requests=QUEUED)(Slow).bind()
