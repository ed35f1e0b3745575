"""A closed-loop gRPC load generator: grpc.aio's own generated stub, `connections` x `streams` calls at a time.

Unary calls, or messages of bidi calls that stay open, of which `--ahead` may be on their way in each. One process or
more. What is answered in the first moments or after the end does not count.
Run: python -m benchmarks.grpc_load HOST:PORT DIRECTORY
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import deque
from importlib import import_module
from typing import Any

import grpc

from benchmarks import forked
from benchmarks.latencies import Tally
from benchmarks.load import Window
from benchmarks.schedule import Share
from benchmarks.watch import Watch, pids

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
"""Each channel has a connection of its own."""
TAIL_S = 30.0
OK = 0


class Asker:
    """Asks again and again until the window ends."""

    def __init__(self, request: Any, tally: Tally, window: Window) -> None:
        self._request = request
        self._tally = tally
        self._window = window

    async def unary(self, stub: Any) -> None:
        """Make one call after another."""
        now = time.perf_counter()
        while now < self._window.end:
            sent = now
            reply = await stub.SayHello(self._request)
            now = time.perf_counter()
            self._answered(reply, sent, now)

    async def bidi(self, stub: Any, ahead: int) -> None:
        """Make one call, with so many messages on their way in it."""
        call = stub.Chat()
        sent: deque[float] = deque()
        now = time.perf_counter()
        while now < self._window.end or sent:
            while len(sent) < ahead and now < self._window.end:
                sent.append(time.perf_counter())
                await call.write(self._request)
            reply = await call.read()
            now = time.perf_counter()
            self._answered(reply, sent.popleft(), now)
        await call.done_writing()
        if await call.read() is not grpc.aio.EOF:
            raise SystemExit("more answers than messages")

    def _answered(self, reply: Any, sent: float, now: float) -> None:
        if not reply.message:
            raise SystemExit("the answer is empty")
        if self._window.begin <= now < self._window.end:
            self._tally.add(OK, now - sent)
            self._tally.completed[OK] += 1


async def load(arguments: argparse.Namespace, share: Share, start: forked.Start) -> Tally:
    """Load a share of the connections; any other status than OK ends it."""
    messages, stubs = import_module("greeter_pb2"), import_module("greeter_pb2_grpc")
    request = messages.HelloRequest(name="world", times=3, formal=True, titles=["Dr", "Prof"])
    count = len(range(share.number, arguments.connections, share.of))
    channels = [grpc.aio.insecure_channel(arguments.address, options=OPTIONS) for _ in range(count)]
    try:
        every = [stubs.GreeterStub(channel) for channel in channels]
        for stub in every:
            await stub.SayHello(request)
        tally = Tally()
        begin = start.wait() + arguments.warm_up
        window = Window(begin, begin + arguments.seconds)
        asker = Asker(request, tally, window)
        Watch(tally, () if share.number else arguments.watch).between(window.begin, window.end)
        async with asyncio.timeout(arguments.seconds + TAIL_S), asyncio.TaskGroup() as group:
            for stub in every * arguments.streams:
                group.create_task(asker.unary(stub) if arguments.kind == "unary" else asker.bidi(stub, arguments.ahead))
        return tally
    finally:
        for channel in channels:
            await channel.close()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("directory", help="where the generated code is")
    parser.add_argument("--kind", choices=("unary", "bidi"), default="unary")
    parser.add_argument("--ahead", type=int, default=1, help="messages of a bidi call that may be on their way")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm-up", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--watch", type=pids, default=(), metavar="PID,...", help="processes whose CPU is read")
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.directory)
    limit_s = arguments.warm_up + arguments.seconds + 2 * TAIL_S
    tally = forked.run(lambda share, start: load(arguments, share, start), arguments.processes, limit_s)
    print(json.dumps(tally.figures(arguments.seconds)))


if __name__ == "__main__":
    main()
