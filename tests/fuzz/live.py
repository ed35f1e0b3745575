"""A gateway with replicas of four applications behind it, what is counted in them, and clients that must be served."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil

from mesh.model import DeploymentSettings
from tests.fuzz.targets import SERVICE
from tests.support import everything, native, rest, rule_services
from tests.support.gateways import Gateways, Routed, until, until_async
from tests.support.replicas import ReplicaProcess

SLOTS = 64
GATEWAY_GROWTH_BYTES_MAX = 64 * 1024 * 1024
REPLICA_GROWTH_BYTES_MAX = 48 * 1024 * 1024
APPLICATIONS = {
    "http": ("/h", "user_code:app"),
    "rest": ("/r", "rest_service:app"),
    "native": ("/n", "native_service:asynchronous"),
    "everything": ("/e", "echo_service:app"),
}
"""Route prefix and import path."""
_GIVEN_BACK = (
    "request failed: the answer has no JSON form: content_type: the content type of the HttpBody cannot be a header"
)
"""What is logged where a method answers with the content type that it got."""
_HERE = Path(__file__).parent
_SUPPORT = _HERE.parent / "support"


@dataclass(frozen=True)
class Counts:
    """What must not grow."""

    tasks: int
    descriptors: tuple[int, ...]
    """Of this process and each replica's."""
    memory: tuple[int, ...]


class Live:
    """The gateway, its replicas, and good clients."""

    def __init__(self, gateways: Gateways, replicas: list[ReplicaProcess], client: httpx.AsyncClient) -> None:
        self.gateways = gateways
        self.replicas = replicas
        self.good_calls = 0
        self.channel = grpc.aio.insecure_channel(gateways.gateway.grpc_address)
        self._client = client
        self._one = asyncio.Lock()
        self._stub = native.stub_of(self.channel)
        self._logged = _Logged()
        logging.getLogger().addHandler(self._logged)

    @property
    def http(self) -> str:
        """host:port for HTTP."""
        return self.gateways.gateway.http_address

    @property
    def grpc(self) -> str:
        """host:port for gRPC."""
        return self.gateways.gateway.grpc_address

    async def good(self) -> None:
        """Make one call of each kind that must be answered: on connections that stay open."""
        number = self.good_calls = self.good_calls + 1
        async with asyncio.timeout(native.WAIT_S), self._one:  # so that they need one connection
            plain = await self._client.post(f"{self.gateways.url}/h/echo", content=b"good")
            assert (plain.status_code, plain.content) == (200, b"4 good"), plain
            told = await self._client.post(f"{self.gateways.url}/r/v1/do", json={"id": "good", "count": number})
            assert told.json() == {"text": "good", "count": number}, told
            assert (await self._stub.Unary(native.ask(id="good"))).text == "good"

    async def counts(self) -> Counts:
        """Wait until nothing runs, and count."""
        await self._free()
        gc.collect()
        processes = [psutil.Process(), *(psutil.Process(replica.pid) for replica in self.replicas)]
        return Counts(
            len(asyncio.all_tasks()),
            tuple(process.num_fds() for process in processes),
            tuple(process.memory_info().rss for process in processes),
        )

    async def check(self, before: Counts) -> str:
        """Nothing was kept, and nothing was a surprise. Returns by how much the memory grew, for the report."""
        await self._free()
        await until(lambda: len(asyncio.all_tasks()) <= before.tasks, "no task is left")
        for number, at_most in enumerate(before.descriptors):
            process = psutil.Process(self.replicas[number - 1].pid) if number else psutil.Process()
            await until(partial(_has, process, at_most), f"{number}: no more than {at_most} descriptors are open")
        after = await self.counts()
        grown = [now - then for now, then in zip(after.memory, before.memory, strict=True)]
        assert grown[0] < GATEWAY_GROWTH_BYTES_MAX and max(grown[1:]) < REPLICA_GROWTH_BYTES_MAX, grown
        assert not self._logged.found, self._logged.found[0][:5000]
        for replica in self.replicas:
            at = replica.log.find("Traceback")
            assert at < 0, replica.log[max(0, at - 1000) : at + 4000]
        pipeline = self.gateways.gateway.pipeline
        assert not pipeline._exchanges, "requests that are not over"
        return "memory grew by " + ", ".join(f"{size / 2**20:.1f}" for size in grown) + " MiB (gateway, replicas)"

    async def close(self) -> None:
        """Hang up."""
        logging.getLogger().removeHandler(self._logged)
        await self.channel.close()

    async def _free(self) -> None:
        for application in APPLICATIONS:
            await self.gateways.idle(application)
        for replica in self.replicas:
            await until_async(partial(_is_free, replica), f"no slot of {replica.replica_id} is taken")


async def _is_free(replica: ReplicaProcess) -> bool:
    return await replica.ongoing() == 0


def _has(process: psutil.Process, at_most: int) -> bool:
    return process.num_fds() <= at_most


class _Logged(logging.Handler):
    """Collects what the gateway logs of its own failures."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter())
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (record.exc_info or record.levelno >= logging.ERROR) and len(self.found) < 100:
            text = self.format(record)
            if text != _GIVEN_BACK:
                self.found.append(text)


@contextlib.asynccontextmanager
async def live(directory: Path) -> AsyncIterator[Live]:
    """Start everything."""
    for generated in (native.generated(), rest.generated()):
        shutil.copytree(generated, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_HERE / "user_code.py", directory)
    shutil.copy(_SUPPORT / "echo_service.py", directory)
    (directory / "everything.set").write_bytes(everything.descriptor_set())
    settings = DeploymentSettings(max_ongoing_requests=SLOTS)
    made = [
        ReplicaProcess(directory, import_path, deployment="Handler", settings=settings, application=name)
        for name, (_, import_path) in APPLICATIONS.items()
    ]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with contextlib.AsyncExitStack() as stack:
        for replica in made:
            stack.push_async_exit(replica)
        async with asyncio.TaskGroup() as group:
            for replica in made:
                group.create_task(replica.start())
        gateways = await stack.enter_async_context(Gateways(body_idle_timeout_s=5.0))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30, limits=limits))
        await gateways.publish(*map(_routed, made))
        running = Live(gateways, made, client)
        stack.push_async_callback(running.close)
        yield running


def _routed(replica: ReplicaProcess) -> Routed:
    name = replica.spec.application
    interfaces: dict[str, Any] = {
        "rest": lambda: rest.interface("app"),
        "native": lambda: native.interface("asynchronous"),
        "everything": lambda: rule_services.interface(SERVICE, everything.descriptor_set()),
    }
    return Routed(
        name=name,
        prefix=APPLICATIONS[name][0],
        ongoing=SLOTS,
        queued=2 * SLOTS,
        endpoints=((replica.replica_id, replica.address),),
        interface=interfaces[name]() if name in interfaces else None,
    )
