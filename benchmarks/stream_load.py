"""A closed-loop load generator for the bare gRPC stream: sends a message, takes it back, and sends the next.

The other side of `bare`, as a gateway is of a replica: the same loop, the same settings of its process. A message
stands for so many requests (`--frames`), which is what rates count. What is answered in the first moments or after the
end does not count.
Run: python -m benchmarks.stream_load HOST:PORT --frames 64
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

import grpc

from benchmarks.bare import METHOD
from benchmarks.latencies import Tally
from benchmarks.watch import Watch, pids
from mesh.lifecycle import loop_factory, tune_memory

FRAME_BYTES = 200
"""About what a frame of the pipe has for a request without a body."""
TAIL_S = 30.0
OK = 0


async def load(arguments: argparse.Namespace) -> Tally:
    """Send messages until time is up."""
    tally, message = Tally(), bytes(FRAME_BYTES * arguments.frames)
    async with grpc.aio.insecure_channel(arguments.address) as channel:
        stream: Any = channel.stream_stream(METHOD)()
        await _echo(stream, message)
        begin = time.perf_counter() + arguments.warm_up
        end = begin + arguments.seconds
        Watch(tally, arguments.watch).between(begin, end)
        async with asyncio.timeout(arguments.warm_up + arguments.seconds + TAIL_S):
            now = time.perf_counter()
            while now < end:
                sent = now
                await _echo(stream, message)
                now = time.perf_counter()
                if begin <= now < end:
                    tally.add(OK, now - sent)
                    tally.completed[OK] += arguments.frames
        await asyncio.sleep(0.01)  # the end is read by then
        stream.cancel()
    return tally


async def _echo(stream: Any, message: bytes) -> None:
    await stream.write(message)
    if await stream.read() != message:
        raise SystemExit("the stream gave back something else")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--frames", type=int, default=1, help="requests that a message stands for")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm-up", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--watch", type=pids, default=(), metavar="PID,...", help="processes whose CPU is read")
    arguments = parser.parse_args()
    tune_memory()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        print(json.dumps(runner.run(load(arguments)).figures(arguments.seconds)))


if __name__ == "__main__":
    main()
