"""`meshctl proto compile` with the real compiler: what it writes can be imported, and what is wrong is told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from mesh.cli.commands import main
from tests.support.mesh_process import EXAMPLES, environment

SHELF = """\
syntax = "proto3";

package library.v1;

import "google/api/annotations.proto";
import "library/v1/book.proto";

// Shelves.
service Shelves {
  // One of them.
  rpc Get(Shelf) returns (Shelf) {
    option (google.api.http) = {get: "/v1/{name}"};
  }
}

// A place for books.
message Shelf {
  // Its name.
  string name = 1;
  repeated Book books = 2;
}
"""
BOOK = """\
syntax = "proto3";

package library.v1;

import "google/protobuf/timestamp.proto";

message Book {
  google.protobuf.Timestamp printed = 1;
}
"""
FILES = {"library/v1/shelf.proto": SHELF, "library/v1/book.proto": BOOK}
GENERATED = sorted(
    f"library/v1/{name}{ending}" for name in ("shelf", "book") for ending in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    put(FILES)
    return tmp_path


def put(files: dict[str, str], directory: str = "protos") -> None:
    for name, text in files.items():
        path = Path(directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def compiled(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["meshctl", "proto", "compile", *words])
    return main()


def written(directory: str) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in Path(directory).rglob("*") if path.is_file())


def test_what_it_writes_can_be_imported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert compiled(monkeypatch, "protos", "--out", "gen") == 0
    packages = ["library/__init__.py", "library/v1/__init__.py"]
    assert written("gen") == sorted([*GENERATED, *packages, "descriptors.binpb"])
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"wrote gen/{path}" for path in written("gen")]
    assert "from library.v1 import book_pb2, book_pb2_grpc" in said.err
    assert "with gen in runtime_env.py_modules" in said.err
    code = (
        "from library.v1 import shelf_pb2 as m, shelf_pb2_grpc as s; print(m.Shelf(name='a').name, s.ShelvesServicer)"
    )
    env = environment({"PYTHONPATH": "gen"})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=env)
    assert done.stdout.startswith("a <class 'library.v1.shelf_pb2_grpc.ShelvesServicer'>"), done.stderr


def test_the_descriptors_have_imports_and_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled(monkeypatch, "protos") == 0
    described = FileDescriptorSet.FromString(Path("protos/descriptors.binpb").read_bytes())
    files = {file.name: file for file in described.file}
    assert {*FILES, "google/api/annotations.proto", "google/protobuf/timestamp.proto"} <= set(files)
    comments = [place.leading_comments for place in files["library/v1/shelf.proto"].source_code_info.location]
    assert {" Shelves.\n", " One of them.\n", " A place for books.\n", " Its name.\n"} <= set(comments)


def test_again_it_writes_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert compiled(monkeypatch, "protos") == 0
    times = {path: Path("protos", path).stat().st_mtime_ns for path in written("protos")}
    capsys.readouterr()
    assert compiled(monkeypatch, "protos") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "2 .proto files: 0 written, 9 as they were" in said.err
    assert times == {path: Path("protos", path).stat().st_mtime_ns for path in written("protos")}


def test_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("protos", "--out", "gen", "--check")
    assert compiled(monkeypatch, *words) == 1
    assert not Path("gen").exists()
    assert compiled(monkeypatch, *words[:-1]) == 0
    capsys.readouterr()
    assert compiled(monkeypatch, *words) == 0
    assert capsys.readouterr().err == "gen is what protos gives\n"

    put({"library/v1/book.proto": BOOK.replace("printed", "made"), "library/v1/new.proto": BOOK.replace("Book", "New")})
    Path("gen/library/__init__.py").write_text("OWN = 1\n")
    assert compiled(monkeypatch, *words) == 1
    said = capsys.readouterr()
    kinds = {path: kind for kind, path in map(str.split, said.out.splitlines())}
    assert kinds["gen/library/v1/book_pb2.py"] == "changed"
    assert kinds["gen/library/v1/new_pb2.py"] == "new"
    assert "gen/library/v1/shelf_pb2.py" not in kinds
    assert "gen/library/__init__.py" not in kinds
    assert "fix: meshctl proto compile protos --out gen" in said.err


def test_check_in_a_fresh_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """descriptors.binpb is not in git, so a clone cannot have it; one that is there must be the right one."""
    clone = tmp_path / "clone"
    shutil.copytree(EXAMPLES / "library", clone, ignore=shutil.ignore_patterns("descriptors.binpb", "__pycache__"))
    assert compiled(monkeypatch, str(clone), "--check") == 0
    assert capsys.readouterr().err == f"{clone} is what {clone} gives\n"
    assert compiled(monkeypatch, str(clone)) == 0
    assert capsys.readouterr().out == f"wrote {clone}/descriptors.binpb\n"
    assert compiled(monkeypatch, str(clone), "--check") == 0
    (clone / "descriptors.binpb").write_bytes(b"")
    assert compiled(monkeypatch, str(clone), "--check") == 1
    assert f"changed  {clone}/descriptors.binpb" in capsys.readouterr().out


def test_what_became_of_a_file_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put({"library/v1/old.proto": BOOK.replace("Book", "Old")})
    assert compiled(monkeypatch, "protos", "--out", "gen") == 0
    Path("protos/library/v1/old.proto").unlink()
    capsys.readouterr()
    assert compiled(monkeypatch, "protos", "--out", "gen", "--check") == 1
    assert "stale    gen/library/v1/old_pb2.py\n" in capsys.readouterr().out
    assert compiled(monkeypatch, "protos", "--out", "gen") == 0
    assert "warning: gen/library/v1/old_pb2.py: its .proto file is gone\n  fix: delete it" in capsys.readouterr().err
    assert Path("gen/library/v1/old_pb2.py").exists()


def test_faults_of_several_files_are_told_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(
        {
            "library/v1/book.proto": BOOK.replace("printed = 1;", "printed = 1"),
            "library/v1/other.proto": SHELF.replace("library/v1/book.proto", "book.proto").replace("Shel", "Oth"),
            "library/v1/third.proto": 'syntax = "proto3";\npackage library.v1;\nmessage Third { Zzz zzz = 1; }\n',
        }
    )
    assert compiled(monkeypatch, "protos") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert 'error: protos/library/v1/book.proto:9:1: Expected ";".\n  fix: end what stands before with ";"' in said.err
    assert 'error: protos/library/v1/other.proto:6:1: Import "book.proto" was not found' in said.err
    assert '  fix: write import "library/v1/book.proto"; imports are relative to' in said.err
    assert 'error: protos/library/v1/third.proto:3:17: "Zzz" is not defined.\n  fix: declare it' in said.err
    assert said.err.count("error: ") == 3
    assert written("protos") == sorted(["library/v1/other.proto", "library/v1/third.proto", *FILES])


def test_an_option_without_its_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    put({"library/v1/shelf.proto": SHELF.replace('import "google/api/annotations.proto";', "")})
    assert compiled(monkeypatch, "protos") == 2
    err = capsys.readouterr().err
    assert 'protos/library/v1/shelf.proto:12:12: Option "(google.api.http)" unknown.' in err
    assert '  fix: write import "google/api/annotations.proto";' in err


def test_a_package_that_is_not_its_directory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put({"hello.proto": 'syntax = "proto3";\n\n  package hello;\n'})
    assert compiled(monkeypatch, "protos") == 2
    assert capsys.readouterr().err == (
        "error: protos/hello.proto:3:3: the package is 'hello', but the file is at the top of protos/\n"
        "  fix: move the file to hello/hello.proto\n"
    )
    assert not Path("protos/descriptors.binpb").exists()


def test_the_wrong_directory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: Path) -> None:
    put({"a/v1/a.proto": 'syntax = "proto3";\npackage a.v1;\n'}, "other")
    assert compiled(monkeypatch, "other/a") == 2
    assert f"compile the directory that holds a/: meshctl proto compile {here}/other\n" in capsys.readouterr().err


def test_copies_of_what_comes_along_are_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put({"google/api/http.proto": 'syntax = "proto3";\npackage google.api;\nmessage Http {}\nmessage HttpRule {}\n'})
    put({"google/own/v1/own.proto": 'syntax = "proto3";\npackage google.own.v1;\n'})
    put({".venv/x.proto": "broken", "env/pyvenv.cfg": "", "env/x.proto": "broken", "site-packages/x.proto": "broken"})
    # The user's copy is what the user's files import.
    put({"library/v1/shelf.proto": 'syntax = "proto3";\npackage library.v1;\n'})
    assert compiled(monkeypatch, "protos", "--out", "gen") == 0
    assert "protos/google/api/http.proto: skipped" in capsys.readouterr().err
    assert "google/own/v1/own_pb2.py" in written("gen")
    assert not any(path.startswith("google") and path.endswith("__init__.py") for path in written("gen"))
    assert not Path("gen/google/api").exists()


def test_nothing_in_the_directory_can_stand_in_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    put({"grpc_tools/__init__.py": "raise SystemExit('taken')", "subprocess.py": "1 / 0"})
    assert compiled(monkeypatch, "protos") == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nowhere",), 3, "error: no directory nowhere"),
        (("protos/library/v1/book.proto",), 2, "error: protos/library/v1/book.proto is no directory"),
        (("empty",), 2, "error: no .proto file under empty"),
        (("protos", "--out", "taken"), 1, "error: cannot "),
        (("protos", "--out", "taken", "--check"), 1, "error: cannot read "),
        ((), 2, "error: Missing argument 'DIR'"),
    ],
)
def test_wrong_use(
    words: tuple[str, ...], code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("taken").write_text("")
    assert compiled(monkeypatch, *words) == code
    assert capsys.readouterr().err.startswith(message)


def test_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert compiled(monkeypatch, "--help") == 0
    assert "meshctl proto compile protos --out gen" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["meshctl", "--help"])
    assert main() == 0
    assert "  proto compile Make messages" in capsys.readouterr().out
