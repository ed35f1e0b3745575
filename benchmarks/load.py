"""A closed-loop HTTP/1.1 load generator that needs nothing installed.

Keeps `connections` open and sends the next request on each as soon as the answer is whole. One process, raw
asyncio protocols: it costs some 25 µs of CPU a request, which counts against the machine it shares.
Run: python -m benchmarks.load URL --connections 64 --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop


@dataclass
class Tally:
    """What came back: latencies in seconds by status."""

    latencies: dict[int, list[float]] = field(default_factory=dict)
    broken: int = 0

    def add(self, status: int, seconds: float) -> None:
        self.latencies.setdefault(status, []).append(seconds)

    def figures(self, seconds: float) -> dict[str, object]:
        """Return rates and percentiles (ms) over all statuses and for each."""
        result: dict[str, object] = {"seconds": round(seconds, 3), "broken": self.broken, "by_status": {}}
        every = [latency for latencies in self.latencies.values() for latency in latencies]
        result.update(_percentiles(every, seconds))
        result["by_status"] = {str(s): _percentiles(each, seconds) for s, each in sorted(self.latencies.items())}
        return result


def _percentiles(latencies: list[float], seconds: float) -> dict[str, float]:
    ordered = sorted(latencies)
    if not ordered:
        return {"requests": 0, "per_second": 0.0}
    at = {p: ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] for p in (50, 90, 99)}
    shown = {f"p{p}_ms": round(value * 1000, 3) for p, value in at.items()}
    return {"requests": len(ordered), "per_second": round(len(ordered) / seconds, 1), **shown}


def _whole(buffer: bytes, end: int) -> bool:
    """Whether the answer whose head ends at `end` is complete, knowing that nothing follows it."""
    head = buffer[:end].lower()
    at = head.find(b"content-length:")
    if at < 0 and b"transfer-encoding: chunked" in head:
        return buffer.endswith(b"\r\n0\r\n\r\n")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    return len(buffer) >= end + 4 + length


class Connection(asyncio.Protocol):
    """One keep-alive connection that asks again and again until `stop_at`."""

    def __init__(self, request: bytes, tally: Tally, stop_at: float) -> None:
        self._request = request
        self._tally = tally
        self._stop_at = stop_at
        self._buffer = b""
        self._sent = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = buffer
            return
        if not _whole(buffer, end):
            self._buffer = buffer
            return
        self._buffer = b""
        now = time.perf_counter()
        self._tally.add(int(buffer[9:12]), now - self._sent)
        if now >= self._stop_at:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self._stop_at:
            self._tally.broken += 1
        if not self.closed.done():
            self.closed.set_result(None)

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)


async def load(url: str, *, connections: int, seconds: float, body: str = "") -> dict[str, object]:
    """Load `url` and return the figures. With a body the requests are POSTs of JSON."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    content = f"Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n" if body else ""
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: */*\r\n{content}\r\n"
    request = (head + body).encode()
    tally = Tally()
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    opened = []
    for _ in range(connections):
        _, connection = await loop.create_connection(
            lambda: Connection(request, tally, started + seconds), parts.hostname, parts.port
        )
        opened.append(connection)
    async with asyncio.timeout(seconds + 30):
        await asyncio.gather(*(connection.closed for connection in opened))
    return tally.figures(time.perf_counter() - started)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--body", default="", help="JSON to POST; GET without it")
    arguments = parser.parse_args()
    work = load(arguments.url, connections=arguments.connections, seconds=arguments.seconds, body=arguments.body)
    print(json.dumps(uvloop.run(work)))


if __name__ == "__main__":
    main()
