"""`mesh.testing` as its document shows it, and what it leaves behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mesh import testing
from mesh.errors import DeadlineExceeded
from tests.support.mesh_process import EXAMPLES, ROOT, environment, eventually

DOCUMENT = (ROOT / "docs" / "testing.md").read_text()
KILLED = """
import json, psutil, sys, time
from mesh import testing
with testing.serve("hello:app", working_dir=sys.argv[1]) as served:
    print(json.dumps([child.pid for child in psutil.Process().children(recursive=True)]), flush=True)
    time.sleep(60)
"""


@pytest.mark.long
@pytest.mark.timeout(180)
def test_the_tests_of_the_document_pass(tmp_path: Path) -> None:
    app, within, conftest, tests = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    for name, text in {
        "shop.py": app,
        "conftest.py": conftest,
        "test_shop.py": tests,
        "test_within.py": within,
        "pytest.ini": "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n",
    }.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


@pytest.mark.long
def test_a_test_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(
        "import mesh\n\n@mesh.deployment\ndef hello(request): ...\n\napp = hello.bind()\n"
    )
    test = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, env=environment())
    assert test.stdout is not None
    with test, test.stdout as said:
        pids = json.loads(said.readline())
        test.send_signal(signal.SIGKILL)
    assert len(pids) >= 2
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), what="all processes end", timeout=30)


@pytest.mark.long
def test_what_is_never_ready_is_given_up() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    served = testing.serve("slow:app", working_dir=EXAMPLES, startup_timeout_s=0.1)
    with pytest.raises(DeadlineExceeded, match=r"not ready after 0\.1 s"), served:
        pytest.fail("it is ready")
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
