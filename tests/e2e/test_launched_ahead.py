"""What `run` launches before it knows what for: nothing of it stays when it is not needed, or when `run` ends early."""

from __future__ import annotations

import contextlib
import signal
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.support.mesh_process import EXAMPLES, FREE_PORTS, MeshProcess, eventually

CODE = """
import os
import mesh

@mesh.deployment
class Mode:
    def __call__(self):
        return f"{os.environ['MODE']} in {os.getcwd()}"

app = Mode.bind()
"""
CONFIG = "applications:\n- {import_path: mode:app, runtime_env: {working_dir: code, env_vars: {MODE: fast}}}\n"


def modules(run: MeshProcess) -> list[str]:
    """The modules of mesh that its children run."""
    found = []
    for process in run.children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [word for word in process.cmdline() if word.startswith("mesh.worker.")]
    return sorted(found)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_they_end_with_a_run_that_never_served(number: signal.Signals) -> None:
    run = MeshProcess("run", "slow:app", *FREE_PORTS, cwd=EXAMPLES)
    try:
        eventually(lambda: modules(run), what="a build or a replica waits")
        run.signal(number)
        run.assert_gone()
    finally:
        run.kill()


def test_an_application_with_variables_of_its_own_gets_processes_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mode.py").write_text(CODE)
    (tmp_path / "mesh.yaml").write_text(CONFIG)
    with MeshProcess("run", "mesh.yaml", *FREE_PORTS, cwd=tmp_path) as run:
        with urllib.request.urlopen(run.http, timeout=10) as answer:
            assert answer.read().decode() == f"fast in {tmp_path / 'code'}"
        assert modules(run) == ["mesh.worker.replica"]


def test_an_application_without_runs_in_what_was_launched_ahead(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mode.py").write_text(CODE)
    with MeshProcess(
        "run", "mode:app", "--working-dir", "code", *FREE_PORTS, cwd=tmp_path, env={"MODE": "plain"}
    ) as run:
        with urllib.request.urlopen(run.http, timeout=10) as answer:
            assert answer.read().decode() == f"plain in {tmp_path / 'code'}"
        assert modules(run) == ["mesh.worker.replica"]
        watchdog, replica = sorted(run.children(), key=lambda process: "mesh.worker.replica" in process.cmdline())
        # The worker's first process is its watchdog.
        assert replica.create_time() < watchdog.create_time()
