"""The TypeScript client is built and calls a library that runs.

Outside `tests`, because it needs node and npm: `make test-all` runs it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.support.library_example import plain_server, servicer

pytestmark = pytest.mark.timeout(300)
HERE = Path(__file__).parent
RUN_SECONDS = 60.0
GRPC_CHECKS = (
    "grpc unary",
    "grpc client streaming",
    "grpc server streaming",
    "grpc bidirectional streaming",
    "grpc status, message and details",
    "grpc deadline",
    "grpc cancellation",
)
HTTP_CHECKS = ("connect unary", "connect error with details", "connect error for an unknown field")


@pytest.fixture(scope="module")
def built() -> None:
    """The client, compiled; a type error fails here."""
    for command in (("npm", "ci", "--no-progress"), ("npm", "run", "build")):
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
async def addresses() -> AsyncIterator[Mapping[str, str]]:
    """Where the library is served, as the client's variables: MESH_GRPC, MESH_HTTP or both."""
    async with plain_server(servicer()) as address:
        yield {"MESH_GRPC": address}


@pytest.mark.usefixtures("built")
async def test_the_client_gets_the_right_answers(addresses: Mapping[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        "node",
        "dist/test.js",
        cwd=HERE,
        env={**os.environ, **addresses},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), RUN_SECONDS)
    checks = (GRPC_CHECKS if "MESH_GRPC" in addresses else ()) + (HTTP_CHECKS if "MESH_HTTP" in addresses else ())
    assert said.decode().splitlines() == [f"ok {check}" for check in checks]
    assert process.returncode == 0


def test_the_lock_names_no_registry() -> None:
    lock = (HERE / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity"' in lock
