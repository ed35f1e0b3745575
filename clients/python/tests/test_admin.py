"""The admin clients against a control plane that really runs and wants a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mesh_client import (
    Admin,
    AsyncAdmin,
    Credentials,
    DeadlineExceeded,
    DeployFailed,
    InvalidRequest,
    NotFound,
    Policy,
    Unauthenticated,
    Unavailable,
    httpx_client,
)
from mesh_client.v1 import deployment_pb2 as pb
from mesh_client.v1 import deployment_service_pb2 as api

from tests.support.client_world import ClientWorld
from tests.support.mesh_process import FREE_PORTS, MeshProcess

pytestmark = pytest.mark.timeout(120)
TOKEN = "a-token-for-tests-only"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ClientWorld:
    return ClientWorld(tmp_path_factory.mktemp("code"))


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(f"\n{TOKEN}\nthe-token-before-this-one\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, token_file: Path) -> Iterator[MeshProcess]:
    directory = tmp_path_factory.mktemp("start")
    flags = ("--data-dir", str(directory / "data"), "--token-file", str(token_file))
    with MeshProcess("start", *flags, *FREE_PORTS, cwd=directory) as running:
        yield running


def config(world: ClientWorld, *deployments: dict[str, Any], **application: Any) -> dict[str, Any]:
    described = {
        "name": "plain",
        "route_prefix": "/plain",
        "import_path": "served:plain",
        "runtime_env": {"working_dir": f"local://{world.directory}", "env_vars": {"A": "1"}},
        "deployments": list(deployments),
    }
    return {"applications": [described | application]}


def test_from_deploy_to_delete(mesh: MeshProcess, world: ClientWorld, token_file: Path) -> None:
    with Admin(mesh.control, credentials=Credentials(token_file=token_file)) as admin:
        (planned,) = admin.validate(config(world))
        assert planned.change == api.CHANGE_CREATED and not admin.status().applications
        (applied,) = admin.deploy(config(world))
        assert (applied.name, applied.revision, applied.change) == ("plain", 1, api.CHANGE_CREATED)
        with httpx_client(mesh.http) as client:
            assert client.get("/plain?id=x").json() == {"ran": "x"}
        (unchanged,) = admin.deploy(config(world))
        assert unchanged.change == api.CHANGE_UNCHANGED
        status = admin.status("plain")
        assert status.applications[0].state == pb.APPLICATION_STATE_RUNNING
        assert next(admin.watch()).applications[0].name == "plain"
        assert admin.config().applications[0].import_path == "served:plain"
        assert admin.workers()[0].state == pb.WORKER_STATE_READY
        assert admin.scale("plain", {"Plain": 2}).revision == 2
        assert admin.status().applications[0].deployments[0].ready_replicas == 2
        admin.pause("plain")
        admin.pause("plain", paused=False)
        assert [revision.revision for revision in admin.history("plain")] == [2, 1]
        assert admin.rollback("plain").revision == 3
        assert any(event.application == "plain" for event in admin.events("plain"))
        with pytest.raises(DeployFailed, match="nothing_there") as failed:
            admin.deploy(config(world, import_path="nothing_there:app"))
        assert set(failed.value.failures) == {"plain"}
        admin.delete("plain")
        assert not admin.status().applications


async def test_the_same_on_an_event_loop(mesh: MeshProcess, world: ClientWorld) -> None:
    async with AsyncAdmin(mesh.control, credentials=Credentials(token=lambda: TOKEN)) as admin:
        (applied,) = await admin.deploy(config(world, name="other"), keep_others=True)
        assert applied.change == api.CHANGE_CREATED
        assert (await admin.status("other")).applications[0].state == pb.APPLICATION_STATE_RUNNING
        async for status in admin.watch("other"):
            assert status.applications[0].name == "other"
            break
        assert (await admin.restart("other", wait_s=None)).revision == 2
        assert [revision.revision for revision in await admin.history("other")] == [2, 1]
        with pytest.raises(DeadlineExceeded, match="not gone yet"):
            await admin.delete("other", wait_s=0.0001)
        await admin.shutdown()


def test_what_is_wrong_is_told_by_field(mesh: MeshProcess, world: ClientWorld) -> None:
    with Admin(mesh.control, credentials=Credentials(token=TOKEN)) as admin:
        with pytest.raises(InvalidRequest) as wrong:
            admin.deploy(config(world, {"name": "Plain", "num_replicas": -1}))
        assert "num_replicas" in wrong.value.problems[0].field
        with pytest.raises(NotFound):
            admin.status("nothing")
        with pytest.raises(NotFound):
            admin.delete("nothing")
        with pytest.raises(NotFound):
            admin.rollback("nothing")


def test_without_the_token(mesh: MeshProcess) -> None:
    for credentials in (Credentials(), Credentials(token="another-token-altogether")):
        with Admin(mesh.control, credentials=credentials) as admin, pytest.raises(Unauthenticated):
            admin.status()


def test_nobody_there() -> None:
    policy = Policy(attempts_max=2, idempotent=frozenset({"mesh.v1.DeploymentService"}))
    with Admin("127.0.0.1:9", policy=policy) as admin, pytest.raises(Unavailable) as raised:
        admin.status()
    assert raised.value.attempts == 2 and raised.value.never_ran


@pytest.mark.parametrize("token", ["", "ümlaut", "a\nb"])
def test_tokens_that_no_header_takes(token: str) -> None:
    with pytest.raises(ValueError):
        Credentials(token=token).authorization()


def test_credentials_that_contradict_themselves(token_file: Path) -> None:
    with pytest.raises(ValueError):
        Credentials(token="x", token_file=token_file)
    with pytest.raises(ValueError):
        Credentials(cert="x")
    assert TOKEN not in repr(Credentials(token=TOKEN))
