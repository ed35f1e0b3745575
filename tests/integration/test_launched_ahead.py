"""Builds and replicas that were launched before anybody knew what for: code that runs in them cannot tell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mesh import wire
from mesh.clock import SYSTEM
from mesh.model import ApplicationConfig, RuntimeEnv
from mesh.settings import WorkerSettings
from mesh.v1 import deployment_pb2
from mesh.worker.ahead import Ahead
from mesh.worker.process import Child
from mesh.worker.server import Worker
from mesh.worker.spawn import BUILD, REPLICA, Launch
from mesh.worker.watchdog import Watchdog
from tests.support.mesh_process import eventually

TELLS = """
import ctypes, json, os, signal, sys, threading
import mesh

def descriptors():
    for fd in os.listdir("/proc/self/fd"):
        try:
            yield int(fd), os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
        except OSError:
            pass

bond = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(bond))
status = sys.argv.index("--status-fd") + 1
print(json.dumps({
    "cwd": os.getcwd(),
    "argv": [*sys.argv[:status], *sys.argv[status + 1:]],
    "original": [*sys.orig_argv[:5]],
    "path": sys.path,
    "environment": dict(os.environ),
    "leads": os.getpid() == os.getsid(0) == os.getpgrp(),
    "parent": os.getppid(),
    "bond": bond.value,
    "descriptors": sorted(target for fd, target in descriptors() if fd != int(sys.argv[status])),
    "stdin": os.readlink("/proc/self/fd/0"),
    "ignored": sorted(s for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN),
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "threads": sorted(thread.name for thread in threading.enumerate()),
    "modules": sorted(sys.modules),
}))

@mesh.deployment
class Tells:
    def __call__(self):
        return "told"

app = Tells.bind()
"""


@pytest.fixture
def ahead() -> Iterator[Ahead]:
    with Ahead() as ahead:
        yield ahead


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    watchdog.start()
    yield watchdog
    watchdog.stop()


def waiting() -> dict[str, psutil.Process]:
    """The build and the replica that wait, by module. A process shows its command a moment after it was started."""
    found: dict[str, psutil.Process] = {}

    def both() -> bool:
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found.update({module: process for module in (BUILD, REPLICA) if module in process.cmdline()})
        return len(found) == 2

    eventually(both, what="a build and a replica wait")
    return found


def build_of(directory: Path, **changed: Any) -> Launch:
    """What a worker would launch to build what is in `directory`."""
    (directory / "tells.py").write_text(TELLS)
    env = RuntimeEnv(working_dir=str(directory))
    config = ApplicationConfig("tells", import_path="tells:app", runtime_env=env)
    payload = wire.to_proto(config, deployment_pb2.ApplicationConfig).SerializeToString()
    return Launch(BUILD, payload, **{"working_dir": str(directory), **changed})


async def built(launch: Launch, watchdog: Watchdog, ahead: Ahead | None) -> tuple[int, str, bytes]:
    """Run a build; return its process id, what it printed and what it said."""
    printed, said = bytearray(), bytearray()
    child = Child(launch, watchdog, ahead, on_output=printed.extend, on_status=said.extend)
    try:
        assert await child.wait() == "exited with code 0", printed.decode()
    finally:
        await child.close()
    return child.pid, printed.decode(), bytes(said)


async def test_code_sees_no_difference(ahead: Ahead, watchdog: Watchdog, tmp_path: Path) -> None:
    ahead.launch("127.0.0.1")
    launched = waiting()[BUILD].pid
    pid, told, said = await built(build_of(tmp_path), watchdog, ahead)
    assert pid == launched
    assert len(ahead) == 1
    assert json.loads(told)["cwd"] == str(tmp_path)
    other, told_anew, said_anew = await built(build_of(tmp_path), watchdog, ahead)
    assert other != launched
    assert json.loads(told) == json.loads(told_anew)
    assert said == said_anew


async def test_one_that_died_is_replaced(ahead: Ahead, watchdog: Watchdog, tmp_path: Path) -> None:
    ahead.launch("127.0.0.1")
    dead = waiting()[BUILD]
    dead.kill()
    # Not reaped: that is for whoever started it.
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    pid, _, said = await built(build_of(tmp_path), watchdog, ahead)
    assert pid != dead.pid
    assert b"Tells" in said
    assert not dead.is_running()


async def test_what_needs_another_environment_is_launched_in_it(
    ahead: Ahead, watchdog: Watchdog, tmp_path: Path
) -> None:
    ahead.launch("127.0.0.1")
    _, told, _ = await built(build_of(tmp_path, env_vars={"MODE": "fast"}), watchdog, ahead)
    assert json.loads(told)["environment"]["MODE"] == "fast"
    assert set(waiting()) == {BUILD, REPLICA}


def test_one_for_another_interpreter_is_not_taken(ahead: Ahead, tmp_path: Path) -> None:
    ahead.launch("127.0.0.1")
    assert ahead.take(build_of(tmp_path, python=sys.executable)) is None


def test_a_directory_that_is_missing_is_for_a_launch_to_tell(ahead: Ahead, tmp_path: Path) -> None:
    ahead.launch("127.0.0.1")
    assert ahead.take(build_of(tmp_path, working_dir=str(tmp_path / "missing"))) is None


def test_what_is_not_taken_is_ended(ahead: Ahead) -> None:
    ahead.launch("127.0.0.1")
    processes = waiting()
    assert set(processes) == {BUILD, REPLICA}
    ahead.close()
    assert not any(process.is_running() for process in processes.values())
    assert len(ahead) == 0


async def test_what_nothing_is_found_for_is_ended_after_a_time(ahead: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.worker.server.UNUSED_S", 0.0)
    ahead.launch("127.0.0.1")
    processes = waiting()
    worker = Worker(WorkerSettings(control=("127.0.0.1:1",)), SYSTEM, ahead)
    await worker.start()
    try:
        async with asyncio.timeout(10):
            while any(process.is_running() for process in processes.values()):
                await asyncio.sleep(0.01)
    finally:
        await worker.stop()
