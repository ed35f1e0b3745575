"""Compiles .proto files: finds them, runs protoc on all of them at once, compares and writes what it makes.

Owns the include path, the layout of the output and that it is all or nothing: where one file is wrong nothing is
written. What protoc said is told again by `proto_faults`. Called by `proto`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError

from mesh.cli.proto_faults import FAULTS_MAX, Fault, Known, faulty, misplaced, retold
from mesh.errors import InvalidConfig, MeshError, NotFound, Problem
from mesh.transcode.collect import DESCRIPTOR_SET_FILE

PROTOC_TIMEOUT_S = 120.0
_GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
_NOT_OURS = ("__pycache__", "node_modules", "site-packages")
_SHARED_PACKAGES = ("google",)
"""Packages that several distributions fill: an __init__.py in one of them would hide the others."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a directory of .proto files gives."""

    sources: tuple[str, ...]
    """Names of the .proto files, relative to the directory."""
    skipped: tuple[str, ...]
    """Copies of files that come with mesh: their modules are installed already."""
    files: Mapping[str, bytes]
    """What is generated, by path relative to the output directory."""
    warnings: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A generated file that is not as it should be."""

    path: str
    kind: str
    """"new", "changed", or "stale": its .proto file is gone."""


def compiled(directory: Path) -> Compiled:
    """Compile all .proto files under `directory`.

    Raises NotFound if it is not there, InvalidConfig with all that is wrong in them, MeshError if protoc fails.
    """
    if not directory.exists():
        raise NotFound(f"no directory {directory}", hint="name the directory that holds the .proto files")
    if not directory.is_dir():
        hint = f"name the directory that its package begins in, such as {directory.parent}"
        raise InvalidConfig((Problem("", f"{directory} is no directory", hint),))
    includes = _includes()
    found = sorted(_proto_files(directory))
    ours = [name for name in found if name.startswith("google/")]
    skipped = tuple(name for name in ours if any((place / name).is_file() for place in includes))
    sources = tuple(name for name in found if name not in skipped)
    if not sources:
        raise InvalidConfig((Problem("", f"no .proto file under {directory}", "name the directory that holds them"),))
    with tempfile.TemporaryDirectory(prefix="mesh-proto-") as place:
        said, code = _protoc(directory, sources, includes, Path(place))
        if code:
            said += _of_others(said, directory, sources, includes, Path(place))
        faults, warnings = retold(said, lambda: _known(directory, found, includes))
        if code:
            if faults:
                raise InvalidConfig(_problems(faults, directory))
            raise MeshError(f"protoc failed with exit code {code}\n{said.strip()[-2000:]}")
        files = {
            path.relative_to(place).as_posix(): path.read_bytes() for path in Path(place).rglob("*") if path.is_file()
        }
    described = FileDescriptorSet.FromString(files[DESCRIPTOR_SET_FILE])
    if faults := misplaced([file for file in described.file if file.name in sources], directory.resolve()):
        raise InvalidConfig(_problems(faults, directory))
    return Compiled(sources, skipped, _with_packages(files), tuple(warnings))


def differences(wanted: Compiled, out: Path) -> tuple[Difference, ...]:
    """Return in what `out` differs, by path."""
    found = []
    for path, data in wanted.files.items():
        try:
            now = (out / path).read_bytes()
        except FileNotFoundError:
            found.append(Difference(path, "new"))
        except OSError as error:
            raise MeshError(f"cannot read {out / path}: {error.strerror}") from None
        else:
            # A package may have code of its own.
            if now != data and not path.endswith("__init__.py"):
                found.append(Difference(path, "changed"))
    found += [Difference(path, "stale") for path in _stale(wanted, out)]
    return tuple(sorted(found, key=lambda difference: difference.path))


def wrong(found: tuple[Difference, ...]) -> tuple[Difference, ...]:
    """Return the differences that make a tree wrong: all, but that the descriptor set need not be there.

    It is a binary that many leave out of version control, so a fresh clone cannot have it; all works without it.
    """
    return tuple(each for each in found if (each.path, each.kind) != (DESCRIPTOR_SET_FILE, "new"))


def write(wanted: Compiled, changed: tuple[Difference, ...], out: Path) -> None:
    """Write what is new or changed into `out`; each file appears whole. Stale ones stay."""
    for path in (difference.path for difference in changed if difference.kind != "stale"):
        target = out / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            partial.write_bytes(wanted.files[path])
            partial.replace(target)
        except OSError as error:
            hint = "name a directory that can be written with --out"
            raise MeshError(f"cannot write {target}: {error.strerror}", hint=hint) from None


def _protoc(directory: Path, sources: tuple[str, ...], includes: tuple[Path, ...], out: Path) -> tuple[str, int]:
    """Run protoc in a process of its own: it writes to the process's stderr and may end it."""
    words = ["-I.", *(f"-I{place}" for place in includes)]
    words += [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "pyi")]
    words += [f"--descriptor_set_out={out / DESCRIPTOR_SET_FILE}", "--include_imports", "--include_source_info"]
    with tempfile.NamedTemporaryFile(prefix="mesh-protoc-") as arguments:
        arguments.write("\n".join([*words, *sources, ""]).encode(errors="surrogateescape"))
        arguments.flush()
        # -P: nothing in the user's directory may be taken for one of the compiler's modules.
        command = [sys.executable, "-P", "-m", "grpc_tools.protoc", f"@{arguments.name}"]
        try:
            done = subprocess.run(command, cwd=directory, capture_output=True, timeout=PROTOC_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise MeshError(f"protoc did not end within {PROTOC_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise MeshError(f"cannot run protoc: {error.strerror}") from None
    return (done.stderr + done.stdout).decode(errors="replace"), done.returncode


def _of_others(said: str, directory: Path, sources: tuple[str, ...], includes: tuple[Path, ...], out: Path) -> str:
    """Return what protoc says of further files: it stops at the first one that is wrong."""
    more, remaining = "", sources
    for _ in range(FAULTS_MAX):
        fewer = tuple(source for source in remaining if source not in faulty(said + more))
        if not fewer or fewer == remaining:
            break
        remaining = fewer
        told, code = _protoc(directory, remaining, includes, out)
        more += told
        if not code:
            break
    return more


def _includes() -> tuple[Path, ...]:
    """Return where the .proto files lie that come along: those of protobuf and of googleapis."""
    tools, apis = find_spec("grpc_tools"), find_spec("google.api.annotations_pb2")
    if tools is None or tools.origin is None or apis is None or apis.origin is None:
        hint = "pip install grpcio-tools googleapis-common-protos"
        raise MeshError("the protobuf compiler is not installed", hint=hint)
    return Path(tools.origin).parent / "_proto", Path(apis.origin).parents[2]


def _proto_files(directory: Path) -> Iterator[str]:
    for place, directories, names in os.walk(directory):
        here = Path(place)
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".") and name not in _NOT_OURS and not (here / name / "pyvenv.cfg").exists()
        ]
        for name in names:
            if name.endswith(".proto") and not name.startswith("."):
                yield (here / name).relative_to(directory).as_posix()


def _known(directory: Path, names: list[str], includes: tuple[Path, ...]) -> Known:
    """Read all files that an import could name. The user's come first."""
    paths = {name: directory / name for name in names}
    for place in includes:
        for path in sorted((place / "google").rglob("*.proto")):
            paths.setdefault(path.relative_to(place).as_posix(), path)
    return Known({name: path.read_text(errors="replace") for name, path in paths.items()})


def _with_packages(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Add an __init__.py to each package, so that nothing later on the path can stand in for one."""
    made = dict(files)
    for path in files:
        for parent in Path(path).parents:
            if parent.parts and parent.parts[0] not in _SHARED_PACKAGES:
                made[(parent / "__init__.py").as_posix()] = b""
    return made


def _stale(wanted: Compiled, out: Path) -> Iterator[str]:
    """Yield what an earlier run wrote into `out` for .proto files that are gone."""
    try:
        before = FileDescriptorSet.FromString((out / DESCRIPTOR_SET_FILE).read_bytes())
    except (OSError, DecodeError):
        return
    for file in before.file:
        stem = file.name.removesuffix(".proto").replace("-", "_")
        for path in (stem + ending for ending in _GENERATED):
            if path not in wanted.files and (out / path).is_file():
                yield path


def _problems(faults: list[Fault], directory: Path) -> tuple[Problem, ...]:
    problems = [Problem("", fault.text(directory), fault.hint) for fault in faults[:FAULTS_MAX]]
    if left := len(faults) - len(problems):
        problems.append(Problem("", f"and {left} more", "mend the first ones first"))
    return tuple(problems)
