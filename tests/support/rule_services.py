"""Services made of nothing but HTTP rules: for each route a method whose request has the fields of its template."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from mesh import wire
from mesh.model import Interface
from mesh.transcode.template import TemplateError, parse_template
from mesh.v1 import deployment_pb2

_VERBS = ("get", "put", "post", "delete", "patch")
_Tree = dict[str, Any]


def interface(service: str, descriptors: bytes) -> deployment_pb2.Interface:
    """Return what a deployment answers to that serves one service and no HTTP."""
    return wire.to_proto(Interface(True, (service,), zlib.compress(descriptors)), deployment_pb2.Interface)


def descriptor_set(package: str, routes: Mapping[str, tuple[str, str]]) -> bytes:
    """Return a serialized FileDescriptorSet of the service `package`.Routes.

    `routes` maps the name of a method to the HTTP method and the template of its rule. Its request and answer is the
    message of the same name, all of whose fields are `optional string`.
    """
    file = FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    file.dependency.append("google/api/annotations.proto")
    service = file.service.add(name="Routes")
    for label, (http_method, template) in routes.items():
        name = f"{label.title().replace('_', '')}Request"
        _fill(file.message_type.add(name=name), _fields(template))
        method = service.method.add(name=label, input_type=f".{package}.{name}", output_type=f".{package}.{name}")
        rule = method.options.Extensions[annotations_pb2.http]
        if http_method.lower() in _VERBS:
            setattr(rule, http_method.lower(), template)
        else:
            rule.custom.kind, rule.custom.path = http_method, template
    return FileDescriptorSet(file=[*_imports(), file]).SerializeToString()


def _fields(template: str) -> _Tree:
    """Return the fields that a template names, as a tree; none if it is no template."""
    tree: _Tree = {}
    try:
        paths = [variable.field_path for variable in parse_template(template).variables]
    except TemplateError:
        return tree
    for path in paths:
        node = tree
        for name in path.split("."):
            node = node.setdefault(name, {})
    return tree


def _fill(message: DescriptorProto, tree: _Tree) -> None:
    for number, (name, below) in enumerate(tree.items(), 1):
        field = message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        if below:
            field.type = FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = f"{name.title()}Part"
            _fill(message.nested_type.add(name=field.type_name), below)
        else:
            field.type = FieldDescriptorProto.TYPE_STRING
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{name}")


def _imports() -> list[FileDescriptorProto]:
    """Return annotations.proto and what it imports, each after what it needs."""
    found: dict[str, FileDescriptorProto] = {}

    def visit(file: Any) -> None:
        for each in file.dependencies:
            visit(each)
        found[file.name] = FileDescriptorProto.FromString(file.serialized_pb)

    visit(annotations_pb2.DESCRIPTOR)
    return list(found.values())
