"""A closed-loop gRPC load generator: grpc.aio's own generated stub, `connections` x `streams` unary calls at a time.

One process, as a Python user's client is. Run: python -m benchmarks.grpc_load HOST:PORT DIRECTORY
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from importlib import import_module
from typing import Any

import grpc
import uvloop

from benchmarks.load import Tally

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
"""Each channel has a connection of its own."""


async def _ask(say_hello: Any, request: Any, tally: Tally, stop_at: float) -> None:
    now = time.perf_counter()
    while now < stop_at:
        sent = now
        reply = await say_hello(request)
        now = time.perf_counter()
        if not reply.message:
            raise SystemExit("the answer is empty")
        tally.add(0, now - sent)


async def load(address: str, *, connections: int, streams: int, seconds: float) -> dict[str, object]:
    """Load `address` and return the figures; any other status than OK ends it."""
    messages, stubs = import_module("greeter_pb2"), import_module("greeter_pb2_grpc")
    request = messages.HelloRequest(name="world", times=3, formal=True, titles=["Dr", "Prof"])
    channels = [grpc.aio.insecure_channel(address, options=OPTIONS) for _ in range(connections)]
    try:
        calls = [stubs.GreeterStub(channel).SayHello for channel in channels]
        for call in calls:
            await call(request)
        tally = Tally()
        started, cpu = time.perf_counter(), time.process_time()
        async with asyncio.timeout(seconds + 30), asyncio.TaskGroup() as group:
            for call in calls * streams:
                group.create_task(_ask(call, request, tally, started + seconds))
        figures = tally.figures(time.perf_counter() - started)
        figures["client_cpu_s"] = time.process_time() - cpu
        return figures
    finally:
        for channel in channels:
            await channel.close()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("directory", help="where the generated code is")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.directory)
    work = load(
        arguments.address,
        connections=arguments.connections,
        streams=arguments.streams,
        seconds=arguments.seconds,
    )
    print(json.dumps(uvloop.run(work)))


if __name__ == "__main__":
    main()
