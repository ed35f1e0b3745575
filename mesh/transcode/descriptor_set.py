"""A FileDescriptorSet from somebody else: read, limited, checked, and put in the order in which a pool takes it.

Owns what is refused before protobuf's own checks see it, and the map of protobuf's refusals to `SchemaError`. Counts
on nothing in the input: it may be cut, hostile, or for another version of a file that protobuf brings itself. Never
does I/O. Called by `schema`.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, EncodeError

from mesh.errors import MeshError
from mesh.transcode.bundled import BUNDLED, OWN, OWN_SYMBOLS


class SchemaError(MeshError):
    """A descriptor set cannot be served. The message is one plain sentence that says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a descriptor set may be."""

    bytes_max: int = 4 * 1024 * 1024
    files_max: int = 1000
    symbols_max: int = 50_000
    """Messages, fields, enums, their values, services, methods and oneofs together."""
    name_characters_max: int = 1000
    """Of a full name, or of a file's name."""
    nesting_max: int = 32
    """Of messages declared in messages."""
    rules_max: int = 5000
    """HTTP rules of the services that are served, additional bindings included."""
    path_characters_max: int = 500_000
    """Of all paths of the services together."""


_LOCATIONS_PER_SYMBOL_MAX = 10
_TEXT_CHARACTERS_MAX = 300
_MAP_KEYS = frozenset(range(1, 19)) - {
    *(FieldDescriptorProto.TYPE_DOUBLE, FieldDescriptorProto.TYPE_FLOAT, FieldDescriptorProto.TYPE_ENUM),
    *(FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_GROUP, FieldDescriptorProto.TYPE_BYTES),
}
_INSIDE: Mapping[str, tuple[str, ...]] = {
    "FileDescriptorProto": ("message_type", "enum_type", "service", "extension"),
    "DescriptorProto": ("nested_type", "enum_type", "field", "oneof_decl", "extension"),
    "EnumDescriptorProto": ("value",),
    "ServiceDescriptorProto": ("method",),
}
"""The fields of descriptor.proto that declare something, by message."""


def read(data: bytes, limits: Limits) -> dict[str, FileDescriptorProto]:
    """Return the files of a serialized FileDescriptorSet, by name, within `limits`. Raises SchemaError."""
    if len(data) > limits.bytes_max:
        raise SchemaError(f"the descriptor set has {len(data)} bytes; {limits.bytes_max} are allowed")
    try:
        described = FileDescriptorSet.FromString(data)
    except DecodeError:
        raise SchemaError("the descriptor set is malformed: it is no google.protobuf.FileDescriptorSet") from None
    return _files(described, limits)


def load(files: Mapping[str, FileDescriptorProto]) -> DescriptorPool:
    """Return a new pool with `files`, and with those that they import and that are at hand here. Raises SchemaError."""
    pool = DescriptorPool()
    for name in _in_order(files):
        if name in OWN or name not in files:
            data = BUNDLED[name].serialized_pb
        else:
            bare = FileDescriptorProto()
            bare.CopyFrom(files[name])
            bare.ClearField("source_code_info")
            data = bare.SerializeToString()
        try:
            pool.AddSerializedFile(data)
        except (TypeError, ValueError, EncodeError) as error:
            reason = str(error).removeprefix("Couldn't build proto file into descriptor pool: ")
            if reason == "out of memory":  # what protobuf says of some shapes that protoc never makes
                reason = "its declarations do not fit each other"
            raise SchemaError(f"{shown(name)} is refused by protobuf: {one_line(reason)}") from None
    return pool


def shown(text: str) -> str:
    """Return a name of the input as it may stand in a sentence."""
    return ascii(text if len(text) <= 100 else f"{text[:100]}...")


def one_line(text: str) -> str:
    """Return foreign text as it may stand in a sentence."""
    line = "".join(character if character.isprintable() else "?" for character in text)
    return line if len(line) <= _TEXT_CHARACTERS_MAX else f"{line[:_TEXT_CHARACTERS_MAX]}..."


def _files(described: FileDescriptorSet, limits: Limits) -> dict[str, FileDescriptorProto]:
    if not described.file:
        raise SchemaError("the descriptor set is empty")
    if len(described.file) > limits.files_max:
        raise SchemaError(f"the descriptor set has {len(described.file)} files; {limits.files_max} are allowed")
    files: dict[str, FileDescriptorProto] = {}
    symbols = locations = 0
    for file in described.file:
        _check_name(file.name, "a file's name", limits)
        if file.name in files:
            if files[file.name] != file:
                raise SchemaError(f"the descriptor set has two files {shown(file.name)} that differ")
            continue
        files[file.name] = file
        for _ in _checked(file, limits):
            if (symbols := symbols + 1) > limits.symbols_max:
                raise SchemaError(f"the descriptor set declares more than the {limits.symbols_max} names allowed")
        locations += len(file.source_code_info.location)
    if locations > limits.symbols_max * _LOCATIONS_PER_SYMBOL_MAX:
        raise SchemaError("the descriptor set has more source info than is allowed: keep only what has comments")
    return files


def _checked(file: FileDescriptorProto, limits: Limits) -> Iterator[str]:
    """Yield the full name of everything that `file` declares. Raises SchemaError at what may not be."""
    _check_name(file.package or "-", "a package", limits)
    for text in (file.syntax, *file.dependency):
        _check_text(text)
    pending: list[tuple[Any, str, int]] = [(file, file.package, 0)]
    while pending:
        at, scope, depth = pending.pop()
        if isinstance(at, DescriptorProto):
            _check_message(at, scope, file, inside_message=depth > 1)
        if depth > limits.nesting_max:
            raise SchemaError(f"{shown(scope)} is declared {depth} messages deep; {limits.nesting_max} are allowed")
        for kind in _INSIDE.get(at.DESCRIPTOR.name, ()):
            for inner in getattr(at, kind):
                _check_name(inner.name, f"a name in {shown(file.name)}", limits)
                name = f"{scope}.{inner.name}" if scope else inner.name
                _check_name(name, "a full name", limits)
                if OWN_SYMBOLS.get(name, file.name) != file.name:
                    text = f"{shown(file.name)} declares {name}, which only {OWN_SYMBOLS[name]} may declare"
                    raise SchemaError(text)
                yield name
                pending.append((inner, name, depth + 1))


def _check_message(message: DescriptorProto, name: str, file: FileDescriptorProto, *, inside_message: bool) -> None:
    """Refuse what protoc never makes but a pool would take."""
    if message.options.map_entry:
        _check_map_entry(message, name, inside_message=inside_message)
    if file.syntax == "proto3" or file.syntax == "editions":
        seen: dict[str, str] = {}
        for field in message.field:
            _check_text(field.name)
            _check_text(field.json_name)
            other = seen.setdefault(field.json_name or json_name(field.name), field.name)
            if other != field.name:
                text = f"the fields {shown(other)} and {shown(field.name)} of {shown(name)} have one name in JSON"
                raise SchemaError(text, hint="give one of them another json_name")


def _check_map_entry(message: DescriptorProto, name: str, *, inside_message: bool) -> None:
    shape = [(field.name, field.number, field.label) for field in message.field]
    optional = FieldDescriptorProto.LABEL_OPTIONAL
    fits = inside_message and shape == [("key", 1, optional), ("value", 2, optional)]
    inner = message.nested_type or message.enum_type or message.extension or message.oneof_decl
    if not fits or inner or message.field[0].type not in _MAP_KEYS:
        raise SchemaError(f"{shown(name)} says it is the entry of a map, and is none")


def json_name(name: str) -> str:
    """Return the default name in JSON of a field: the letter after each underscore in upper case."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)


def _check_name(name: str, what: str, limits: Limits) -> None:
    _check_text(name)
    if not name:
        raise SchemaError(f"{what} is empty")
    if len(name) > limits.name_characters_max:
        raise SchemaError(f"{what} has {len(name)} characters; {limits.name_characters_max} are allowed")


def _check_text(text: object) -> None:
    """Refuse a string that is not UTF-8. The messages of descriptor.proto are proto2: such a string reads as bytes."""
    if not isinstance(text, str):
        raise SchemaError("the descriptor set is malformed: a name in it is not UTF-8")


def _in_order(files: Mapping[str, FileDescriptorProto]) -> list[str]:
    """Return the names of `files` and of all they import, each after its imports."""
    imports: dict[str, list[str]] = {}
    pending = sorted(files, reverse=True)
    while pending:
        name = pending.pop()
        if name in imports:
            continue
        if name in OWN or name not in files:
            imports[name] = [file.name for file in BUNDLED[name].dependencies]
        else:
            imports[name] = list(files[name].dependency)
            for needed in imports[name]:
                if needed not in files and needed not in BUNDLED:
                    text = f"{shown(name)} imports {shown(needed)}, which the descriptor set lacks"
                    raise SchemaError(text, hint="a descriptor set holds all files that its files import")
        pending += sorted(imports[name], reverse=True)
    try:
        return list(graphlib.TopologicalSorter(imports).static_order())
    except graphlib.CycleError as error:
        cycle = [str(name) for name in error.args[1]][::-1]
        path = " -> ".join(map(shown, cycle[:6]))
        raise SchemaError(f"the files import each other in a circle: {path}") from None
