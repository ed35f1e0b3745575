"""A schema: the services of one revision with their methods, HTTP rules and comments, in a descriptor pool of its own.

Owns what is served of a descriptor set. A pool cannot forget what it learned, so each schema has one, which goes when
nobody holds the schema, or a message of it, any more. JSON options are not here: they belong to a deployment. Never
does I/O. Called by the control plane to check, by the gateway and the command line to serve and to call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from mesh.transcode import comments, descriptor_set
from mesh.transcode.bundled import OWN
from mesh.transcode.descriptor_set import Limits, SchemaError, shown
from mesh.transcode.json_codec import Codecs
from mesh.transcode.rules import HttpRule, check, check_size, flattened

__all__ = ["HttpRule", "Limits", "MethodSchema", "Schema", "SchemaError", "ServiceSchema"]

_DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class MethodSchema:
    """One method. Messages belong to the schema's pool: make them with `Schema.message_class`."""

    full_name: str
    """As it stands in a gRPC path: "pkg.Svc/Method"."""
    input: Descriptor
    output: Descriptor
    client_streaming: bool
    server_streaming: bool
    rules: tuple[HttpRule, ...]
    """As annotated, the first one first; empty: there is none."""
    comments: str
    deprecated: bool
    idempotent: bool
    """Declared NO_SIDE_EFFECTS or IDEMPOTENT."""
    no_side_effects: bool

    @property
    def name(self) -> str:
        """Name within the service."""
        return self.full_name.rpartition("/")[2]

    @property
    def rpc_path(self) -> str:
        """Path of the method in gRPC, gRPC-Web and Connect, relative to nothing."""
        return f"/{self.full_name}"

    @property
    def routes(self) -> tuple[HttpRule, ...]:
        """The HTTP rules it is served by: its own, or else POST at its `rpc_path`."""
        return self.rules or (HttpRule("POST", self.rpc_path, "*", ""),)


@dataclass(frozen=True, slots=True)
class ServiceSchema:
    """One service."""

    full_name: str
    file: str
    """Name of its .proto file."""
    methods: Mapping[str, MethodSchema]
    """By name within the service, in the order of the .proto file."""
    comments: str
    deprecated: bool


class Schema:
    """The services of one revision. Holds its pool; make one with `load`."""

    def __init__(
        self, pool: DescriptorPool, files: tuple[str, ...], services: dict[str, ServiceSchema], told: dict[str, str]
    ) -> None:
        self.pool = pool
        """For reflection: all files, with no source info."""
        self.files = files
        """Names of the files of the set, in its order."""
        self.services = MappingProxyType(services)
        """By full name, sorted."""
        self.comments: Mapping[str, str] = MappingProxyType(told)
        """By full name; those of an enum's value by the enum's full name, a dot, and the value's."""
        self._classes: dict[str, type[Message]] = {}

    @classmethod
    def load(cls, data: bytes, services: Iterable[str] | None = None, *, limits: Limits = _DEFAULT_LIMITS) -> Schema:
        """Return the schema of a serialized FileDescriptorSet.

        `services` are the full names of those that are served; None: all in the set. Raises SchemaError for
        anything that is wrong with the set, its HTTP rules included.
        """
        files = descriptor_set.read(data, limits)
        pool = descriptor_set.load(files)
        told = _comments(files.values())
        schema = cls(pool, tuple(files), _services(pool, files, services, limits, told), told)
        schema._make_classes()
        return schema

    def method(self, full_name: str) -> MethodSchema | None:
        """Return the method "pkg.Svc/Method", or None."""
        service, _, name = full_name.rpartition("/")
        found = self.services.get(service)
        return found.methods.get(name) if found else None

    def message_class(self, descriptor: Descriptor) -> type[Message]:
        """Return the class of a message of this schema."""
        made = self._classes.get(descriptor.full_name)
        if made is None:
            made = self._classes[descriptor.full_name] = message_factory.GetMessageClass(descriptor)
        return made

    def _make_classes(self) -> None:
        """Make the classes of all requests and answers now, so that nothing is left to fail in a call."""
        for service in self.services.values():
            for method in service.methods.values():
                self.message_class(method.input)
                self.message_class(method.output)


def _services(
    pool: DescriptorPool,
    files: Mapping[str, FileDescriptorProto],
    names: Iterable[str] | None,
    limits: Limits,
    told: Mapping[str, str],
) -> dict[str, ServiceSchema]:
    declared = {
        f"{file.package}.{service.name}" if file.package else service.name: (file, service)
        for file in files.values()
        if file.name not in OWN
        for service in file.service
    }
    wanted = sorted(declared if names is None else set(names))
    if not wanted:
        raise SchemaError("the descriptor set has no service")
    for name in wanted:
        if name not in declared:
            raise SchemaError(f"the descriptor set does not describe the service {shown(name)}")
    check_size({name: declared[name][1] for name in wanted}, limits)
    found = {name: _service(pool.FindServiceByName(name), *declared[name], told) for name in wanted}
    check((method for service in found.values() for method in service.methods.values()), Codecs(pool))
    return found


def _service(
    descriptor: ServiceDescriptor,
    file: FileDescriptorProto,
    proto: ServiceDescriptorProto,
    told: Mapping[str, str],
) -> ServiceSchema:
    name = descriptor.full_name
    methods = {each.name: _method(descriptor, each, told) for each in proto.method}
    return ServiceSchema(name, file.name, MappingProxyType(methods), told.get(name, ""), proto.options.deprecated)


def _method(service: ServiceDescriptor, proto: MethodDescriptorProto, told: Mapping[str, str]) -> MethodSchema:
    descriptor = service.methods_by_name[proto.name]
    full_name = f"{service.full_name}/{proto.name}"
    level = proto.options.idempotency_level
    return MethodSchema(
        full_name=full_name,
        input=descriptor.input_type,
        output=descriptor.output_type,
        client_streaming=proto.client_streaming,
        server_streaming=proto.server_streaming,
        rules=flattened(full_name, proto.options),
        comments=told.get(f"{service.full_name}.{proto.name}", ""),
        deprecated=proto.options.deprecated,
        idempotent=level in (MethodOptions.IDEMPOTENT, MethodOptions.NO_SIDE_EFFECTS),
        no_side_effects=level == MethodOptions.NO_SIDE_EFFECTS,
    )


def _comments(files: Iterable[FileDescriptorProto]) -> dict[str, str]:
    return {name: text for file in files if file.name not in OWN for name, text in comments.read(file).items()}
