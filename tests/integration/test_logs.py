"""Logs from real replicas on real workers through a real control plane."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil
import pytest

from mesh.cli.client import Client
from mesh.cli.log_stream import read
from mesh.clock import SYSTEM
from mesh.controlplane import log_merge, log_reads
from mesh.controlplane.server import ControlPlane
from mesh.credentials import Credentials
from mesh.lifecycle import Tasks
from mesh.security import NO_SECURITY
from mesh.settings import ControlPlaneSettings, WorkerSettings
from mesh.v1 import deployment_pb2 as pb
from mesh.v1.deployment_service_pb2 import ApplyRequest
from mesh.v1.log_service_pb2 import LogEntry, ReadLogsRequest, ReadLogsResponse
from mesh.v1.log_service_pb2_grpc import LogServiceStub
from mesh.worker.logs.reading import TAIL_LINES_MAX
from mesh.worker.server import Worker
from tests.support.scripted_peers import ScriptedWorker

WAIT_S = 40.0
SETTINGS = ControlPlaneSettings(port=0, heartbeat_interval_s=0.5, worker_grace_s=60.0)
CODE = '''
import logging, os, sys, threading, time
from pathlib import Path
import mesh

@mesh.deployment
class Parrot:
    """Says what the lines of a file ask it to say; `die WORKER` ends those whose parent says so."""
    def __init__(self):
        print(f"hatched {os.getpid()}")
        threading.Thread(target=self.listen, daemon=True).start()
    def listen(self):
        done = Path(f"orders").read_text().count("\\n")
        while True:
            lines = Path("orders").read_text().split("\\n")[:-1]
            for line in lines[done:]:
                self.obey(line)
            done = len(lines)
            time.sleep(0.02)
    def obey(self, line):
        if line == "die":
            print("dying", flush=True)
            os._exit(3)
        if line.startswith("log "):
            logging.getLogger("parrot").warning("%s", line[4:], extra={"request_id": "r-" + line[4:]})
        elif line.startswith("count "):
            for i in range(int(line[6:])):
                print(f"number {i:06} " + "x" * 1000)
                time.sleep(0.001)
        else:
            print(line)
    def __call__(self):
        return "ok"
app = Parrot.bind()
'''
T = TypeVar("T")


async def until(condition: Callable[[], T]) -> T:
    """Wait for what no message tells."""
    async with asyncio.timeout(WAIT_S):
        while not (found := condition()):
            await asyncio.sleep(0.02)
    return found


class Reader:
    """Follows logs in the background, as meshctl does."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.notices: list[str] = []
        self.lost: list[str] = []
        self.responses = 0

    @property
    def messages(self) -> list[str]:
        return [entry.message for entry in self.entries]

    async def run(self, address: str, request: ReadLogsRequest) -> None:
        async with Client(address.split(","), Credentials(NO_SECURITY)) as client:
            async for response in read(client, request, self.lost.append):
                self.responses += 1
                self.entries += response.entries
                self.notices += response.notices


class Mesh:
    """A control plane, workers, and an application that says what it is told."""

    def __init__(self, stack: AsyncExitStack, directory: Path) -> None:
        self.directory = directory
        self.workers: dict[str, Worker] = {}
        self._stack = stack
        self._tasks = Tasks()
        stack.push_async_callback(self._tasks.cancel)
        self.settings = replace(SETTINGS, store=f"sqlite:///{directory / 'mesh.db'}")
        self.control = ControlPlane(self.settings, SYSTEM)
        (directory / "orders").write_text("")

    @property
    def address(self) -> str:
        return self.control.address

    async def start(self, *workers: str) -> None:
        await self.control.start()
        self._stack.push_async_callback(lambda: self.control.stop())
        for worker_id in workers:
            await self.start_worker(worker_id)

    async def start_worker(self, worker_id: str) -> Worker:
        logs = str(self.directory / worker_id)
        worker = Worker(WorkerSettings(worker_id, control=(self.address,), log_dir=logs), SYSTEM)
        await worker.start()
        self._stack.push_async_callback(worker.stop)
        self.workers[worker_id] = worker
        await until(lambda: not worker.not_ready())
        return worker

    async def deploy(self, number: int) -> None:
        (self.directory / "parrot.py").write_text(CODE)
        environment = pb.RuntimeEnv(working_dir=str(self.directory))
        config = pb.ApplicationConfig(name="app", route_prefix="/", import_path="parrot:app", runtime_env=environment)
        config.deployments.add(name="Parrot", num_replicas=number)
        async with Client([self.address], Credentials(NO_SECURITY)) as client:
            await client.apply(ApplyRequest(config=pb.Config(applications=[config]), supersede=True))
        await until(lambda: sum(len(self.ready(worker_id)) for worker_id in self.workers) == number)

    def ready(self, worker_id: str) -> list[tuple[str, int]]:
        """Ids and processes of a worker's ready replicas."""
        replicas = self.workers[worker_id].replicas
        return [(replica.replica_id, replica.pid) for replica in replicas if replica.state.name == "READY"]

    def tell(self, *orders: str) -> None:
        with (self.directory / "orders").open("a") as file:
            file.write("".join(f"{order}\n" for order in orders))

    def request(self, **fields: Any) -> ReadLogsRequest:
        return ReadLogsRequest(**{"application": "app", "tail_lines": TAIL_LINES_MAX, **fields})

    async def read(self, **fields: Any) -> Reader:
        """Read to the end."""
        reader = Reader()
        async with asyncio.timeout(WAIT_S):
            await reader.run(self.address, self.request(**fields))
        return reader

    async def read_until(self, *expected: str, **fields: Any) -> Reader:
        """Read again and again until there is a line of each message: they are written in the background."""
        async with asyncio.timeout(WAIT_S):
            while not set(expected) <= set((found := await self.read(**fields)).messages):
                await asyncio.sleep(0.05)
        return found

    async def follow(self, **fields: Any) -> Reader:
        reader = Reader()
        self._tasks.spawn(reader.run(self.address, self.request(follow=True, **fields)), name="follow")
        await until(lambda: reader.responses)  # from here on nothing is missed
        return reader


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        yield Mesh(stack, tmp_path)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    assert not [process for process in psutil.Process().children(recursive=True) if process.pid not in before]


async def test_lines_come_from_all_workers_merged_filtered_and_of_the_dead_too(mesh: Mesh) -> None:
    await mesh.start("w1", "w2")
    await mesh.deploy(2)
    mesh.tell("hello", "log greeting")
    reader = await mesh.read_until("hello", "greeting")
    async with asyncio.timeout(WAIT_S):
        while reader.messages.count("greeting") < 2:
            reader = await mesh.read()
    assert {entry.worker_id for entry in reader.entries} == {"w1", "w2"}
    assert [entry.time for entry in reader.entries] == sorted(entry.time for entry in reader.entries)
    assert reader.messages.count("hello") == 2
    mine = await mesh.read(request_id="r-greeting")
    assert [(entry.message, entry.level, entry.fields["logger"]) for entry in mine.entries] == [
        ("greeting", "WARNING", "parrot")
    ] * 2
    assert (await mesh.read(tail_lines=1)).messages == ["greeting"] * 2
    assert (await mesh.read(since=SYSTEM.wall() + 60)).messages == []
    (one, _), *_ = mesh.ready("w1")
    assert {entry.position.replica_id for entry in (await mesh.read(replica=one)).entries} == {one}

    async with Client([mesh.address], Credentials(NO_SECURITY)) as client:
        await client.delete("app")
    await until(lambda: not any(mesh.ready(worker_id) for worker_id in mesh.workers))
    dead = await mesh.read_until("(the process exited with code 0)", "hello")
    assert dead.messages.count("hello") == 2


async def test_a_crash_and_a_kill_are_seen_and_followed_across(mesh: Mesh) -> None:
    await mesh.start("w1")
    await mesh.deploy(1)
    follower = await mesh.follow(tail_lines=0)
    mesh.tell("first")
    await until(lambda: "first" in follower.messages)
    ((replica_id, first),) = mesh.ready("w1")
    mesh.tell("die")
    await until(lambda: "(the process exited with code 3)" in follower.messages)
    await until(lambda: [pid for _, pid in mesh.ready("w1") if pid != first])
    mesh.tell("second")
    await until(lambda: "second" in follower.messages)
    previous = await mesh.read(previous=True)
    assert previous.messages == [f"hatched {first}", "first", "dying", "(the process exited with code 3)"]
    ((_, pid),) = mesh.ready("w1")
    os.kill(pid, signal.SIGKILL)
    await until(lambda: "(the process was killed by SIGKILL)" in follower.messages)
    await until(lambda: any(message.startswith("hatched") for message in follower.messages[-1:]))
    positions = [(entry.position.process, entry.position.line) for entry in follower.entries]
    assert positions == sorted(set(positions))
    assert {entry.position.replica_id for entry in follower.entries} == {replica_id}
    everything = (await mesh.read()).messages
    assert everything[-len(follower.messages) :] == follower.messages


async def test_following_goes_on_over_new_replicas_new_workers_and_another_leader(mesh: Mesh) -> None:
    await mesh.start("w1")
    await mesh.deploy(1)
    follower = await mesh.follow(tail_lines=1)
    await until(lambda: follower.messages)
    await mesh.start_worker("w2")
    await mesh.deploy(2)
    mesh.tell("two of us")
    await until(lambda: follower.messages.count("two of us") == 2)
    assert {entry.worker_id for entry in follower.entries} == {"w1", "w2"}

    port = int(mesh.address.rpartition(":")[2])
    await mesh.control.stop()
    await until(lambda: follower.lost)
    mesh.tell("nobody listens")
    mesh.control = ControlPlane(replace(mesh.settings, port=port), SYSTEM)
    await mesh.control.start()
    mesh.tell("somebody does")
    await until(lambda: follower.messages.count("somebody does") == 2)
    lines = [(e.position.replica_id, e.position.process, e.position.line) for e in follower.entries]
    assert len(lines) == len(set(lines)), "no line comes twice"
    assert follower.messages.count("nobody listens") == 2, "none is missing"


async def test_a_slow_reader_slows_the_sending_and_nothing_else(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_merge, "WAITING_MAX", 200)
    await mesh.start("w1")
    await mesh.deploy(1)
    mesh.tell("count 3500")
    await mesh.read_until("number 003499 " + "x" * 1000)
    small = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
    async with grpc.aio.insecure_channel(mesh.address, options=small) as channel:
        call = LogServiceStub(channel).ReadLogs(mesh.request())
        await call.read()
        (_, of), *_ = mesh_reads(mesh)
        await until(lambda: not of.merge.has_room("w1"))
        # The worker's session goes on meanwhile.
        mesh.tell("said meanwhile")
        assert "said meanwhile" in (await mesh.read_until("said meanwhile", tail_lines=10)).messages
        assert len(of.merge._parts["w1"].lines) < 1000
        messages: list[str] = []
        while isinstance(response := await call.read(), ReadLogsResponse):
            messages += [entry.message for entry in response.entries]
    numbers = [int(message[7:13]) for message in messages if message.startswith("number")]
    assert numbers == list(range(3500))
    await until(lambda: not mesh_reads(mesh))


async def test_a_reader_that_leaves_ends_the_read_everywhere(mesh: Mesh) -> None:
    await mesh.start("w1")
    await mesh.deploy(1)
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        call = LogServiceStub(channel).ReadLogs(mesh.request(follow=True))
        await call.read()
        assert mesh.workers["w1"]._log_sender._reads == 1
        call.cancel()
        await until(lambda: not mesh.workers["w1"]._log_sender._reads)
    assert not mesh_reads(mesh)


async def test_a_worker_that_does_not_answer_is_named(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reads, "ANSWER_S", 0.5)
    await mesh.start("w1")
    await mesh.deploy(1)
    async with ScriptedWorker("mute", mesh.address) as mute:
        await mute.until(lambda: mute.connected)
        reader = await mesh.read_until()
    assert any("worker mute did not answer" in notice for notice in reader.notices)
    assert any(message.startswith("hatched") for message in reader.messages)


async def test_a_lost_worker_is_named_and_the_others_go_on(mesh: Mesh) -> None:
    await mesh.start("w1", "w2")
    await mesh.deploy(2)
    follower = await mesh.follow(tail_lines=0)
    mesh.tell("before")
    await until(lambda: follower.messages.count("before") == 2)
    await mesh.workers["w2"].stop()
    mesh.tell("after")
    await until(lambda: "after" in follower.messages)
    reader = await mesh.read_until("after")
    assert any("worker w2 is not connected" in notice for notice in reader.notices)


@asynccontextmanager
async def refused(code: grpc.StatusCode, text: str) -> AsyncIterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert caught.value.code() is code
    assert text in (caught.value.details() or "")


async def test_what_nobody_knows_is_refused_with_the_nearest_name(mesh: Mesh) -> None:
    await mesh.start("w1")
    await mesh.deploy(1)
    async with grpc.aio.insecure_channel(mesh.address) as channel:
        stub = LogServiceStub(channel)
        unknown: tuple[tuple[dict[str, Any], str], ...] = (
            ({"application": "ap"}, "did you mean 'app'?"),
            ({"deployment": "Parot"}, "did you mean 'Parrot'?"),
            ({"replica": "zzz"}, "known: app-Parrot-"),
        )
        for fields, text in unknown:
            async with refused(grpc.StatusCode.NOT_FOUND, text):
                await stub.ReadLogs(mesh.request(**fields)).read()
        wrong: tuple[tuple[dict[str, Any], str], ...] = (
            ({"application": ""}, "application"),
            ({"tail_lines": TAIL_LINES_MAX + 1}, "tail_lines"),
            ({"since": float("nan")}, "since"),
            ({"follow": True, "previous": True}, "previous"),
        )
        for fields, text in wrong:
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, text):
                await stub.ReadLogs(mesh.request(**fields)).read()


async def test_reads_are_bounded(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reads, "READS_MAX", 1)
    await mesh.start("w1")
    await mesh.deploy(1)
    follower = await mesh.follow()
    await until(lambda: follower.messages)
    async with (
        grpc.aio.insecure_channel(mesh.address) as channel,
        refused(grpc.StatusCode.ABORTED, "under way already"),
    ):
        await LogServiceStub(channel).ReadLogs(mesh.request()).read()


def mesh_reads(mesh: Mesh) -> list[tuple[log_reads.Feed, log_reads.Read]]:
    """What the control plane waits for now."""
    return list(mesh.control._log_reads._awaited.values())
