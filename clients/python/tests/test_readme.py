"""The code of the README runs, and prints what stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.library_example import LIBRARY, served
from tests.support.mesh_process import environment

pytestmark = pytest.mark.timeout(120)
README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_code_of_the_readme(tmp_path: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    shown = README.rpartition("```\n")[0].rpartition("```\n")[2]
    with served(tmp_path) as mesh:
        ports = {"http://127.0.0.1:8000": mesh.http, "127.0.0.1:9000": mesh.grpc, "127.0.0.1:7070": mesh.control}
        for usual, real in ports.items():
            code = code.replace(usual, real)
        command = [sys.executable, "-W", "error", "-c", code]
        env = environment({"NO_PROXY": "*"})
        done = subprocess.run(command, cwd=LIBRARY, env=env, capture_output=True, text=True, timeout=90)
    assert done.stderr == ""
    assert done.stdout == shown
