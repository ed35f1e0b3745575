"""The keeper of `make bench-peers` leaves nothing behind."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
ORPHAN = """
import subprocess, sys, time
inner = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", inner], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print("orphan", child.pid, flush=True)
"""
"""Starts a process of another session that minds no SIGTERM, and is orphaned when its parent leaves."""
STAYS = [sys.executable, "-c", ORPHAN + "time.sleep(600)"]
LEAVES = [sys.executable, "-c", ORPHAN + "sys.exit(3)"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def keeper(log: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    asked = json.dumps({"commands": [request.param], "cwd": "/", "grace_s": 0.5})
    command = [sys.executable, "-m", "benchmarks.peers.keeper", asked]
    pipe = subprocess.PIPE
    with log.open("w") as said:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said, text=True, cwd=ROOT)
    with process:
        yield process
        process.kill()


def orphan(log: Path) -> int:
    """Wait until the orphan is up, and return its pid."""
    while not (said := log.read_text()).endswith("\n"):
        pass
    return int(said.split()[1])


@pytest.mark.parametrize("keeper", [STAYS], indirect=True)
def test_all_ends_when_the_owner_lets_go(keeper: subprocess.Popen[str], log: Path) -> None:
    pid = orphan(log)
    assert len(psutil.Process(keeper.pid).children(recursive=True)) == 2
    assert keeper.stdin is not None
    keeper.stdin.close()
    assert keeper.wait(60) == 0
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("keeper", [STAYS], indirect=True)
def test_all_ends_when_it_is_told_to(keeper: subprocess.Popen[str], log: Path) -> None:
    pid = orphan(log)
    keeper.terminate()
    assert keeper.wait(60) == 0
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("keeper", [LEAVES], indirect=True)
def test_when_a_command_ends_so_does_what_it_left(keeper: subprocess.Popen[str], log: Path) -> None:
    assert keeper.wait(60) == 1
    assert not psutil.pid_exists(orphan(log))
