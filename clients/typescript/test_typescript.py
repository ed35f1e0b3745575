"""The TypeScript client is built and calls a library that a mesh serves, over gRPC and over HTTP.

Outside `tests`, because it needs node and npm: `make test-all` runs it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.library_example import served
from tests.support.mesh_process import MeshProcess

pytestmark = pytest.mark.timeout(300)
HERE = Path(__file__).parent
RUN_SECONDS = 60.0
CHECKS = (
    "grpc unary",
    "grpc client streaming",
    "grpc server streaming",
    "grpc bidirectional streaming",
    "grpc status, message and details",
    "grpc deadline",
    "grpc cancellation",
    "connect unary",
    "connect error with details",
    "connect error for an unknown field",
)


@pytest.fixture(scope="module")
def built() -> None:
    """The client, compiled; a type error fails here."""
    for command in (("npm", "ci", "--no-progress"), ("npm", "run", "build")):
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[MeshProcess]:
    with served(tmp_path) as mesh:
        yield mesh


@pytest.mark.usefixtures("built")
def test_the_client_gets_the_right_answers(mesh: MeshProcess) -> None:
    done = subprocess.run(
        ("node", "dist/test.js"),
        cwd=HERE,
        env={**os.environ, "MESH_GRPC": mesh.grpc, "MESH_HTTP": mesh.http},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert done.stdout.splitlines() == [f"ok {check}" for check in CHECKS]
    assert done.returncode == 0


def test_the_lock_names_no_registry() -> None:
    lock = (HERE / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity"' in lock
