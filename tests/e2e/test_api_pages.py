"""/-/openapi.json and /-/docs of a mesh that runs: what they hold follows what is deployed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.library_example import LIBRARY, config
from tests.support.mesh_process import MeshProcess


def get(mesh: MeshProcess, path: str) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=20) as client:
        answer = client.get(f"{mesh.http}{path}")
    assert answer.status_code == 200
    return answer


def document(mesh: MeshProcess) -> Any:
    """Return the document, after proving that it is valid."""
    answer = get(mesh, "/-/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    OpenAPIV31SpecValidator(found).validate()
    return found


def deploy(mesh: MeshProcess, path: Path) -> None:
    done = mesh.meshctl("deploy", str(path))
    assert done.code == 0, done.stderr


def branches(path: Path) -> Path:
    """Write a config of the library, and of the same again under /branch."""
    whole = yaml.safe_load(config(path).read_text())
    again = yaml.safe_load(config(path, name="branch", route_prefix="/branch").read_text())
    path.write_text(yaml.safe_dump({"applications": whole["applications"] + again["applications"]}))
    return path


@pytest.mark.long
def test_the_document_of_the_library_is_valid_and_whole(mesh: MeshProcess, tmp_path: Path) -> None:
    deploy(mesh, config(tmp_path / "config.yaml"))
    found = document(mesh)
    operations = {
        operation["x-mesh-grpc-method"]
        for item in found["paths"].values()
        for operation in (
            *(each for each in item.values() if isinstance(each, dict)),
            *item.get("x-mesh-operations", ()),
        )
        if "x-mesh-grpc-method" in operation
    }
    proto = (LIBRARY / "library" / "v1" / "library.proto").read_text()
    assert operations == {f"library.v1.LibraryService/{name}" for name in re.findall(r"^  rpc (\w+)", proto, re.M)}
    assert {"get", "post"} <= found["paths"]["/v1/shelves"].keys()
    assert "Returns all shelves" in found["paths"]["/v1/shelves"]["get"]["summary"]
    assert found["paths"]["/v1/shelves"]["get"]["x-mesh-application"] == "library"


@pytest.mark.long
def test_the_document_follows_what_is_deployed(mesh: MeshProcess, tmp_path: Path) -> None:
    assert document(mesh)["paths"] == {}
    deploy(mesh, config(tmp_path / "one.yaml"))
    alone = get(mesh, "/-/openapi.json").content
    assert get(mesh, "/-/openapi.json").content == alone

    deploy(mesh, branches(tmp_path / "two.yaml"))
    both = document(mesh)
    paths = set(json.loads(alone)["paths"])
    assert set(both["paths"]) == paths | {f"/branch{path}" for path in paths}
    assert both["paths"]["/branch/v1/shelves"]["get"]["x-mesh-application"] == "branch"

    assert mesh.meshctl("delete", "branch").code == 0
    assert get(mesh, "/-/openapi.json").content == alone
    assert mesh.meshctl("delete", "library").code == 0
    assert document(mesh)["paths"] == {}


def test_the_docs_page_binds_its_browser_to_this_origin(mesh: MeshProcess) -> None:
    answer = get(mesh, "/-/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for kind in ("script", "style"):
        (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", answer.text)
