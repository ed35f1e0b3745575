"""What `deploy` makes of a config file's directories, against a real control plane."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh import wire
from mesh.cli import config_file, deploying, uploading
from mesh.cli.client import Client
from mesh.cli.config_file import Config, ConfigFile, InvalidFile
from mesh.clock import SYSTEM
from mesh.controlplane.server import ControlPlane
from mesh.credentials import OPEN
from mesh.settings import ControlPlaneSettings
from mesh.v1.deployment_service_pb2 import ApplyRequest

FILE = """
applications:
- name: shop
  import_path: m:app
  runtime_env:
    working_dir: code
    py_modules: [pkg, lib, m-1.0-py3-none-any.whl, 'local:///srv/lib', '/{top}/lib']
- name: other
  route_prefix: /other
  import_path: m:app
  runtime_env: {{working_dir: code}}
- name: beside
  route_prefix: /beside
  import_path: m:app
"""


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("code/m.py", "pkg/__init__.py", "lib/x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with zipfile.ZipFile(tmp_path / "m-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("m2.py", "")
    (tmp_path / "mesh.yaml").write_text(FILE.format(top=str(tmp_path).lstrip("/")))
    return tmp_path


def read(top: Path) -> ConfigFile:
    return config_file.read(top / "mesh.yaml")


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    control = ControlPlane(ControlPlaneSettings(port=0), SYSTEM)
    await control.start()
    try:
        async with Client((control.address,), OPEN) as client:
            yield client
    finally:
        await control.stop()


async def deploy(client: Client, file: ConfigFile) -> tuple[list[str], dict[str, int]]:
    said: list[str] = []
    with uploading.packages(file) as packages:
        await packages.upload(client, said.append)
        response = await deploying.apply(client, packages.config, file, ApplyRequest(supersede=True))
    return said, {a.name: a.revision for a in response.applications}


def test_places_of_this_machine_become_packages(top: Path) -> None:
    shop, other, beside = uploading.with_packages(read(top)).applications
    env = shop.runtime_env
    assert env.working_dir.startswith("package:sha256:")
    assert [text.partition("a256:")[0] for text in env.py_modules] == ["package:sh"] * 3 + ["local:///srv/lib"] + [
        "package:sh"
    ]
    assert env.py_modules[1] == env.py_modules[4]
    assert other.runtime_env.working_dir == env.working_dir != beside.runtime_env.working_dir


async def test_the_same_content_is_uploaded_once_and_changes_nothing(top: Path, client: Client) -> None:
    said, revisions = await deploy(client, read(top))
    assert [line.partition(": ")[0] for line in said] == [
        "uploading working_dir of application 'shop'",
        "uploading py_modules[0] of application 'shop'",
        "uploading py_modules[1] of application 'shop'",
        "uploading py_modules[2] of application 'shop'",
        "uploading working_dir of application 'beside'",
    ]
    assert all(line.endswith("KiB") for line in said)
    assert revisions == {"shop": 1, "other": 1, "beside": 1}
    (top / "code" / "m.py").touch()
    assert await deploy(client, read(top)) == ([], revisions)
    text = (top / "mesh.yaml").read_text()
    (top / "mesh.yaml").write_text(f"# A comment is no code.\n{text}")
    assert await deploy(client, read(top)) == ([], revisions)


async def test_changed_code_is_a_new_revision_of_those_that_have_it(top: Path, client: Client) -> None:
    await deploy(client, read(top))
    (top / "pkg" / "__init__.py").write_text("changed")
    said, revisions = await deploy(client, read(top))
    assert [line.partition(" of")[0] for line in said] == ["uploading py_modules[0]", "uploading working_dir"]
    assert revisions == {"shop": 2, "other": 1, "beside": 2}


async def test_what_config_shows_can_be_deployed_and_changes_nothing(top: Path, client: Client) -> None:
    _, revisions = await deploy(client, read(top))
    value = wire.from_proto((await client.config()).config, Config)
    made = uploading.with_packages(read(top)).applications
    assert value.applications == tuple(sorted(made, key=lambda application: application.name))
    elsewhere = top / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mesh.yaml").write_text(config_file.render(value))
    assert await deploy(client, read(elsewhere)) == ([], revisions)


@pytest.mark.parametrize(
    ("field", "place", "message"),
    [
        ("working_dir", "gone", "does not exist"),
        ("working_dir", "code/m.py", "neither a directory nor a wheel"),
        ("py_modules[0]", "empty", "nothing to pack"),
    ],
)
def test_faults_are_told_at_their_place_in_the_file(top: Path, field: str, place: str, message: str) -> None:
    (top / "empty").mkdir()
    name, _, item = field.partition("[")
    env = f"{{{name}: {'[' if item else ''}{place}{']' if item else ''}}}"
    (top / "mesh.yaml").write_text(f"applications:\n- import_path: m:app\n  runtime_env: {env}\n")
    with pytest.raises(InvalidFile) as caught, uploading.packages(read(top)):
        pass
    (fault,) = caught.value.faults
    assert (fault.place.line, fault.problem.field) == (3, f"applications[0].runtime_env.{field}")
    assert message in fault.problem.message
