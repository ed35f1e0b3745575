"""`meshctl deploy` of code from URLs and with packages: what runs, and what is refused without a trace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import served
from tests.support.archives import tar_of, zip_of
from tests.support.mesh_process import FREE_PORTS, MeshProcess, Result, meshctl
from tests.support.web_places import WebPlaces
from tests.support.wheels import index_of, wheel

HELLO = """
import mesh

@mesh.deployment
class Hello:
    def __call__(self):
        return "Hello!"

app = Hello.bind()
"""
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebPlaces]:
    with WebPlaces(tmp_path_factory.mktemp("web")) as web_places:
        yield web_places


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, places: WebPlaces) -> Iterator[MeshProcess]:
    directory = tmp_path_factory.mktemp("mesh")
    wheels = tmp_path_factory.mktemp("wheels")
    wheel(wheels, "colour", "1.0")
    env = {"SSL_CERT_FILE": str(places.authority.cert), **index_of(wheels)}
    kept = ("--data-dir", str(directory / "data"), "--cache-dir", str(directory / "cache"))
    with MeshProcess("start", *FREE_PORTS, *kept, "--allow-private-urls", cwd=directory, env=env) as process:
        yield process


def deploy(process: MeshProcess, directory: Path, env: str, *, name: str = "app") -> Result:
    application = f"{{name: {name}, route_prefix: /{name}, import_path: 'served:app', runtime_env: {env}}}"
    (directory / "mesh.yaml").write_text(f"applications:\n- {application}\n")
    return meshctl("deploy", "mesh.yaml", cwd=directory, env={"MESH_ADDRESS": process.control}, timeout=90)


@pytest.mark.long
def test_code_from_a_url_with_packages(started: MeshProcess, places: WebPlaces, tmp_path: Path) -> None:
    url = places.put("app.zip", zip_of({"served.py": HELLO.replace('"Hello!"', "colour.VERSION") + "import colour\n"}))
    done = deploy(started, tmp_path, f"{{working_dir: '{url}', pip: [colour]}}")
    assert done.code == 0, done.stderr
    assert served(f"{started.http}/app").text == "1.0"


@pytest.mark.parametrize(
    ("name", "archive", "pin", "why"),
    [
        ("slip.zip", zip_of({"../../../../../../../../../tmp/mesh-evil": "evil"}), "", "'..' in its path"),
        ("link.tgz", tar_of({"l/evil": ""}, links={"l": "/tmp"}), "", "'l' is a link to '/tmp'"),
        ("bomb.zip", zip_of({"bomb": 64 * MIB * "0"}), "", "'bomb' makes the archive grow beyond"),
        ("pin.zip", zip_of({"served.py": HELLO}), f"#sha256={64 * '0'}", "another sha256 than the one that is pinned"),
    ],
)
def test_hostile_code_is_refused(
    started: MeshProcess, places: WebPlaces, tmp_path: Path, name: str, archive: bytes, pin: str, why: str
) -> None:
    done = deploy(started, tmp_path, f"{{working_dir: '{places.put(name, archive)}{pin}'}}", name="hostile")
    assert done.code == 1, done.stdout + done.stderr
    assert why in done.stderr and "Traceback" not in done.stderr
    assert not os.path.exists("/tmp/mesh-evil") and not os.path.exists("/tmp/evil")


def test_hostile_urls_are_refused(tmp_path: Path) -> None:
    flags = ("--data-dir", str(tmp_path / "data"), "--cache-dir", str(tmp_path / "cache"))
    with MeshProcess("start", *FREE_PORTS, *flags, cwd=tmp_path) as process:
        done = deploy(process, tmp_path, "{working_dir: 'https://169.254.169.254/app.zip'}")
        assert done.code == 1 and "not on the public internet" in done.stderr, done.stderr
        assert "mesh.yaml:2:" in done.stderr, "it names the line"
        done = deploy(process, tmp_path, "{working_dir: 'file:///etc/app.zip'}")
        assert done.code == 1 and "file: would read a file of the worker" in done.stderr, done.stderr
        assert not list((tmp_path / "cache/entries").iterdir())
