"""The README's commands generate Go code, which compiles; its example is compiled and calls a mesh, a full one too.

Outside `tests`, because it needs Debian's packages of Go and grpc-go: `make test-all` runs it. It compiles by GOPATH,
as those packages are meant to be used. Debian 12 has grpc-go 1.33, whose retries are off unless asked for.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.generated_clients import full, generate, run, shed_count, shown, small_library

pytestmark = pytest.mark.timeout(600)
HERE = Path(__file__).parent
README = HERE / "README.md"
OF_MESH = ("deployment_service", "revision_service", "event_service", "package_service", "ingress_service")


def test_generated_code_and_the_example(tmp_path: Path) -> None:
    main = HERE / "example" / "main.go"
    assert shown(README, "go") == main.read_text()
    module = tmp_path / "src" / "example.com" / "shelves"
    at = tmp_path / "top"
    at.mkdir()
    generate(README, at)
    shutil.copytree(at / "shelves", module)
    made = {str(path.relative_to(module / "gen")) for path in module.rglob("*.go")}
    assert {"library/v1/library.pb.go", "library/v1/library_grpc.pb.go"} <= made
    assert {f"mesh/v1/{name}{kind}" for name in OF_MESH for kind in (".pb.go", "_grpc.pb.go")} <= made
    assert not [path for path in made if path.startswith("google/")]

    shutil.copy(main, module)
    assert run("gofmt", "-l", "main.go", cwd=module) == ""
    env = {"GO111MODULE": "off", "GOPATH": f"{tmp_path}:/usr/share/gocode", "GOFLAGS": ""}
    run("go", "vet", "./...", cwd=module, **env)
    run("go", "build", "-o", str(tmp_path / "example"), ".", cwd=module, **env)
    with small_library(tmp_path) as mesh:
        command = (str(tmp_path / "example"), f"dns:///{mesh.grpc}")
        assert run(*command, cwd=tmp_path, GRPC_GO_RETRY="on") == "shelves/go 1\n"
        before = shed_count(mesh)
        with full(mesh):
            told = run(*command, cwd=tmp_path, code=1, GRPC_GO_RETRY="on").splitlines()
        assert told[0].startswith("ResourceExhausted Request dropped due to backpressure")
        assert re.fullmatch(r"reason OVERLOADED request id [0-9a-f]{32}", told[1])
        assert re.fullmatch(r"come again in [0-9.]+m?s", told[2])
        assert shed_count(mesh) == before + 4
