"""Changes of what runs, through meshctl: what fails is rolled back, and the commands on revisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.mesh_process import MeshProcess, Result, eventually

Write = Callable[[str, str], Path]

pytestmark = pytest.mark.long

GOOD = """\
import os

import mesh
from starlette.requests import Request


@mesh.deployment
class Echo:
    def __init__(self):
        self.rate = 1
{hook}
    async def __call__(self, request: Request) -> str:
        return "{answer}"


app = Echo.bind()
"""
CONFIG = """\
applications:
- name: echo
  route_prefix: /echo
  import_path: {code}:app
  runtime_env: {{working_dir: .}}
  deployments:
  - {{name: Echo{options}}}
"""
UNHEALTHY = "    def check_health(self):\n        raise RuntimeError('never well')\n"
ENDS = """\
        import fcntl
        # One at a time is ready, so that the revision never is, however late each end is told.
        self.turn = open(__file__)
        fcntl.flock(self.turn, fcntl.LOCK_EX)
        self.checks = 0

    def check_health(self):
        self.checks += 1
        if self.checks == 2:  # the first one is before it is ready
            os._exit(7)
"""
BROKEN = {
    "import": ("raise RuntimeError('at import')\n", "", 'broken.py", line 1, in <module>', "RuntimeError: at import"),
    "constructor": (
        GOOD.format(hook="        1 / 0\n", answer="x"),
        "",
        'broken.py", line 11, in __init__',
        "ZeroDivisionError: division by zero",
    ),
    "health": (
        GOOD.format(hook=UNHEALTHY, answer="x"),
        ", startup_timeout_s: 8",
        "applications[0].deployments[0]",
        "RuntimeError: never well",
    ),
    "later": (
        GOOD.format(hook=ENDS, answer="x"),
        ", num_replicas: 2, health_check_period_s: 0.1",
        "ended 3 times after it was ready",
        "exited with code 7",
    ),
    "reconfigure": (
        GOOD.format(hook="    def reconfigure(self, config):\n        self.rate = config['rate']\n", answer="x"),
        ", user_config: {}",
        'broken.py", line 12, in reconfigure',
        "KeyError: 'rate'",
    ),
}


class Echo:
    """One application and the directory of its code."""

    def __init__(self, mesh: MeshProcess, write: Write) -> None:
        self.mesh = mesh
        self.write = write

    def deploy(self, code: str, *flags: str, options: str = "") -> Result:
        path = self.write("mesh.yaml", CONFIG.format(code=code, options=options))
        return self.mesh.meshctl("deploy", "mesh.yaml", *flags, cwd=path.parent, timeout=90)

    def run(self, *args: str) -> Result:
        done = self.mesh.meshctl(*args)
        assert done.code == 0, done.stderr
        return done

    def answer(self) -> str:
        with httpx.Client(trust_env=False, timeout=20) as client:
            answer = client.get(f"{self.mesh.http}/echo")
            assert answer.status_code == 200, answer.text
            return answer.text

    def history(self) -> list[tuple[int, str, str]]:
        revisions = self.run("history", "echo", "-o", "json").json()["revisions"]
        return [(r["revision"], r["outcome"], r["cause"]) for r in revisions]

    def pids(self) -> set[int]:
        (application,) = self.run("status", "-o", "json").json()["applications"]
        return {r["status"]["pid"] for d in application["deployments"] for r in d["replicas"]}


@pytest.fixture
def echo(mesh: MeshProcess, write: Write) -> Echo:
    """An application that runs."""
    write("first.py", GOOD.format(hook="", answer="first"))
    write("second.py", GOOD.format(hook="", answer="second"))
    result = Echo(mesh, write)
    done = result.deploy("first")
    assert done.code == 0, done.stderr
    return result


@pytest.mark.parametrize("what", list(BROKEN))
def test_a_revision_that_fails_is_rolled_back(echo: Echo, what: str) -> None:
    code, options, *told = BROKEN[what]
    before = echo.pids()
    echo.write("broken.py", code)
    failed = echo.deploy("broken", options=options)
    assert failed.code == 7, failed.stderr
    end = "revision 2 failed and was rolled back to revision 1"
    for text in (*told, f"\necho: {end}\n", f"\n  why: {end}\n", "error: mesh.yaml:"):
        assert text in failed.stderr, failed.stderr
    assert echo.answer() == "first"
    eventually(lambda: echo.pids() == before, what="only what served before runs")
    assert echo.history() == [(2, "FAILED", "DEPLOY"), (1, "SERVING", "DEPLOY")]


def test_a_revision_that_fails_may_be_held(echo: Echo) -> None:
    before = echo.pids()
    echo.write("broken.py", BROKEN["constructor"][0])
    failed = echo.deploy("broken", "--no-rollback")
    assert failed.code == 7, failed.stderr
    assert "  why: revision 2 failed and is held beside revision 1\n" in failed.stderr
    assert len(echo.pids()) == 2 and echo.answer() == "first"
    echo.run("rollback", "echo", "--to", "1")
    eventually(lambda: echo.pids() == before, what="what was held is gone")


def test_commands_on_revisions(echo: Echo) -> None:
    dry = echo.deploy("second", "--dry-run", "-o", "json")
    assert dry.code == 0 and dry.json()["applications"][0]["change"] == "UPDATED"
    assert echo.answer() == "first"
    assert echo.deploy("second").code == 0
    assert echo.answer() == "second"
    echo.run("rollback", "echo")
    assert echo.answer() == "first"
    echo.run("scale", "echo", "Echo=2")
    eventually(lambda: len(echo.pids()) == 2, what="only those of the revision that serves are left")
    before = echo.pids()
    assert "num_replicas: 2" in echo.run("config").stdout
    echo.run("restart", "echo", "Echo")
    eventually(lambda: len(echo.pids()) == 2 and echo.pids().isdisjoint(before), what="both are new")
    assert [(r, cause) for r, _, cause in echo.history()] == [
        (5, "RESTART"),
        (4, "SCALE"),
        (3, "ROLLBACK"),
        (2, "DEPLOY"),
        (1, "DEPLOY"),
    ]
    missing = echo.mesh.meshctl("rollback", "echo", "--to", "9")
    assert (missing.code, "no revision 9" in missing.stderr) == (3, True)


def test_two_deploys_at_once_and_a_pause(echo: Echo, tmp_path: Path) -> None:
    go = Path(f"{tmp_path}-go")
    hook = f"        import time\n        while not os.path.exists({str(go)!r}):\n            time.sleep(0.01)\n"
    echo.write("held.py", GOOD.format(hook=hook, answer="held"))
    echo.run("pause", "echo")
    assert echo.deploy("held", "--no-wait").code == 0
    status = echo.run("status", "echo").stdout
    assert "paused on the way to revision 2" in status and echo.answer() == "first"
    echo.run("resume", "echo", "--no-wait")
    third = echo.deploy("first", "--no-wait")
    assert third.code == 4, third.stderr
    assert "application 'echo' is on its way to revision 2" in third.stderr and "--supersede" in third.stderr
    go.touch()
    waited = echo.deploy("first")
    assert waited.code == 0, waited.stderr
    assert echo.answer() == "first"
    assert echo.history()[:2] == [(3, "SERVING", "DEPLOY"), (2, "REPLACED", "DEPLOY")]
