"""A worker that is killed takes every process with it; one that is asked to end drains."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from mesh.model import ApplicationConfig, ReplicaSpec, ReplicaState, RuntimeEnv
from tests.support.scripted_control_plane import WAIT_SECONDS, ControlPlane, WorkerSession

SERVED = """
import os, signal, subprocess
import mesh

for command in (["sleep", "1000"], ["sh", "-c", "sleep 1000 & sleep 1000"]):
    child = subprocess.Popen(command, start_new_session=False)
open("children", "w").write(str(child.pid))

@mesh.deployment
class Hello:
    def __call__(self):
        return "Hello!"

app = Hello.bind()
"""
HANGS = "import subprocess\nsubprocess.run(['sleep', '1000'])\n"


@pytest.fixture
async def control() -> AsyncIterator[ControlPlane]:
    async with ControlPlane() as control_plane:
        yield control_plane


@pytest.fixture
async def worker(control: ControlPlane) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.worker_process", control.address, stderr=asyncio.subprocess.DEVNULL
    )
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()


def config(directory: Path, source: str, name: str) -> ApplicationConfig:
    (directory / f"{name}.py").write_text(source)
    return ApplicationConfig(name, import_path=f"{name}:app", runtime_env=RuntimeEnv(working_dir=str(directory)))


def spec(directory: Path) -> ReplicaSpec:
    return ReplicaSpec("r1", "served", "Hello", config=config(directory, SERVED, "served"))


def tree(pid: int) -> list[psutil.Process]:
    """All descendants of a process."""
    return psutil.Process(pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[str]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


async def until_gone(processes: list[psutil.Process]) -> None:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while alive(processes):
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"still there: {alive(processes)}") from None


async def until_running(session: WorkerSession, worker: asyncio.subprocess.Process, directory: Path) -> None:
    """A replica with children of its own and a build with one run."""
    await session.assign(1, spec(directory))
    await session.until_state("r1", ReplicaState.READY)
    await session.ask_build("b1", config(directory, HANGS, "hangs"), timeout_s=60.0)
    async with asyncio.timeout(WAIT_SECONDS):
        # Watchdog, replica with sleep and sh with two sleeps, build with sleep.
        while [p.name() for p in tree(worker.pid)].count("sleep") < 4:
            await asyncio.sleep(0.01)


async def test_kill_9_leaves_nothing(control: ControlPlane, worker: asyncio.subprocess.Process, tmp_path: Path) -> None:
    session = await control.session()
    await until_running(session, worker, tmp_path)
    processes = tree(worker.pid)
    assert len(processes) >= 8
    worker.kill()
    await worker.wait()
    await until_gone(processes)


async def test_a_second_signal_leaves_nothing(
    control: ControlPlane, worker: asyncio.subprocess.Process, tmp_path: Path
) -> None:
    session = await control.session()
    await until_running(session, worker, tmp_path)
    processes = tree(worker.pid)
    replica = psutil.Process(session.statuses["r1"].pid)
    replica.suspend()
    worker.terminate()
    await session.until_state("r1", ReplicaState.DRAINING)
    worker.send_signal(signal.SIGINT)
    assert await worker.wait() == 130
    await until_gone(processes)


async def test_a_watchdog_that_is_killed_is_replaced(
    control: ControlPlane, worker: asyncio.subprocess.Process, tmp_path: Path
) -> None:
    session = await control.session()
    (watchdog,) = tree(worker.pid)
    os.kill(watchdog.pid, signal.SIGKILL)
    await until_running(session, worker, tmp_path)
    processes = tree(worker.pid)
    worker.kill()
    await worker.wait()
    await until_gone(processes)


async def test_asked_to_end_it_drains_and_takes_leave(
    control: ControlPlane, worker: asyncio.subprocess.Process, tmp_path: Path
) -> None:
    session = await control.session()
    await until_running(session, worker, tmp_path)
    processes = tree(worker.pid)
    worker.terminate()
    assert await worker.wait() == 0
    assert session.seen[-1] == "leaving"
    assert session.statuses["r1"].state is ReplicaState.STOPPED
    await until_gone(processes)
