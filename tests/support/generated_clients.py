"""What the tests of `clients/go` and `clients/java` share: the commands of a README run, and a library that is full."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx

from tests.support.library_example import library_pb2, library_pb2_grpc, served
from tests.support.mesh_process import ROOT, MeshProcess

RUN_SECONDS = 240.0


def run(*command: str, cwd: Path, code: int = 0, **env: str) -> str:
    """Run a command to its end and return what it printed; fail the test unless it exits with `code`."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=RUN_SECONDS
    )
    assert done.returncode == code, f"{command} in {cwd}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def generate(readme: Path, at: Path) -> None:
    """Run the first `sh` block of a README at `at`, where it finds what it finds at the top of the project."""
    for name in ("clients", "examples", "protos"):
        (at / name).symlink_to(ROOT / name)
    commands = re.findall(r"```sh\n(.*?)```", readme.read_text(), re.DOTALL)[0]
    run("sh", "-euc", commands, cwd=at, PATH=f"{at}/bin:{ROOT}/.venv/bin:{os.environ['PATH']}")


def shown(readme: Path, language: str) -> str:
    """Return the one block of a README in a language."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", readme.read_text(), re.DOTALL)
    return str(block)


@contextlib.contextmanager
def small_library(directory: Path) -> Iterator[MeshProcess]:
    """Serve the library for one call at a time; none waits."""
    limits = {"name": "Library", "num_replicas": 1, "max_ongoing_requests": 1, "max_queued_requests": 0}
    with served(directory, deployments=[limits]) as mesh:
        yield mesh


@contextlib.contextmanager
def full(mesh: MeshProcess) -> Iterator[None]:
    """Take the one place of a small library."""
    requests: queue.SimpleQueue[library_pb2.SearchBooksRequest | None] = queue.SimpleQueue()
    with grpc.insecure_channel(mesh.grpc) as channel:
        answers = library_pb2_grpc.LibraryServiceStub(channel).SearchBooks(iter(requests.get, None))
        requests.put(library_pb2.SearchBooksRequest(query=""))
        next(answers)
        yield
        requests.put(None)
        assert list(answers) == []


def shed_count(mesh: MeshProcess) -> int:
    """Return how many calls a mesh has shed."""
    lines = re.findall(r"^mesh_requests_shed_total\{.*\} (.*)$", httpx.get(f"{mesh.admin}/metrics").text, re.MULTILINE)
    return sum(int(float(count)) for count in lines)
