"""Compiles the protos of gRPC's interoperability tests; the generated code is in no commit."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

_ROOT = Path(__file__).resolve().parents[1]
_PROTOS = sorted((_ROOT / "protos" / "grpc" / "testing").glob("*.proto"))


def compile_into(directory: Path) -> Path:
    """Write messages and stubs under `directory`, as the modules `protos.grpc.testing.*_pb2[_grpc]`; return it."""
    bundled = resources.files("grpc_tools") / "_proto"
    flags = (f"-I{_ROOT}", f"-I{bundled}", f"--python_out={directory}", f"--grpc_python_out={directory}")
    assert protoc.main(["protoc", *flags, *map(str, _PROTOS)]) == 0, "protoc failed"
    return directory


def importable(directory: Path) -> None:
    """Make what `compile_into` wrote importable in this process, for good: a process has one descriptor pool."""
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
