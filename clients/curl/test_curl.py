"""run.sh calls a library that a mesh serves, and gets the answers that the README shows.

Outside `tests`, because it needs curl: `make test-all` runs it.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.library_example import served

pytestmark = pytest.mark.timeout(120)
HERE = Path(__file__).parent
RUN_SECONDS = 60.0


def steady(text: str) -> list[str]:
    """Return the lines of a text without what differs from run to run."""
    return re.sub(r'(?<="request_id": ")\w+', "ID", text).rstrip("\n").split("\n")


def test_the_answers_are_those_of_the_readme(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```console\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    with served(tmp_path) as mesh:
        address = mesh.http.removeprefix("http://")
        done = subprocess.run(["sh", "run.sh", address], cwd=HERE, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert done.stderr == ""
    assert steady(done.stdout) == steady(shown)
    assert done.returncode == 0
