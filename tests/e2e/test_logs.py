"""`meshctl logs` against a mesh that really runs."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cluster import get, served
from tests.support.mesh_process import MeshProcess, command, environment, eventually

pytestmark = pytest.mark.long

CODE = """
import logging
import os

import mesh


@mesh.deployment
class Echo:
    async def __call__(self, request):
        said = request.query_params.get("say", "one")
        if said == "die":
            os._exit(3)
        print("printed", said)
        logging.getLogger("echo").info("logged %s", said)
        return said


app = Echo.bind()
"""
CONFIG = """
applications:
- {name: echo, import_path: "echo:app", runtime_env: {working_dir: .}}
"""


def test_logs(mesh: MeshProcess, write: Callable[[str, str], Path]) -> None:
    write("echo.py", CODE)
    deployed = mesh.meshctl("deploy", str(write("mesh.yaml", CONFIG)))
    assert deployed.code == 0, deployed.stderr
    answer = served(f"{mesh.http}/")
    request_id = answer.headers["x-request-id"]

    def lines(*args: str) -> list[str]:
        done = mesh.meshctl("logs", "echo", *args)
        assert done.code == 0, done.stderr
        return done.stdout.splitlines()

    eventually(lambda: any("logged one" in line for line in lines()), what="the line is kept")
    (line,) = lines("Echo", "--request-id", request_id, "-o", "json")
    logged = json.loads(line)
    assert (logged["message"], logged["level"], logged["request_id"]) == ("logged one", "INFO", request_id)
    assert lines("--since", "2100-01-01T00:00:00Z") == []

    followed = subprocess.Popen(
        command("logs", "echo", "-f", "--tail", "1", "--address", mesh.control),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert followed.stdout is not None
        # It follows once it has written the last line there was.
        assert "INFO logged one" in followed.stdout.readline()
        get(f"{mesh.http}/", say="two")
        assert followed.stdout.readline().endswith(" printed two\n")
        assert "INFO logged two" in followed.stdout.readline()
        get(f"{mesh.http}/", say="die")
        assert followed.stdout.readline().endswith("(the process exited with code 3)\n")
        followed.send_signal(signal.SIGINT)
        rest, errors = followed.communicate(timeout=20)
        assert (followed.returncode, errors) == (130, ""), rest
    finally:
        followed.kill()
        followed.communicate()
    assert lines("--previous", "--tail", "1")[0].endswith("(the process exited with code 3)")

    piped = f"{' '.join(command('logs', 'echo', '--address', mesh.control))} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], env=environment(), capture_output=True, text=True, timeout=30)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("0", "")
    wrong = mesh.meshctl("logs", "ecco")
    assert (wrong.code, wrong.stdout) == (3, "")
    assert "there is no application 'ecco'; did you mean 'echo'?" in wrong.stderr
