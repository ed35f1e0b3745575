"""Virtual environments of builds and replicas, from wheels made here: no network."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.clock import SYSTEM
from mesh.model import ApplicationConfig, DeploymentSettings, ReplicaSpec, ReplicaState, RuntimeEnv
from mesh.settings import WorkerSettings
from mesh.worker.environments import installer
from mesh.worker.server import Worker
from tests.support.scripted_control_plane import ControlPlane, WorkerSession
from tests.support.wheels import index_of, wheel

CODE = """
import os, sys
import mesh, colour, paint

print("runs with", colour.VERSION, paint.VERSION, sys.prefix != sys.base_prefix)

@mesh.deployment
class Hello:
    def __call__(self):
        return colour.VERSION

app = Hello.bind()
"""


@pytest.fixture
async def control() -> AsyncIterator[ControlPlane]:
    async with ControlPlane() as control_plane:
        yield control_plane


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "wheels"
    directory.mkdir()
    wheel(directory, "paint", "2.0", "colour>=1,<2")
    wheel(directory, "colour", "1.0")
    for name, value in index_of(directory).items():
        monkeypatch.setenv(name, value)
    return directory


@contextlib.asynccontextmanager
async def running(control: ControlPlane, tmp_path: Path) -> AsyncIterator[tuple[Worker, WorkerSession]]:
    worker = Worker(
        WorkerSettings(worker_id="w1", control=(control.address,), cache_dir=str(tmp_path / "cache")), SYSTEM
    )
    await worker.start()
    try:
        yield worker, await control.session()
    finally:
        await worker.stop()


def config(tmp_path: Path, *pip: str, source: str = CODE) -> ApplicationConfig:
    (tmp_path / "served.py").write_text(source)
    env = RuntimeEnv(working_dir=str(tmp_path), pip=pip)
    return ApplicationConfig(name="served", import_path="served:app", runtime_env=env)


def spec(config: ApplicationConfig, replica_id: str = "r1") -> ReplicaSpec:
    return ReplicaSpec(
        replica_id=replica_id,
        application="served",
        deployment="Hello",
        config=config,
        settings=DeploymentSettings(),
    )


def venvs(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache/entries").iterdir() if path.name.startswith("venv-")}


@pytest.mark.long
@pytest.mark.parametrize("tool", ["uv", "pip"])
async def test_packages_are_installed_for_builds_and_replicas(
    control: ControlPlane, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    if tool == "pip":
        monkeypatch.setattr(installer, "_uv", lambda: "")
    made = config(tmp_path, "paint")
    async with running(control, tmp_path) as (worker, session):
        result = await session.build("b1", made)
        assert [each.config.name for each in result.deployments] == ["Hello"], result.failure
        await session.assign(1, spec(made), spec(made, "r2"))
        await session.until_state("r1", ReplicaState.READY)
        await session.until_state("r2", ReplicaState.READY)
        assert "runs with 1.0 2.0 True" in worker.output("r1")
        assert len(venvs(tmp_path)) == 1
    # Another process of the worker, to which no index answers any more.
    shutil.rmtree(wheels)
    async with running(control, tmp_path) as (_, session):
        await session.assign(1, spec(made))
        await session.until_state("r1", ReplicaState.READY)


async def test_packages_of_the_code_win(control: ControlPlane, wheels: Path, tmp_path: Path) -> None:
    """`httpx` is installed where the worker runs; the code brings one of its own, and still finds mesh."""
    wheel(wheels, "iniconfig", "99.0")
    source = CODE.replace("colour, paint", "iniconfig").replace(
        "colour.VERSION, paint.VERSION", "iniconfig.VERSION, mesh.__name__"
    )
    source = source.replace("colour.VERSION", "'x'")
    made = config(tmp_path, "iniconfig", source=source)
    async with running(control, tmp_path) as (worker, session):
        await session.assign(1, spec(made))
        await session.until_state("r1", ReplicaState.READY)
        assert "runs with 99.0 mesh True" in worker.output("r1")


async def test_what_cannot_be_resolved_fails_and_says_why(control: ControlPlane, wheels: Path, tmp_path: Path) -> None:
    async with running(control, tmp_path) as (_, session):
        result = await session.build("b1", config(tmp_path, "paint", "colour>=2"))
        assert "cannot be resolved" in result.failure.message and "colour" in result.failure.message
        assert result.failure.field == "runtime_env.pip"
        assert "colour" in result.failure.details
        wheel(wheels, "old", "1.0", "grpcio<1.60")
        wheel(wheels, "grpcio", "1.59.0")
        result = await session.build("b2", config(tmp_path, "old"))
        assert result.failure.hint.startswith("mesh runs beside the code and needs grpcio<2,>=1.")
        await session.assign(1, spec(config(tmp_path, "absent")))
        status = await session.until_state("r1", ReplicaState.BACKOFF)
        assert status.failure is not None and status.failure.field == "runtime_env.pip"


async def test_environments_with_one_lock_are_one(control: ControlPlane, wheels: Path, tmp_path: Path) -> None:
    async with running(control, tmp_path) as (_, session):
        for i, pip in enumerate((("paint",), ("paint==2.0",), ("colour", "paint"), ("colour",))):
            source = CODE if i < 3 else CODE.replace("colour, paint", "colour").replace(", paint.VERSION", "")
            result = await session.build(f"b{i}", config(tmp_path, *pip, source=source))
            assert not result.HasField("failure"), result.failure
        assert len(venvs(tmp_path)) == 2


async def test_credentials_of_an_index_are_not_told(
    control: ControlPlane,
    wheels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://user:hunter2@127.0.0.1:1/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    async with running(control, tmp_path) as (_, session):
        result = await session.build("b1", config(tmp_path, "absent"))
        assert "cannot be resolved" in result.failure.message
        assert "hunter2" not in f"{result.failure}{caplog.text}"


async def test_an_installer_ends_with_what_asked_for_it(
    control: ControlPlane, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "uv"
    tool.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    tool.chmod(0o755)
    monkeypatch.setattr(installer, "_uv", lambda: str(tool))
    async with running(control, tmp_path) as (_, session):
        await session.assign(1, spec(config(tmp_path, "paint")))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
        assert session.statuses["r1"].state is ReplicaState.PREPARING
        pid = int((tmp_path / "pid").read_text())
        await session.assign(2)
        await session.until_state("r1", ReplicaState.STOPPED)
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)
