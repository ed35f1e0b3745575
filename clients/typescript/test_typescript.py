"""The TypeScript client is built and calls meshes that serve the library, over gRPC and over HTTP.

Outside `tests`, because it needs node and npm: `make test-all` runs it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.library_example import served
from tests.support.mesh_process import MeshProcess

pytestmark = pytest.mark.timeout(300)
HERE = Path(__file__).parent
RUN_SECONDS = 120.0
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
TESTS = ("retry", "http", "grpc")


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """The client, compiled; a type error fails here."""
    for command in (("npm", "ci", "--no-progress"), ("npm", "run", "build")):
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[MeshProcess]:
    with served(tmp_path) as mesh:
        yield mesh


def node(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run node to its end; what it says is in `stdout`."""
    return subprocess.run(
        ("node", *args),
        cwd=HERE,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_SECONDS,
    )


def test_the_example_gets_the_right_answers(mesh: MeshProcess) -> None:
    done = node("dist/example/test.js", MESH_GRPC=mesh.grpc, MESH_HTTP=mesh.http)
    assert done.stdout.splitlines() == [f"ok {check}" for check in CHECKS]
    assert done.returncode == 0


def test_the_readme_shows_what_runs(mesh: MeshProcess) -> None:
    (shown,) = re.findall(r"```ts\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    assert shown == (HERE / "example" / "shelves.ts").read_text()
    done = node("dist/example/shelves.js", mesh.http, mesh.grpc)
    assert done.stdout.splitlines() == ["200 []", "NOT_FOUND there is no shelf 'shelves/none'", "shelves/new"]
    assert done.returncode == 0


def addresses(mesh: MeshProcess) -> str:
    return f"{mesh.http} {mesh.grpc} {mesh.admin}"


def one_at_a_time(directory: Path, **limits: int) -> Iterator[MeshProcess]:
    directory.mkdir()
    deployment = {"name": "Library", "num_replicas": 1, "max_ongoing_requests": 1, **limits}
    with served(directory, deployments=[deployment]) as mesh:
        yield mesh


@pytest.fixture
def full(tmp_path: Path) -> Iterator[MeshProcess]:
    """Runs one call and lets none wait."""
    yield from one_at_a_time(tmp_path / "full", max_queued_requests=0)


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[MeshProcess]:
    """Runs one call and lets many wait."""
    yield from one_at_a_time(tmp_path / "waiting", max_queued_requests=100)


def test_the_library_behaves_well_under_load(full: MeshProcess, waiting: MeshProcess) -> None:
    files = [f"dist/test/{name}.test.js" for name in TESTS]
    flags = ("--test", "--test-concurrency=1", "--test-reporter=tap")
    done = node(*flags, *files, MESH_FULL=addresses(full), MESH_WAITING=addresses(waiting))
    assert done.returncode == 0, done.stdout
    assert "# fail 0" in done.stdout and "# pass 0" not in done.stdout, done.stdout


def test_the_lock_names_no_registry() -> None:
    lock = (HERE / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity"' in lock
