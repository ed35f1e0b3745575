"""The floor: what the HTTP server and gRPC's streams cost alone, in turn with requests through both and mesh."""

from __future__ import annotations

import functools
import sys

from benchmarks.generators import Way, closed, measure
from benchmarks.trees import Served

CONNECTIONS = (1, 64)


def bare() -> Served:
    """Serve both, with nothing in between."""
    return Served([sys.executable, "-m", "benchmarks.bare"])


def ways(served: Served, seconds: float) -> dict[str, Way]:
    """Both alone, at 1 and 64 at once; a stream carries 64 requests in one message, as pipes do."""
    address = str(served.said["grpc"])
    found: dict[str, Way] = {}
    for count in CONNECTIONS:
        found[f"floor_http_server_{count}"] = functools.partial(closed, served, "/", connections=count, seconds=seconds)
        found[f"floor_stream_{count}"] = functools.partial(
            measure, served, "stream_load", address, frames=count, seconds=seconds
        )
    return found
