"""Health of real replicas under a real worker, against a scripted control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mesh.clock import SYSTEM
from mesh.model import ReplicaState, ReplicaStatus
from mesh.reasons import Reason
from mesh.settings import WorkerSettings
from mesh.worker.server import Worker
from tests.support.frozen import freeze
from tests.support.scripted_control_plane import ControlPlane, WorkerSession
from tests.support.worker_code import Code

STARTING, READY, BACKOFF = ReplicaState.STARTING, ReplicaState.READY, ReplicaState.BACKOFF
CALL = """
def __call__(self):
    return "Hello!"
"""
QUICK: dict[str, Any] = {"health_check_period_s": 0.1, "health_check_timeout_s": 0.5}
"""Failing checks are what the test is about."""


@pytest.fixture
def code(tmp_path: Path) -> Code:
    return Code(tmp_path)


@pytest.fixture
async def session() -> AsyncIterator[WorkerSession]:
    async with ControlPlane() as control:
        worker = Worker(WorkerSettings(worker_id="w1", control=(control.address,)), SYSTEM)
        await worker.start()
        try:
            yield await control.session()
        finally:
            await worker.stop()


async def replaced(session: WorkerSession, first: ReplicaStatus) -> ReplicaStatus:
    """Wait until the replica was found unhealthy, and another process is ready. Returns the status in between."""
    await session.until(lambda: session.statuses["r1"].crashes == 1)
    between = session.statuses["r1"]
    assert between.last_failure is not None
    assert between.last_failure.reason is Reason.HEALTH_CHECK_FAILED
    assert (await session.until_state("r1", READY)).pid != first.pid
    assert not psutil.pid_exists(first.pid)
    return between


SICK_ON_DEMAND = """
def check_health(self):
    assert threading.current_thread() is not threading.main_thread()
    if (HERE / "sick").exists() and os.getpid() == int((HERE / "sick").read_text()):
        raise ValueError("no database")
"""
SICK_ON_DEMAND_ASYNC = """
async def check_health(self):
    await asyncio.sleep(0)
    assert threading.current_thread() is threading.main_thread()
    if (HERE / "sick").exists() and os.getpid() == int((HERE / "sick").read_text()):
        raise ValueError("no database")
"""


@pytest.mark.parametrize("hook", [SICK_ON_DEMAND, SICK_ON_DEMAND_ASYNC], ids=["sync", "async"])
async def test_what_check_health_raises_replaces_the_replica_and_is_told_with_its_place(
    session: WorkerSession, code: Code, hook: str
) -> None:
    await session.assign(1, code.spec(CALL + hook, health_check_failure_threshold=2, **QUICK))
    first = await session.until_state("r1", READY)
    assert first.reason is Reason.READY
    (code.directory / "sick").write_text(str(first.pid))
    await session.until(lambda: session.statuses["r1"].reason is Reason.HEALTH_CHECK_FAILED)
    between = await replaced(session, first)
    assert between.last_failure is not None
    where = f"served.py:{code.line('raise ValueError')}"
    text = f"failed 2 health checks in a row: check_health raised ValueError: no database ({where})"
    assert between.last_failure.message == text
    assert "raise ValueError" in between.last_failure.details


async def test_it_is_ready_only_after_its_first_check_has_passed(session: WorkerSession, code: Code) -> None:
    hook = """
def check_health(self):
    if not (HERE / "warm").exists():
        raise RuntimeError("still loading")
"""
    await session.assign(1, code.spec(CALL + hook, health_check_period_s=0.1))
    await session.until(
        lambda: "r1" in session.statuses and session.statuses["r1"].reason is Reason.HEALTH_CHECK_FAILED
    )
    waiting = session.statuses["r1"]
    assert (waiting.state, waiting.address) == (STARTING, "")
    assert "not healthy yet: check_health raised RuntimeError: still loading (served.py:" in waiting.message
    (code.directory / "warm").touch()
    ready = await session.until_state("r1", READY)
    assert (ready.pid, ready.reason, ready.failed_starts) == (waiting.pid, Reason.READY, 0)


async def test_a_replica_that_is_never_healthy_is_a_failed_start(session: WorkerSession, code: Code) -> None:
    hook = """
async def check_health(self):
    raise RuntimeError("no model")
"""
    await session.assign(1, code.spec(CALL + hook, health_check_period_s=0.1, startup_timeout_s=3.0))
    paused = await session.until_state("r1", BACKOFF)
    assert READY not in session.states["r1"]
    assert (paused.reason, paused.failed_starts) == (Reason.STARTUP_TIMEOUT, 1)
    assert paused.next_start_at > paused.since
    assert paused.failure is not None
    assert "not ready within 3 s of its start: check_health raised RuntimeError: no model" in paused.failure.message
    assert "no model" in paused.failure.details


HANGS = {
    "sync-hook": """
def check_health(self):
    if (HERE / "hang").exists():
        (HERE / "hang").unlink()
        time.sleep(1000)
""",
    "async-hook": """
async def check_health(self):
    if (HERE / "hang").exists() and int((HERE / "hang").read_text()) == os.getpid():
        await asyncio.sleep(1000)
""",
    "event-loop": """
async def check_health(self):
    if (HERE / "hang").exists():
        (HERE / "hang").unlink()
        time.sleep(1000)
""",
    "interpreter-lock": """
def check_health(self):
    if (HERE / "hang").exists():
        (HERE / "hang").unlink()
        ctypes.PyDLL(None).sleep(1000)
""",
}


@pytest.mark.parametrize("kind", HANGS)
async def test_what_hangs_is_found_and_replaced(session: WorkerSession, code: Code, kind: str) -> None:
    await session.assign(1, code.spec(CALL + HANGS[kind], health_check_failure_threshold=2, **QUICK))
    first = await session.until_state("r1", READY)
    (code.directory / "hang").write_text(str(first.pid))
    between = await replaced(session, first)
    assert between.last_failure is not None
    assert "no answer within 0.5 s" in between.last_failure.message


async def test_a_replica_that_is_stopped_is_found_and_replaced(session: WorkerSession, code: Code) -> None:
    await session.assign(1, code.spec(CALL, health_check_failure_threshold=2, **QUICK))
    first = await session.until_state("r1", READY)
    freeze(first.pid)
    await replaced(session, first)


async def test_a_crash_is_told_with_what_it_printed_last(session: WorkerSession, code: Code) -> None:
    hook = """
def check_health(self):
    if (HERE / "crash").exists():
        (HERE / "crash").unlink()
        print("out of luck", flush=True)
        os._exit(7)
"""
    await session.assign(1, code.spec(CALL + hook, **QUICK))
    await session.until_state("r1", READY)
    (code.directory / "crash").touch()
    await session.until(lambda: session.statuses["r1"].crashes == 1)
    status = session.statuses["r1"]
    assert status.last_failure is not None and status.last_failure_at > 0
    assert status.last_failure.reason is Reason.CRASHED
    assert status.last_failure.message == "exited with code 7; it printed last: out of luck"
    assert status.last_failure.hint == "meshctl logs NAME has what it printed, also when the replica is gone"
