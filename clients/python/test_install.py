"""The package by itself: built, installed with its dependencies into a fresh environment, and used there.

Outside `tests`, because it fetches packages: `make test-all` runs it.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.library_example import LIBRARY, served

pytestmark = pytest.mark.timeout(300)
HERE = Path(__file__).parent
USE = """
import sys
import mesh_client
from mesh_client.v1 import deployment_pb2
import mesh_client.admin, mesh_client.aio_admin

assert "site-packages" in mesh_client.__file__, mesh_client.__file__
for name in ("mesh", "starlette", "granian"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} is here")

from library.v1 import library_pb2 as pb
from library.v1.library_pb2_grpc import LibraryServiceStub

grpc_address, http_address, control = sys.argv[1:]
with mesh_client.channel(grpc_address) as channel:
    channel.stub(LibraryServiceStub).CreateShelf(pb.CreateShelfRequest(shelf_id="rome"))
with mesh_client.requests_session(http_address) as session, mesh_client.httpx_client(http_address) as client:
    print(session.get("/v1/shelves/rome").json() == client.get("/v1/shelves/rome").json())
with mesh_client.Admin(control) as admin:
    print(admin.status().applications[0].name)
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_alone(tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    run(uv, "build", "-q", "--wheel", "-o", tmp_path / "dist", HERE, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    held = zipfile.ZipFile(wheel).namelist()
    assert "mesh_client/py.typed" in held and "mesh_client/v1/deployment_pb2.pyi" in held
    assert all(name.startswith(("mesh_client/", "mesh_client-")) for name in held)
    run(uv, "venv", "-q", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(uv, "pip", "install", "-q", "--python", python, f"{wheel}[requests,httpx]", cwd=tmp_path)
    (tmp_path / "use.py").write_text(USE)
    with served(tmp_path) as mesh:
        library = f"import sys; sys.path.append({str(LIBRARY)!r}); exec(open({str(tmp_path / 'use.py')!r}).read())"
        said = run(python, "-P", "-c", library, mesh.grpc, mesh.http, mesh.control, cwd=tmp_path)
    assert said.splitlines() == ["True", "library"]
