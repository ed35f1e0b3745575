"""Generates messages and stubs of test protos into a directory and imports them."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import shutil
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc  # type: ignore[import-untyped]

PROTOS = Path(__file__).parents[2] / "protos" / "schema"
LIBRARY = "schematest/library/v1/library.proto"
ECHO = "schematest_echo.proto"


def _include(package: str) -> str:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return str(Path(next(iter(spec.submodule_search_locations))))


def compile_protos(root: Path, out: Path, *files: str) -> bytes:
    """Generate code for `files` into `out`; return their descriptor set with source info."""
    described = out / "set.binpb"
    arguments = ["protoc", f"-I{root}", f"-I{Path(_include('grpc_tools')) / '_proto'}"]
    arguments += [f"-I{Path(_include('google.api')).parents[1]}", f"--python_out={out}", f"--grpc_python_out={out}"]
    arguments += [f"--descriptor_set_out={described}", "--include_imports", "--include_source_info", *files]
    assert protoc.main(arguments) == 0
    return described.read_bytes()


@cache
def generated() -> tuple[Path, bytes]:
    """Generate the stubs once, put them on the import path, and return where, with their descriptor set."""
    out = Path(mkdtemp(prefix="mesh-stubs-"))
    atexit.register(shutil.rmtree, out)
    described = compile_protos(PROTOS, out, LIBRARY, ECHO)
    sys.path.insert(0, str(out))
    importlib.invalidate_caches()
    return out, described


def stub(name: str) -> ModuleType:
    """Import a generated module."""
    generated()
    return importlib.import_module(name)


def library() -> ModuleType:
    """Return the stubs of the library."""
    return stub("schematest.library.v1.library_pb2_grpc")


def echo() -> ModuleType:
    """Return the stubs of the services without a package."""
    return stub("schematest_echo_pb2_grpc")


def described() -> FileDescriptorSet:
    """Return the descriptor set that protoc wrote, for tests to change."""
    return FileDescriptorSet.FromString(generated()[1])
