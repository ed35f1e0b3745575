"""Messages as JSON Schema (2020-12): what their proto3 JSON form looks like to a caller.

Owns the mapping of every field type and well-known type. Collects the messages and enums it meets as components.
Never does I/O. Called by `openapi`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from mesh.transcode.json_codec import JsonOptions
from mesh.transcode.json_known import shared_oneof

JsonSchema = dict[str, Any]

HTTP_BODY = "google.api.HttpBody"
REFERENCE = "#/components/schemas/"

_NOT_FINITE = ["NaN", "Infinity", "-Infinity"]
_SIGNED_64: JsonSchema = {"type": ["string", "integer"], "format": "int64", "pattern": "^-?[0-9]+$"}
_UNSIGNED_64: JsonSchema = {"type": ["string", "integer"], "format": "uint64", "pattern": "^[0-9]+$", "minimum": 0}
_SIGNED_32: JsonSchema = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_UNSIGNED_32: JsonSchema = {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 2**32 - 1}
_BYTES: JsonSchema = {"type": "string", "contentEncoding": "base64"}
_BOOL: JsonSchema = {"type": "boolean"}
_STRING: JsonSchema = {"type": "string"}


def _floating(name: str) -> JsonSchema:
    return {"anyOf": [{"type": "number", "format": name}, {"type": "string", "enum": _NOT_FINITE}]}


SCALARS: Mapping[int, JsonSchema] = {
    FieldDescriptor.TYPE_DOUBLE: _floating("double"),
    FieldDescriptor.TYPE_FLOAT: _floating("float"),
    FieldDescriptor.TYPE_INT64: _SIGNED_64,
    FieldDescriptor.TYPE_SINT64: _SIGNED_64,
    FieldDescriptor.TYPE_SFIXED64: _SIGNED_64,
    FieldDescriptor.TYPE_UINT64: _UNSIGNED_64,
    FieldDescriptor.TYPE_FIXED64: _UNSIGNED_64,
    FieldDescriptor.TYPE_INT32: _SIGNED_32,
    FieldDescriptor.TYPE_SINT32: _SIGNED_32,
    FieldDescriptor.TYPE_SFIXED32: _SIGNED_32,
    FieldDescriptor.TYPE_UINT32: _UNSIGNED_32,
    FieldDescriptor.TYPE_FIXED32: _UNSIGNED_32,
    FieldDescriptor.TYPE_BOOL: _BOOL,
    FieldDescriptor.TYPE_STRING: _STRING,
    FieldDescriptor.TYPE_BYTES: _BYTES,
}
_MAP_KEYS: Mapping[int, JsonSchema] = {
    FieldDescriptor.CPPTYPE_BOOL: {"enum": ["true", "false"]},
    FieldDescriptor.CPPTYPE_INT32: {"pattern": "^-?[0-9]+$"},
    FieldDescriptor.CPPTYPE_INT64: {"pattern": "^-?[0-9]+$"},
    FieldDescriptor.CPPTYPE_UINT32: {"pattern": "^[0-9]+$"},
    FieldDescriptor.CPPTYPE_UINT64: {"pattern": "^[0-9]+$"},
}


def _nullable(schema: JsonSchema) -> JsonSchema:
    """Return the schema of a wrapper around a value of `schema`."""
    if "anyOf" in schema:
        return {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*kinds, "null"]}


_ANY: JsonSchema = {
    "type": "object",
    "description": 'A message of any type: "@type" names it; beside that its fields, or its JSON form in "value".',
    "properties": {"@type": {"type": "string", "examples": ["type.googleapis.com/google.protobuf.Duration"]}},
    "additionalProperties": True,
}
WELL_KNOWN: Mapping[str, JsonSchema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.5Z"]},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$", "examples": ["1.5s"]},
    "google.protobuf.FieldMask": {"type": "string", "description": "Field paths, with commas between them."},
    "google.protobuf.Any": _ANY,
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {"description": "Any JSON value."},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.BoolValue": _nullable(_BOOL),
    "google.protobuf.StringValue": _nullable(_STRING),
    "google.protobuf.BytesValue": _nullable(_BYTES),
    "google.protobuf.Int32Value": _nullable(_SIGNED_32),
    "google.protobuf.UInt32Value": _nullable(_UNSIGNED_32),
    "google.protobuf.Int64Value": _nullable(_SIGNED_64),
    "google.protobuf.UInt64Value": _nullable(_UNSIGNED_64),
    "google.protobuf.FloatValue": _nullable(_floating("float")),
    "google.protobuf.DoubleValue": _nullable(_floating("double")),
}
NULL_VALUE = "google.protobuf.NullValue"


class Types:
    """Writes the types of one application and keeps the components they need."""

    def __init__(self, comments: Mapping[str, str], options: JsonOptions) -> None:
        self._comments = comments
        self._options = options
        self._pending: list[Descriptor | EnumDescriptor] = []
        self._named: set[str] = set()

    def name(self, field: FieldDescriptor) -> str:
        """Return the name of a field in JSON."""
        return field.name if self._options.proto_names else field.json_name

    def path(self, fields: tuple[FieldDescriptor, ...]) -> str:
        """Return the name of a nested field as a query parameter."""
        return ".".join(map(self.name, fields))

    def comment(self, full_name: str) -> str:
        """Return the comment of what has this full name, or ""."""
        return self._comments.get(full_name, "")

    def message(self, descriptor: Descriptor) -> JsonSchema:
        """Return the schema of a message: in place for well-known types, else a reference."""
        if (known := WELL_KNOWN.get(descriptor.full_name)) is not None:
            return dict(known)
        return self._reference(descriptor)

    def enum(self, descriptor: EnumDescriptor) -> JsonSchema:
        """Return the schema of an enum: a reference."""
        return {"type": "null"} if descriptor.full_name == NULL_VALUE else self._reference(descriptor)

    def field(self, field: FieldDescriptor) -> JsonSchema:
        """Return the schema of a field with its comment and what its options say of it."""
        if is_map(field):
            schema: JsonSchema = self._map(field)
        elif field.is_repeated:
            schema = {"type": "array", "items": self.value(field)}
        else:
            schema = self.value(field)
        oneof = shared_oneof(field)
        note = f"At most one of {', '.join(map(self.name, oneof.fields))} (oneof {oneof.name})." if oneof else ""
        if text := "\n\n".join(filter(None, (self.comment(field.full_name), note))):
            schema["description"] = text
        if oneof is not None:
            schema["x-mesh-oneof"] = oneof.name
        behaviors = behavior(field)
        if field_behavior_pb2.OUTPUT_ONLY in behaviors:
            schema["readOnly"] = True
        if field_behavior_pb2.INPUT_ONLY in behaviors:
            schema["writeOnly"] = True
        if field.GetOptions().deprecated:
            schema["deprecated"] = True
        return schema

    def value(self, field: FieldDescriptor) -> JsonSchema:
        """Return the schema of one value of a field."""
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return self.enum(field.enum_type)
        return dict(SCALARS[field.type])

    def fields(self, descriptor: Descriptor, without: frozenset[str] = frozenset()) -> JsonSchema:
        """Return the schema of a message written out, but for the fields named in `without`."""
        schema: JsonSchema = {"type": "object"}
        if text := self.comment(descriptor.full_name):
            schema["description"] = text
        shown = [field for field in descriptor.fields if field.name not in without]
        if shown:
            schema["properties"] = {self.name(field): self.field(field) for field in shown}
        required = [self.name(field) for field in shown if field_behavior_pb2.REQUIRED in behavior(field)]
        if required:
            schema["required"] = required
        if descriptor.GetOptions().deprecated:
            schema["deprecated"] = True
        return schema

    def components(self) -> dict[str, JsonSchema]:
        """Return all messages and enums referred to so far, and those that they refer to, by full name."""
        written: dict[str, JsonSchema] = {}
        while self._pending:
            descriptor = self._pending.pop()
            body = self.fields(descriptor) if isinstance(descriptor, Descriptor) else self._enum(descriptor)
            written[descriptor.full_name] = body
        self._named.clear()
        return {name: written[name] for name in sorted(written)}

    def _reference(self, descriptor: Descriptor | EnumDescriptor) -> JsonSchema:
        if descriptor.full_name not in self._named:
            self._named.add(descriptor.full_name)
            self._pending.append(descriptor)
        return {"$ref": f"{REFERENCE}{descriptor.full_name}"}

    def _map(self, field: FieldDescriptor) -> JsonSchema:
        assert field.message_type is not None
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        schema: JsonSchema = {"type": "object", "additionalProperties": self.value(value)}
        if (names := _MAP_KEYS.get(key.cpp_type)) is not None:
            schema["propertyNames"] = dict(names)
        return schema

    def _enum(self, descriptor: EnumDescriptor) -> JsonSchema:
        numbers = self._options.enums_as_numbers
        named = {value.number if numbers else value.name: value for value in descriptor.values}
        values = [value for value in named.values() if not value.GetOptions().deprecated]
        schema: JsonSchema = {"type": "integer" if numbers else "string"}
        schema["enum"] = list(named)
        notes = [self.comment(descriptor.full_name)]
        told = {value.name: self.comment(f"{descriptor.full_name}.{value.name}") for value in descriptor.values}
        lines = [f"- {value.name}{_numbered(value.number, numbers)}{_said(told[value.name])}" for value in values]
        if numbers or any(told.values()):
            notes.append("\n".join(lines))
        if text := "\n\n".join(filter(None, notes)):
            schema["description"] = text
        if descriptor.GetOptions().deprecated:
            schema["deprecated"] = True
        return schema


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return bool(field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry)


def behavior(field: FieldDescriptor) -> frozenset[int]:
    """Return what `google.api.field_behavior` says of a field."""
    return frozenset(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])


def _numbered(number: int, shown: bool) -> str:
    return f" = {number}" if shown else ""


def _said(text: str) -> str:
    return f": {' '.join(text.split())}" if text else ""
