"""What the end-to-end tests share: a mesh that really runs, and a place for user code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mesh_process import FREE_PORTS, MeshProcess


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcess]:
    """A whole mesh in one process tree, without applications; one for all tests of a module."""
    directory = tmp_path_factory.mktemp("start")
    with MeshProcess("start", "--data-dir", str(directory / "data"), *FREE_PORTS, cwd=directory) as process:
        yield process


@pytest.fixture
def mesh(started: MeshProcess) -> Iterator[MeshProcess]:
    """The module's mesh, again without applications when the test ends."""
    yield started
    done = started.meshctl("shutdown", "-y")
    assert done.code == 0, done.stderr


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a file of this test: user code or a config."""

    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return written
