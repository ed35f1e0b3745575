"""The README's commands generate Java code, which compiles; its example is compiled and calls a mesh, a full one too.

Outside `tests`, because it needs a JDK and Debian's packages of grpc-java: `make test-all` runs it.
"""

from __future__ import annotations

import re
from pathlib import Path

import google.rpc
import pytest

from tests.support.generated_clients import full, generate, run, shed_count, shown, small_library

pytestmark = pytest.mark.timeout(600)
HERE = Path(__file__).parent
README = HERE / "README.md"
EXAMPLE = HERE / "example" / "Shelves.java"
JARS = Path("/usr/share/java")
NEEDED = (
    *(f"grpc-{name}" for name in ("api", "context", "core", "netty", "protobuf", "protobuf-lite", "stub")),
    *(f"netty-{name}" for name in ("buffer", "codec", "codec-http", "codec-http2", "common")),
    *(f"netty-{name}" for name in ("handler", "resolver", "transport")),
    *("protobuf", "guava", "gson", "opencensus-api", "perfmark-api", "perfmark-impl", "geronimo-annotation-1.3-spec"),
)
OF_GOOGLE = ("rpc/status", "rpc/error_details", "api/annotations", "api/http")
OF_MESH = ("DeploymentService", "RevisionService", "EventService", "PackageService", "IngressService")


def test_generated_code_and_the_example(tmp_path: Path) -> None:
    assert shown(README, "java") == EXAMPLE.read_text()
    (tmp_path / "bin").mkdir()
    # Debian calls the plugin otherwise than everybody else.
    (tmp_path / "bin" / "protoc-gen-grpc-java").symlink_to("/usr/bin/grpc_java_plugin")
    generate(README, tmp_path)
    gen = tmp_path / "shelves" / "gen"
    made = {str(path.relative_to(gen)) for path in gen.rglob("*.java")}
    of_library = ("LibraryServiceGrpc", "Shelf", "ListShelvesRequest", "ListShelvesRequestOrBuilder", "Genre")
    assert {f"com/example/library/v1/{name}.java" for name in of_library} <= made
    assert {f"com/example/mesh/v1/{name}Grpc.java" for name in OF_MESH} <= made
    assert not [path for path in made if path.startswith("com/google/")]

    # com.google.rpc and com.google.api are a jar of their own, which Debian has not.
    (protos,) = (Path(path).parents[1] for path in google.rpc.__path__)
    run("protoc", f"-I{protos}", f"--java_out={gen}", *(f"google/{name}.proto" for name in OF_GOOGLE), cwd=tmp_path)
    path = ":".join(str(JARS / f"{name}.jar") for name in NEEDED)
    sources = tmp_path / "sources"
    sources.write_text("\n".join(str(path) for path in (*gen.rglob("*.java"), EXAMPLE)))
    run("javac", "-proc:none", "-nowarn", "-d", "classes", "-cp", path, f"@{sources}", cwd=tmp_path)
    with small_library(tmp_path) as mesh:
        command = ("java", "-cp", f"classes:{path}", "Shelves", f"dns:///{mesh.grpc}")
        assert run(*command, cwd=tmp_path) == "shelves/java 1\n"
        before = shed_count(mesh)
        with full(mesh):
            told = run(*command, cwd=tmp_path, code=1).splitlines()
        assert told[0].startswith("RESOURCE_EXHAUSTED Request dropped due to backpressure")
        assert re.fullmatch(r"reason OVERLOADED request id [0-9a-f]{32}", told[1])
        assert re.fullmatch(r"come again in [0-9]+ ms", told[2])
        assert shed_count(mesh) == before + 4
