"""How a worker ends, and a replica that somebody told to end: real processes, a scripted control plane."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.clock import SYSTEM
from mesh.lifecycle import Tasks
from mesh.model import ReplicaState
from mesh.settings import WorkerSettings
from mesh.worker.server import Worker
from tests.integration.test_worker import Code
from tests.support.scripted_control_plane import WAIT_SECONDS, ControlPlane, WorkerSession

STARTING, READY = ReplicaState.STARTING, ReplicaState.READY
DRAINING, STOPPED = ReplicaState.DRAINING, ReplicaState.STOPPED


@pytest.fixture
def code(tmp_path: Path) -> Code:
    return Code(tmp_path)


@pytest.fixture
async def control() -> AsyncIterator[ControlPlane]:
    async with ControlPlane() as control_plane:
        yield control_plane


@pytest.fixture
async def worker(control: ControlPlane) -> AsyncIterator[Worker]:
    """One that waits for its replicas to be replaced, for as long as they need."""
    started = Worker(WorkerSettings(worker_id="w1", control=(control.address,)), SYSTEM)
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
async def session(control: ControlPlane, worker: Worker) -> WorkerSession:
    return await control.session()


async def ended(worker: Worker) -> asyncio.Task[None]:
    """Tell the worker to end."""
    return Tasks().spawn(worker.drain(), name="drain")


async def test_replicas_serve_on_until_they_are_replaced(worker: Worker, session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec(), code.spec(replica_id="r2"))
    await session.until_state("r1", READY)
    await session.until_state("r2", READY)
    draining = await ended(worker)
    await session.until(lambda: "draining" in session.seen)
    await session.assign(2, code.spec(replica_id="r2"))
    await session.until_state("r1", STOPPED)
    assert session.statuses["r2"].state is READY
    assert not draining.done()
    await session.assign(3)
    async with asyncio.timeout(WAIT_SECONDS):
        await draining
        await session.over.wait()
    assert session.seen[-1] == "leaving"
    assert {status.state for status in session.statuses.values()} == {STOPPED}


async def test_with_no_room_elsewhere_it_drains_what_is_left(
    worker: Worker, session: WorkerSession, code: Code
) -> None:
    await session.assign(1, code.spec())
    await session.until_state("r1", READY)
    draining = await ended(worker)
    await session.until(lambda: "draining" in session.seen)
    await session.assign(2, code.spec(), no_room_elsewhere=True)
    async with asyncio.timeout(WAIT_SECONDS):
        await draining
        await session.over.wait()
    assert session.states["r1"][-2:] == [DRAINING, STOPPED]


async def test_a_leader_that_comes_later_is_told_as_well(
    worker: Worker, session: WorkerSession, control: ControlPlane, code: Code
) -> None:
    await session.assign(1, code.spec())
    await session.until_state("r1", READY)
    draining = await ended(worker)
    await session.until(lambda: "draining" in session.seen)
    session.hang_up()
    again = await control.session()
    assert again.hello.draining
    assert again.statuses["r1"].state is READY
    await again.assign(1, epoch=2)
    async with asyncio.timeout(WAIT_SECONDS):
        await draining


async def test_without_anything_to_run_or_anybody_to_tell_it_ends_soon(
    worker: Worker, session: WorkerSession, control: ControlPlane, code: Code
) -> None:
    await session.assign(1, code.spec())
    await session.until_state("r1", READY)
    await control.stop()
    async with asyncio.timeout(WAIT_SECONDS):
        await worker.drain()
    assert {status.state for status in worker.replicas} == {STOPPED}


async def test_a_withdrawn_replica_goes_on_until_it_is_not_named(session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec(), code.spec(replica_id="r2"))
    first = await session.until_state("r1", READY)
    await session.until_state("r2", READY)
    await session.assign(2, withdrawn=["r1"])
    await session.until_state("r2", STOPPED)
    assert session.statuses["r1"] == first
    await session.assign(3)
    await session.until_state("r1", STOPPED)


async def test_a_replica_that_is_told_to_end_by_somebody_else_is_no_crash(session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec())
    first = await session.until_state("r1", READY)
    os.kill(first.pid, signal.SIGTERM)
    await session.until(lambda: session.statuses["r1"].pid not in (0, first.pid))
    second = await session.until_state("r1", READY)
    assert (second.crashes, second.failed_starts, second.failure) == (0, 0, None)
    assert STOPPED not in session.states["r1"]
