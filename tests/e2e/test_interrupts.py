"""Ctrl-C and SIGTERM while meshctl still loads its code: it ends silently, wherever that finds it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.mesh_process import EXAMPLES, FREE_PORTS, command, environment

SIGNALLED = """\
import importlib.abc, os, sys

class AtImport(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, AtImport())
"""


def ended(module: str, number: signal.Signals, directory: Path, *args: str) -> tuple[int, str, str]:
    """Exit code and output of a command that gets a signal when it imports `module`."""
    (directory / "sitecustomize.py").write_text(SIGNALLED.format(module=module, number=int(number)))
    env = environment({"PYTHONPATH": str(directory)})
    done = subprocess.run(command(*args), cwd=EXAMPLES, env=env, capture_output=True, text=True, timeout=40)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "module", ["mesh.cli.commands", "typer", "mesh.cli.local", "grpc", "google.protobuf", "granian", "uvloop"]
)
def test_an_interrupt_while_run_loads_is_silent(module: str, tmp_path: Path) -> None:
    assert ended(module, signal.SIGINT, tmp_path, "run", "slow:app", *FREE_PORTS) == (130, "", "")


@pytest.mark.parametrize("module", ["mesh.cli.applications", "mesh.cli.client"])
def test_an_interrupt_while_a_client_loads_is_silent(module: str, tmp_path: Path) -> None:
    assert ended(module, signal.SIGINT, tmp_path, "status", "--address", "127.0.0.1:9") == (130, "", "")


@pytest.mark.parametrize("module", ["typer", "mesh.cli.local"])
def test_sigterm_while_run_loads_is_silent(module: str, tmp_path: Path) -> None:
    assert ended(module, signal.SIGTERM, tmp_path, "run", "slow:app", *FREE_PORTS) == (-signal.SIGTERM, "", "")
