"""Interfaces as builds report them, of small schemas that tests write out."""

from __future__ import annotations

import zlib

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from mesh.model import Interface

SERVICE = "shop.v1.Shop"


def described(*paths: str, methods: tuple[str, ...] = ("Buy",), filler: str = "") -> bytes:
    """Return a descriptor set of SERVICE whose first method is at GET of each of `paths`, a request per `{text}`."""
    file = FileDescriptorProto(name="shop/v1/shop.proto", package="shop.v1", syntax="proto3")
    message = file.message_type.add(name=f"Order{filler}")
    message.field.add(name="text", number=1, type=FieldDescriptorProto.TYPE_STRING, label=1)
    service = file.service.add(name="Shop")
    for name in methods:
        service.method.add(name=name, input_type=f".shop.v1.Order{filler}", output_type=f".shop.v1.Order{filler}")
    if paths:
        rule = service.method[0].options.Extensions[annotations_pb2.http]
        rule.get = paths[0]
        for path in paths[1:]:
            rule.additional_bindings.add(get=path)
    return FileDescriptorSet(file=[file]).SerializeToString()


def interface(*paths: str, methods: tuple[str, ...] = ("Buy",), filler: str = "") -> Interface:
    """Return what a build reports of a servicer of `described(...)`."""
    return Interface(True, (SERVICE,), zlib.compress(described(*paths, methods=methods, filler=filler)))
