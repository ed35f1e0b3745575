"""The test protos `everything.proto` and `legacy.proto` in a descriptor pool of their own, compiled once a process."""

from __future__ import annotations

import tempfile
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc  # type: ignore[import-untyped]

PROTOS = Path(__file__).parents[1] / "protos"


@cache
def pool() -> DescriptorPool:
    """Return a private pool with both files and what they import."""
    made = DescriptorPool()
    for file in FileDescriptorSet.FromString(descriptor_set()).file:
        made.Add(file)
    return made


@cache
def descriptor_set() -> bytes:
    """Return the serialized FileDescriptorSet of both files, imports first."""
    googleapis = Path(str(distribution("googleapis-common-protos").locate_file("")))
    bundled = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.bin"
        arguments = [f"-I{PROTOS}", f"-I{bundled}", f"-I{googleapis}", "--include_imports"]
        files = ["everything.proto", "legacy.proto"]
        assert protoc.main(["protoc", *arguments, f"--descriptor_set_out={out}", *files]) == 0
        return out.read_bytes()


def descriptor(name: str) -> Descriptor:
    """Return a message type by its full name."""
    return pool().FindMessageTypeByName(name)


def message_class(name: str) -> type[Message]:
    """Return the class of a message type."""
    return GetMessageClass(descriptor(name))
