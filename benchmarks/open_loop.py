"""An open-loop HTTP/1.1 load generator that needs nothing installed: requests come when they are due, as users do.

A schedule says when each request is due, whatever becomes of the others, and latency counts from then: so a server that
stands still for a second shows in every request that was due in that second, not in one (no coordinated omission).
Connections are open before it begins; a request that is due while all are busy waits for one, within a bound, and what
does not fit is counted as `dropped`. After `--deadline` seconds a request is given up and its connection replaced
(`timed_out`); percentiles over all statuses have it with the time for which it was waited, as status 0. `late` says how
long after it was due a request was sent: if that is much, the generator was too slow. Rates count answers of the time
that counts, percentiles the requests that were due in it.
Run: python -m benchmarks.open_loop URL --rate 1000 --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from benchmarks import forked, http_messages, schedule
from benchmarks.latencies import UNANSWERED, Tally
from benchmarks.load import CONNECT_S, WAVE, Window
from benchmarks.schedule import Share
from benchmarks.timer import Timer
from benchmarks.watch import Watch, pids

SWEEP_S = 0.005
"""How long after its deadline a request may be given up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is due when, and the bounds. Of `connections` and `waiting` each process has its share."""

    url: SplitResult
    request: bytes
    rate: float
    seconds: float
    warm_up_s: float
    arrivals: str = "poisson"
    seed: int = 0
    connections: int = 256
    waiting: int = 10_000
    deadline_s: float = 5.0
    watched: tuple[int, ...] = ()

    def due(self, share: Share) -> Iterator[float]:
        """Return the times of the requests of a share, in seconds after the beginning."""
        whole = self.warm_up_s + self.seconds
        if self.arrivals == "even":
            return schedule.even(self.rate, whole, share)
        return schedule.poisson(self.rate, whole, share, self.seed)


class Connection(asyncio.Protocol):
    """One keep-alive connection: idle, or with one request on it, which was due at `due`."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._reader = http_messages.AnswerReader()
        self.due: float | None = None
        self.number = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._users.free(self)

    def ask(self, request: bytes, due: float) -> None:
        """Send a request."""
        self.due = due
        self.number += 1
        self._transport.write(request)

    def give_up(self) -> None:
        """Leave the server, as a client does whose time is up."""
        self.due = None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            whole = self._reader.feed(data)
        except http_messages.NotHttpError:
            self._transport.abort()
            return
        if whole and (due := self.due) is not None:
            self.due = None
            self._users.answered(self._reader.status, due)
            self._users.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._users.lost(self)


class Users:
    """Those whose requests come by the schedule: one process's share of them."""

    def __init__(self, plan: Plan, share: Share, tally: Tally) -> None:
        self._plan = plan
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._address = plan.url.hostname or "", plan.url.port or 80
        self._watched = () if share.number else plan.watched
        self._due = plan.due(share)
        self._next: float | None = None
        self._window = Window()
        self._began = 0.0
        self._idle: list[Connection] = []
        self._waiting: deque[float] = deque()
        self._running: deque[tuple[float, Connection, int]] = deque()
        self._connections_max = len(range(share.number, plan.connections, share.of))
        self._waiting_max = max(1, plan.waiting // share.of)
        self._connections = 0
        self._opening: set[asyncio.Task[object]] = set()
        self._ended = False
        self._timer: Timer | None = None
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def connect(self) -> None:
        """Open the connections."""
        async with asyncio.timeout(CONNECT_S):
            while self._connections < self._connections_max:
                wave = min(WAVE, self._connections_max - self._connections)
                self._connections += wave
                await asyncio.gather(*(self._open() for _ in range(wave)))

    async def come(self, began: float) -> None:
        """Send what is due when it is, and return when all of it is over."""
        self._began = began
        self._window.begin = began + self._plan.warm_up_s
        self._window.end = self._window.begin + self._plan.seconds
        Watch(self._tally, self._watched).between(self._window.begin, self._window.end)
        self._timer = Timer(self._tick)
        try:
            self._next = next(self._due, None)
            self._set_timer()
            async with asyncio.timeout(self._window.end + self._plan.deadline_s + 5 - time.perf_counter()):
                await self._done
        finally:
            self._ended = True
            self._timer.close()

    def free(self, connection: Connection) -> None:
        """Note a connection that can take a request; the one that waits longest gets it."""
        if self._waiting:
            self._ask(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def answered(self, status: int, due: float) -> None:
        """Note an answer."""
        now = time.perf_counter()
        if self._window.begin <= now < self._window.end:
            self._tally.completed[status] += 1
        if due >= self._window.begin:
            self._tally.add(status, now - due)

    def lost(self, connection: Connection) -> None:
        """Replace a connection that ended."""
        self._connections -= 1
        if self._ended:
            return
        if connection in self._idle:
            self._idle.remove(connection)
            self._tally.seen["closed_when_idle"] += 1
        if connection.due is not None:
            connection.due = None
            self._tally.seen["broken"] += 1
        self._connections += 1
        task = self._loop.create_task(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._connections -= 1
            self._tally.seen["not_connected"] += 1

    async def _open(self) -> None:
        await self._loop.create_connection(lambda: Connection(self), *self._address)

    def _tick(self) -> None:
        now = time.perf_counter()
        while self._next is not None and (due := self._began + self._next) <= now:
            self._come(due)
            self._next = next(self._due, None)
        self._give_up(now - self._plan.deadline_s)
        if self._next is None and not self._waiting and not self._running:
            if not self._done.done():
                self._done.set_result(None)
        else:
            self._set_timer()

    def _come(self, due: float) -> None:
        if self._idle:
            self._ask(self._idle.pop(), due)
        elif len(self._waiting) < self._waiting_max:
            self._waiting.append(due)
        else:
            self._tally.seen["dropped"] += 1

    def _ask(self, connection: Connection, due: float) -> None:
        connection.ask(self._plan.request, due)
        self._running.append((due, connection, connection.number))
        self._tally.late.append(time.perf_counter() - due)

    def _give_up(self, before: float) -> None:
        """Give up what was due earlier, and forget what is over."""
        waiting, running = self._waiting, self._running
        while waiting and waiting[0] < before:
            self._timed_out(waiting.popleft())
        while running:
            due, connection, number = running[0]
            if connection.due is None or connection.number != number:
                running.popleft()
            elif due < before:
                running.popleft()
                connection.give_up()
                self._timed_out(due)
            else:
                break

    def _timed_out(self, due: float) -> None:
        self._tally.seen["timed_out"] += 1
        if due >= self._window.begin:
            self._tally.add(UNANSWERED, time.perf_counter() - due)

    def _set_timer(self) -> None:
        assert self._timer is not None
        sweep = time.perf_counter() + SWEEP_S
        self._timer.set(sweep if self._next is None else min(sweep, self._began + self._next))


async def load(plan: Plan, share: Share, start: forked.Start) -> Tally:
    """Send this share of the requests."""
    tally = Tally()
    tally.seen.update(broken=0, dropped=0, timed_out=0)
    users = Users(plan, share, tally)
    await users.connect()
    await users.come(start.wait())
    return tally


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, required=True, help="requests a second, of all processes together")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=0.3, metavar="SECONDS")
    parser.add_argument("--arrivals", choices=("poisson", "even"), default="poisson")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--waiting", type=int, default=10_000, help="requests that may wait for a connection")
    parser.add_argument("--deadline", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--body", default="", help="JSON to POST; GET without it")
    parser.add_argument("--watch", type=pids, default=(), metavar="PID,...", help="processes whose CPU is read")
    arguments = parser.parse_args()
    url = urlsplit(arguments.url)
    request = http_messages.request(url, "POST" if arguments.body else "GET", arguments.body.encode())
    plan = Plan(
        url=url,
        request=request,
        rate=arguments.rate,
        seconds=arguments.seconds,
        warm_up_s=arguments.warm_up,
        arrivals=arguments.arrivals,
        seed=arguments.seed,
        connections=arguments.connections,
        waiting=arguments.waiting,
        deadline_s=arguments.deadline,
        watched=arguments.watch,
    )
    limit_s = CONNECT_S + arguments.warm_up + arguments.seconds + arguments.deadline + 10
    tally = forked.run(lambda share, start: load(plan, share, start), arguments.processes, limit_s)
    print(json.dumps(tally.figures(arguments.seconds)))


if __name__ == "__main__":
    main()
