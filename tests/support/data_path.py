"""A replica of `handlers` behind one or more gateways, with what tests of the data path ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from mesh.model import DeploymentSettings
from tests.support.gateways import WAIT_SECONDS, Gateways, Routed, until, until_async
from tests.support.replicas import ReplicaProcess

HANDLERS = Path(__file__).with_name("handlers.py")


class DataPath:
    """What one test works with: a directory of user code, replicas, gateways and a client."""

    def __init__(self, directory: Path, gateways: Gateways, client: httpx.AsyncClient) -> None:
        self.directory = directory
        self.gateways = gateways
        self.client = client
        self.replicas: list[ReplicaProcess] = []
        self._stack = contextlib.AsyncExitStack()

    @property
    def replica(self) -> ReplicaProcess:
        """The first."""
        return self.replicas[0]

    async def replica_of(self, application: str, *, ongoing: int = 2, **settings: Any) -> ReplicaProcess:
        """Start a replica of an application in `handlers`."""
        replica = ReplicaProcess(
            self.directory,
            f"handlers:{application}",
            deployment="Handler",
            settings=DeploymentSettings(max_ongoing_requests=ongoing, **settings),
        )
        self.replicas.append(await self._stack.enter_async_context(replica))
        return replica

    async def serve(self, application: str, *, ongoing: int = 2, queued: int = 2, **routed: Any) -> ReplicaProcess:
        """Start one replica and route to it."""
        replica = await self.replica_of(application, ongoing=ongoing)
        endpoints = ((replica.replica_id, replica.address),)
        await self.gateways.publish(Routed(ongoing=ongoing, queued=queued, endpoints=endpoints, **routed))
        return replica

    def url(self, path: str = "/", *, gateway: int = 0) -> str:
        """Return a URL at one of the gateways."""
        return f"{self.gateways.urls[gateway]}{path}"

    async def get(self, path: str = "/", **options: Any) -> httpx.Response:
        """GET from the first gateway."""
        return await self.client.get(self.url(path), **options)

    async def post(self, path: str = "/", **options: Any) -> httpx.Response:
        """POST to the first gateway."""
        return await self.client.post(self.url(path), **options)

    def open(self, gate: str) -> None:
        """Let the handlers go on that wait at `gate`."""
        (self.directory / f"open-{gate}").touch()

    def events(self, kind: str = "") -> list[str]:
        """Return what handlers noted, in order: whole lines, or what follows `kind` in the lines of that kind."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.directory / "events").read_text().splitlines()
            return [line[len(kind) :].strip() for line in lines if line.startswith(kind)]
        return []

    def forget_events(self) -> None:
        """Forget what handlers noted so far."""
        (self.directory / "events").unlink(missing_ok=True)

    async def until_event(self, line: str) -> None:
        """Wait until a handler has noted `line`."""
        await until(lambda: line in self.events(), f"{line!r} is noted: {self.events()[-20:]}")

    async def until_started(self, count: int) -> None:
        """Wait until so many handlers have started, of all that ever did."""
        await until(lambda: len(self.events("start ")) == count, f"{count} have started")

    async def until_running(self, count: int, *, gateway: int = 0) -> None:
        """Wait until so many requests were sent to replicas."""
        dispatcher = self.gateways.dispatcher(gateway=gateway)
        await until(lambda: dispatcher.in_flight == count, f"{count} in flight: {dispatcher}")

    async def until_queued(self, count: int, *, gateway: int = 0) -> None:
        """Wait until so many requests wait."""
        dispatcher = self.gateways.dispatcher(gateway=gateway)
        await until(lambda: dispatcher.queued == count, f"{count} queued: {dispatcher}")

    async def until_free(self, *, application: str = "default") -> None:
        """Wait until no slot is taken and nothing waits, at the gateways and at every living replica."""
        await self.gateways.idle(application)
        for replica in self.replicas:
            await until_async(_free(replica), f"no slot of {replica.replica_id} is taken")

    async def close(self) -> None:
        """End the replicas."""
        await self._stack.aclose()


def _free(replica: ReplicaProcess) -> Callable[[], Awaitable[bool]]:
    async def free() -> bool:
        return await replica.ongoing() == 0

    return free


@contextlib.asynccontextmanager
async def data_path(
    directory: Path, *, gateways: int = 1, code: Path = HANDLERS, **settings: Any
) -> AsyncIterator[DataPath]:
    """Make a `DataPath` whose user code is a copy of `handlers`, with nothing running yet but the gateways."""
    shutil.copy(code, directory / "handlers.py")
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with Gateways(gateways, **settings) as running, httpx.AsyncClient(timeout=30, limits=limits) as client:
        path = DataPath(directory, running, client)
        try:
            yield path
        finally:
            await path.close()


class Connection:
    """One HTTP/1.1 connection of raw bytes, for what a client library would not do, or would do too slowly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: str) -> Connection:
        """Connect to host:port."""
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read the head of an answer: status and headers."""
        async with asyncio.timeout(WAIT_SECONDS):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value for name, value in pairs}

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read an answer with a content-length."""
        status, headers = await self.head()
        return status, headers, await self.reader.readexactly(int(headers.get("content-length", "0")))

    async def ended(self) -> bool:
        """Read what is left and return whether the other side closed the connection."""
        async with asyncio.timeout(WAIT_SECONDS):
            with contextlib.suppress(ConnectionResetError):
                while await self.reader.read(65536):
                    pass
        return True

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def burst(addresses: list[str], count: int, *, rounds: int = 1) -> Counter[int]:
    """GET / from so many connections at once, in turn over the gateways, `rounds` times each. Count the statuses."""
    seen: Counter[int] = Counter()

    async def client(address: str) -> None:
        connection = await Connection.open(address)
        for _ in range(rounds):
            connection.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            seen[(await connection.answer())[0]] += 1
        await connection.close()

    await asyncio.gather(*(client(addresses[i % len(addresses)]) for i in range(count)))
    return seen


async def finish(task: asyncio.Task[Any]) -> None:
    """Cancel a client's task, as a client that hangs up does, and wait for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
