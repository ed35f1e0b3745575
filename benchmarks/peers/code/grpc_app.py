"""grpcio: a server of its own, as its documentation has it, with nothing around it.

Run: python grpc_app.py DIRECTORY PORT, with a directory that `benchmarks.greeter.generate` filled.
"""

import asyncio
import sys
from importlib import import_module

import grpc


async def serve(port: str) -> None:
    servicer, stubs = import_module("greeter_servicer"), import_module("greeter_pb2_grpc")
    server = grpc.aio.server()
    stubs.add_GreeterServicer_to_server(servicer.Greeter(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    asyncio.run(serve(sys.argv[2]))
