"""A gateway process that also tells what it has in flight at each replica, by its own count. Started by `scale_out`.

It is looked each 5 ms, between two turns of its loop; told "looks" on stdin it says what was seen since the last time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from mesh import lifecycle
from mesh.clock import SYSTEM
from mesh.errors import MeshError
from mesh.gateway.server import Gateway
from mesh.settings import GatewaySettings

LOOK_S = 0.005
LOOKS_MAX = 20_000
Looks = dict[str, list[list[int]]]


def in_flight(gateway: Gateway, application: str) -> list[int]:
    """Return what this gateway counts at each replica of an application; [] if it has none."""
    try:
        dispatcher = gateway.pipeline.application(application).dispatcher
    except MeshError:
        return []
    return [link.in_flight for link in dispatcher._links.values()]


async def look(gateway: Gateway, seen: Looks) -> None:
    """Note what is in flight, again and again, while anything is."""
    while True:
        await asyncio.sleep(LOOK_S)
        for application, looks in seen.items():
            counts = in_flight(gateway, application)
            if any(counts) and len(looks) < LOOKS_MAX:
                looks.append(counts)


async def serve(control: str, applications: list[str], stop: lifecycle.Stop) -> int:
    """Serve until told to stop."""
    gateway = Gateway(GatewaySettings(port=0, grpc_port=0, control=(control,)), SYSTEM)
    await gateway.start()
    seen: Looks = {each: [] for each in applications}
    tasks = lifecycle.Tasks()
    tasks.spawn(look(gateway, seen), name="look")
    tasks.spawn(answer(seen), name="answer")
    print(json.dumps({"http": f"http://{gateway.http_address}"}), flush=True)
    await stop.wait()
    await tasks.cancel()
    await gateway.stop()
    return 0


async def answer(seen: Looks) -> None:
    """Say what was seen, each time that a line comes."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(json.dumps(seen), flush=True)
        for looks in seen.values():
            looks.clear()


def main() -> int:
    """Be the gateway."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", required=True, metavar="HOST:PORT")
    parser.add_argument("--look-at", nargs="*", default=[], metavar="APPLICATION")
    arguments = parser.parse_args()
    return lifecycle.run(lambda stop: serve(arguments.control, arguments.look_at, stop))


if __name__ == "__main__":
    sys.exit(main())
