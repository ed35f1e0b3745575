"""A closed-loop HTTP/1.1 load generator that needs nothing installed.

Keeps `connections` open and sends the next request on each as soon as the answer is whole. Raw sockets on an event
loop: it costs some 15 µs of CPU a request, which counts against the machine it shares. All connections are open before
the first request is sent; what is answered in the first moments (`--warm-up`) or after the end does not count.
Run: python -m benchmarks.load URL --connections 64 --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from benchmarks import forked, http_messages
from benchmarks.latencies import Tally
from benchmarks.schedule import Share
from benchmarks.watch import Watch, pids

WAVE = 64
"""Connections opened at a time."""
CONNECT_S = 30.0
TAIL_S = 30.0
"""For the answers that are on their way at the end."""
_BUFFER = bytearray(256 * 1024)
"""Where every connection reads into: an object for each read would be fresh memory each time."""
_READ = memoryview(_BUFFER)
_NOTHING = memoryview(b"")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, and for how long."""

    url: SplitResult
    request: bytes
    connections: int
    seconds: float
    warm_up_s: float
    watched: tuple[int, ...] = ()


@dataclass(slots=True)
class Window:
    """The time that counts."""

    begin: float = 0.0
    end: float = 0.0


class Connection:
    """One keep-alive connection that asks again and again until the window ends.

    Reads and writes its socket itself: a transport of the loop would send what all connections have to say at the end
    of its turn, in one burst.
    """

    def __init__(self, connected: socket.socket, plan: Plan, tally: Tally, window: Window) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connected
        self._request = plan.request
        self._tally = tally
        self._window = window
        self._reader = http_messages.AnswerReader()
        self._sent_at = 0.0
        self._unsent = _NOTHING
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(connected, self._readable)

    def send(self) -> None:
        """Send the next request."""
        self._sent_at = time.perf_counter()
        self._send(self._request)

    def _send(self, data: bytes) -> None:
        if self._unsent:  # it was answered before all of its body had left
            self._unsent = memoryview(bytes(self._unsent) + data)
            return
        self._unsent = memoryview(data)
        self._write()
        if self._unsent:
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        self._write()
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = _NOTHING
            self._close()

    def _readable(self) -> None:
        try:
            count = self._socket.recv_into(_BUFFER)
            whole = count > 0 and self._reader.feed(bytes(_READ[:count]))
        except BlockingIOError:
            return
        except (OSError, http_messages.NotHttpError):
            count, whole = 0, False
        now = time.perf_counter()
        if whole:
            self._answered(now)
        if not count or (whole and now >= self._window.end):
            self._close()
        elif whole:
            self.send()

    def _answered(self, now: float) -> None:
        tally, reader = self._tally, self._reader
        if self._window.begin <= now < self._window.end:
            tally.add(reader.status, now - self._sent_at)
            tally.completed[reader.status] += 1
            tally.seen["body_bytes"] += reader.body_bytes
            tally.seen["chunks"] += reader.chunks
            tally.seen["events"] += reader.events

    def _close(self) -> None:
        if self.closed.done():
            return
        if time.perf_counter() < self._window.end or not self._window.end:
            self._tally.seen["broken"] += 1
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self.closed.set_result(None)


async def load(plan: Plan, share: Share, start: forked.Start) -> Tally:
    """Load the URL with this share of the connections."""
    tally, window = Tally(), Window()
    tally.seen["broken"] = 0
    connections = await _open(plan, share, tally, window)
    began = start.wait()
    window.begin = began + plan.warm_up_s
    window.end = window.begin + plan.seconds
    Watch(tally, () if share.number else plan.watched).between(window.begin, window.end)
    await asyncio.sleep(began - time.perf_counter())
    for connection in connections:
        connection.send()
    async with asyncio.timeout(window.end - time.perf_counter() + TAIL_S):
        await asyncio.gather(*(connection.closed for connection in connections))
    return tally


async def _open(plan: Plan, share: Share, tally: Tally, window: Window) -> list[Connection]:
    loop = asyncio.get_running_loop()
    host, port = plan.url.hostname or "", plan.url.port or 80
    (family, *_, address), *_ = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    async def one() -> Connection:
        connected = socket.socket(family, socket.SOCK_STREAM)
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(connected, address)
        return Connection(connected, plan, tally, window)

    count = len(range(share.number, plan.connections, share.of))
    opened: list[Connection] = []
    async with asyncio.timeout(CONNECT_S):
        while len(opened) < count:
            opened += await asyncio.gather(*(one() for _ in range(min(WAVE, count - len(opened)))))
    return opened


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--method", help="GET, or POST with a body")
    parser.add_argument("--body", default="", help="JSON to send; GET without it")
    parser.add_argument("--body-bytes", type=int, default=0, help="bytes to send instead of JSON")
    parser.add_argument("--watch", type=pids, default=(), metavar="PID,...", help="processes whose CPU is read")
    arguments = parser.parse_args()
    url = urlsplit(arguments.url)
    body = arguments.body.encode() or bytes(arguments.body_bytes)
    content_type = "application/json" if arguments.body else "application/octet-stream"
    request = http_messages.request(url, arguments.method or ("POST" if body else "GET"), body, content_type)
    plan = Plan(url, request, arguments.connections, arguments.seconds, arguments.warm_up, arguments.watch)
    limit_s = CONNECT_S + arguments.warm_up + arguments.seconds + TAIL_S
    tally = forked.run(lambda share, start: load(plan, share, start), arguments.processes, limit_s)
    print(json.dumps(tally.figures(arguments.seconds)))


if __name__ == "__main__":
    main()
