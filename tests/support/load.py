"""Steady load on gateways, over HTTP and gRPC in turn, from a process of its own: `with Load([...]) as load: ...`.

Requests begin by a schedule that waits for nothing (an open loop), and each is timed from when it was due. HTTP runs on
connections that are kept, as a browser or a pool does it. A request that no gateway took (the connection is refused, or
closed before anything of an answer) is sent again, to another gateway, and counted as retried; whatever else is not
answered with 200 or OK has failed, and so has what a gateway itself answers with UNAVAILABLE.

As a process it writes a line of JSON for each line that it reads: what happened since the last "window".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

RETRIES_MAX = 20
_PORT = re.compile(r":[0-9]+")
RETRY_S = 0.05
TIMEOUT_S = 30.0
TICK_S = 0.01
METHOD = "/soak.v1.Echo/Say"
MESSAGE = b"\n\x02hi"
SERVICE_CONFIG = '{"loadBalancingConfig": [{"round_robin": {}}]}'


@dataclass
class Window:
    """What happened to requests between two looks. Times are milliseconds since each was due."""

    requests: int = 0
    retried: dict[str, int] = field(default_factory=dict)
    """How often one had to be sent again, and why."""
    failed: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    """How often each answer came, such as "http one"."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    seconds: float = 0.0
    longest_gap_s: float = 0.0
    """Between two requests that began: whether the client itself kept its pace."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        failed = f", {sum(self.failed.values())} FAILED" if self.failed else ", 0 failed"
        times = f"p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms, max {self.max_ms:.0f} ms"
        return f"{self.requests} requests, {self.rate:.0f}/s{failed}, {sum(self.retried.values())} retried, {times}"


class Load:
    """The load as the test sees it. On leaving it ends, and every request has its outcome."""

    def __init__(self, http: Sequence[str], grpc: Sequence[str], *, rate: float = 500.0) -> None:
        self._started = [sys.executable, "-m", "tests.support.load", ",".join(http), ",".join(grpc), str(rate)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        assert process is not None and process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(TIMEOUT_S + 10)
        finally:
            process.kill()
            process.wait()

    def window(self) -> Window:
        """Return what happened since the window before, and begin the next."""
        return self._ask("window")

    def look(self) -> Window:
        """Return what happened since the last window."""
        return self._ask("look")

    def _ask(self, word: str) -> Window:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        return Window(**json.loads(process.stdout.readline()))


class _Client:
    """Sends the requests."""

    def __init__(self, http: Sequence[str], grpc_targets: Sequence[str]) -> None:
        import grpc

        self._http = [address.removeprefix("http://") for address in http]
        self._idle: dict[str, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {a: [] for a in self._http}
        options = [
            ("grpc.enable_retries", 0),
            ("grpc.service_config", SERVICE_CONFIG),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 2000),
            ("grpc.max_reconnect_backoff_ms", 300),
            ("grpc.enable_http_proxy", 0),
        ]
        self._channels = [
            grpc.aio.insecure_channel(f"ipv4:{','.join(grpc_targets)}", options=[*options, ("grpc.own", i)])
            for i in range(4)
        ]
        self._error: Any = grpc.aio.AioRpcError
        self._unavailable = grpc.StatusCode.UNAVAILABLE
        self._loop = asyncio.get_running_loop()
        self._sent = 0
        self._window = Window()
        self._times: list[float] = []
        self._since = self._last = self._loop.time()
        self._running: set[asyncio.Task[None]] = set()
        self._retried: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()

    async def run(self, rate: float, ended: asyncio.Event) -> None:
        """Begin requests at `rate` a second until `ended`, then wait for those that run."""
        began = self._loop.time()
        while not ended.is_set():
            now = self._loop.time()
            while (due := began + self._sent / rate) <= now:
                self._sent += 1
                self._window.requests += 1
                task = self._loop.create_task(self._request(self._sent, due))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            self._window.longest_gap_s = max(self._window.longest_gap_s, now - self._last)
            self._last = now
            await asyncio.sleep(TICK_S)
        if self._running:
            await asyncio.wait(self._running)

    def look(self) -> Window:
        """Return what happened since the last reset."""
        now, times = self._loop.time(), sorted(self._times)
        window = self._window
        window.seconds, window.retried = now - self._since, dict(self._retried)
        window.failed, window.answers = dict(self._failed), dict(self._answers)
        if times:
            window.p50_ms, window.max_ms = times[len(times) // 2] * 1000, times[-1] * 1000
            window.p99_ms = times[int(len(times) * 0.99)] * 1000
        return window

    def reset(self) -> None:
        """Count anew."""
        self._window, self._times, self._since = Window(), [], self._loop.time()
        self._retried, self._failed, self._answers = Counter(), Counter(), Counter()

    async def _request(self, number: int, due: float) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await (self._over_grpc(number) if number % 2 else self._over_http(number))
            self._answers[answer] += 1
        except Exception as error:
            self._failed[f"{'grpc' if number % 2 else 'http'} {type(error).__name__}: {error}"[:300]] += 1
        self._times.append(self._loop.time() - due)

    async def _over_grpc(self, number: int) -> str:
        call: Any = self._channels[number % len(self._channels)].unary_unary(METHOD)
        for attempt in range(RETRIES_MAX):
            try:
                answer = await call(MESSAGE, timeout=TIMEOUT_S)
            except self._error as error:
                told = f"{error.code().name} {error.details()}"
                by_gateway = "x-request-id" in dict(error.trailing_metadata() or ())
                if error.code() is not self._unavailable or by_gateway or attempt == RETRIES_MAX - 1:
                    raise RuntimeError(told) from None
                await self._again(f"grpc {told}")
            else:
                return f"grpc {answer[2:].decode()}"
        raise AssertionError

    async def _over_http(self, number: int) -> str:
        for attempt in range(RETRIES_MAX):
            address = self._http[(number // 2 + attempt) % len(self._http)]
            try:
                return await self._get(address)
            except (_NeverRan, ConnectionRefusedError) as error:
                if attempt == RETRIES_MAX - 1:
                    raise RuntimeError(repr(error)) from None
                await self._again(f"http {error!r}")
        raise AssertionError

    async def _again(self, why: str) -> None:
        self._retried[_PORT.sub("", why)[:200]] += 1
        await asyncio.sleep(RETRY_S)

    async def _get(self, address: str) -> str:
        idle = self._idle[address]
        while idle:
            reader, writer = idle.pop()
            if not reader.at_eof():
                break
            writer.close()
        else:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"GET /web HTTP/1.1\r\nhost: load\r\n\r\n")
            try:
                first = await reader.readline()
            except ConnectionError as error:
                raise _NeverRan(repr(error)) from None
            if not first:
                raise _NeverRan("closed before an answer")
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            body = (await reader.readexactly(length)).decode()
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in head:
            writer.close()
        else:
            idle.append((reader, writer))
        if first.split()[1] != b"200":
            raise RuntimeError(f"{first.decode().strip()}: {body}")
        return f"http {body}"


class _NeverRan(Exception):
    """The connection was closed before anything of an answer came."""


async def _main(http: list[str], grpc_targets: list[str], rate: float) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    client = _Client(http, grpc_targets)

    def answer(word: str) -> None:
        print(json.dumps(client.look().__dict__), flush=True)
        if word == "window":
            client.reset()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(answer, line.strip())
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True).start()
    await client.run(rate, ended)


if __name__ == "__main__":
    from mesh import lifecycle
    from mesh.settings import prepare_grpc

    prepare_grpc()
    with asyncio.Runner(loop_factory=lifecycle.loop_factory()) as runner:
        runner.run(_main(sys.argv[1].split(","), sys.argv[2].split(","), float(sys.argv[3])))
    sys.stdout.flush()
    os._exit(0)
