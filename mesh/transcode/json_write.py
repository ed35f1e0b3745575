"""Messages to JSON text: a table per message type, filled as fields are first met.

Owns names, defaults, repeated fields, maps, extensions, wrappers and Any. Writes text and no values in between:
that halves the time. Scalars and the other well-known types are siblings'. Pure. Called by `json_codec`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf import empty_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from mesh.transcode import json_known, json_scalars
from mesh.transcode.json_known import Text
from mesh.transcode.json_text import ANY_NESTING, NESTING_MAX
from mesh.transcode.refusals import Flaw, quoted

# Unbound, because a message may have a field of the same name.
_EMPTY: Any = empty_pb2.Empty
_list_fields: Callable[[Any], list[tuple[FieldDescriptor, Any]]] = _EMPTY.ListFields
_has_field: Callable[[Any, str], bool] = _EMPTY.HasField
_merge: Callable[[Any, bytes], int] = _EMPTY.MergeFromString


@dataclass(frozen=True, slots=True)
class JsonOptions:
    """How a deployment wants its JSON."""

    emit_defaults: bool = False
    """Write fields that have no presence also when they are zero or empty."""
    proto_names: bool = False
    """Write the names of the .proto file and not their lowerCamelCase."""
    enums_as_numbers: bool = False
    """Write numbers and not names of enum values."""


class _Entry(NamedTuple):
    """How one field is written."""

    prefix: str
    """The name, quoted, and the colon."""
    scalar: json_scalars.Write | None
    nested: Text | None
    """Stands instead of `scalar` where a message may be inside: takes the nesting too."""


class MessageWriter:
    """Writes messages of one type."""

    __slots__ = ("_defaults", "_entries", "_writers", "descriptor", "new", "text")

    def __init__(self, descriptor: Descriptor, writers: MessageWriters) -> None:
        self.descriptor = descriptor
        self.new: type[Message] = GetMessageClass(descriptor)
        self._writers = writers
        self._entries: dict[FieldDescriptor, _Entry] = {}
        self._defaults: list[tuple[FieldDescriptor, str]] | None = None
        self.text: Text = self._special() or self._text
        """(message, its nesting) -> JSON text. Raises Flaw."""

    @property
    def special(self) -> bool:
        """Whether the JSON form is not an object of the fields."""
        return self.text != self._text

    def members(self, message: Any, nesting: int) -> list[str]:
        """Return the members of the object, each as text."""
        if nesting > NESTING_MAX:
            raise Flaw("nested too deep")
        entries, parts, fields = self._entries, [], _list_fields(message)
        for field, value in fields:
            entry = entries.get(field)
            if entry is None:
                entry = entries[field] = self._entry(field)
            prefix, scalar, nested = entry
            try:
                if scalar is not None:
                    parts.append(prefix + scalar(value))
                elif nested is not None:
                    parts.append(prefix + nested(value, nesting))
            except Flaw as flaw:
                flaw.inside(field.json_name)
                raise
        if self._writers.options.emit_defaults:
            self._add_defaults(parts, {field for field, _ in fields})
        return parts

    def field_text(self, message: Any, field: FieldDescriptor) -> str:
        """Return the JSON text of one field; null if it has presence and is not set."""
        if field.has_presence and not _has_field(message, field.name):
            return "null"
        _, scalar, nested = self._entry(field)
        value = getattr(message, field.name)
        return scalar(value) if scalar is not None else nested(value, 0) if nested is not None else "null"

    def _text(self, message: Any, nesting: int) -> str:
        """Write an object of the fields."""
        return "{" + ",".join(self.members(message, nesting)) + "}"

    def _special(self) -> Text | None:
        """Return what writes a well-known type, None for all others."""
        name = self.descriptor.full_name
        if name not in json_known.SPECIAL or not json_known.is_standard(self.descriptor):
            return None
        if name == json_known.ANY:
            return self._writers.any_text
        if name in json_known.WRAPPERS:
            return _wrapper(self._writers.scalar(json_known.scalar_field(self.descriptor)))
        return json_known.TEXTS[name]

    def _name(self, field: FieldDescriptor) -> str:
        """Return the key of a field with its colon."""
        if field.is_extension:
            return f'"[{field.full_name}]":'
        name = field.name if self._writers.options.proto_names else field.json_name
        return json_scalars.write_string(name) + ":"

    def _entry(self, field: FieldDescriptor) -> _Entry:
        """Make the entry of a field."""
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            return _Entry(self._name(field), None, self._writers.map(kind))
        if kind is not None:
            text = self._writers.get(kind).text
            return _Entry(self._name(field), None, _list(text) if field.is_repeated else _deeper(text))
        write = self._writers.scalar(field)
        if field.is_repeated:
            return _Entry(self._name(field), _scalars(write), None)
        return _Entry(self._name(field), write, None)

    def _add_defaults(self, parts: list[str], present: set[FieldDescriptor]) -> None:
        """Add the fields without presence that are not set."""
        if self._defaults is None:
            self._defaults = [
                (field, self._name(field) + self._default(field))
                for field in self.descriptor.fields
                if not field.has_presence
            ]
        parts.extend([text for field, text in self._defaults if field not in present])

    def _default(self, field: FieldDescriptor) -> str:
        """Return the JSON text of a field that is not set."""
        if field.is_repeated:
            is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
            return "{}" if is_map else "[]"
        return self._writers.scalar(field)(field.default_value)


class MessageWriters:
    """The writers of the types of one pool with one set of options, made on demand and kept."""

    def __init__(self, pool: DescriptorPool, options: JsonOptions) -> None:
        self.pool = pool
        self.options = options
        self._by_name: dict[str, MessageWriter] = {}

    def get(self, descriptor: Descriptor) -> MessageWriter:
        """Return the writer of a type of the pool."""
        writer = self._by_name.get(descriptor.full_name)
        if writer is None:
            writer = self._by_name[descriptor.full_name] = MessageWriter(descriptor, self)
        return writer

    def scalar(self, field: FieldDescriptor) -> json_scalars.Write:
        """Return the writer of a scalar field, or of one element of a repeated one."""
        return json_scalars.writer(field, enums_as_numbers=self.options.enums_as_numbers)

    def map(self, entry: Descriptor) -> Text:
        """Return what writes a map."""
        write_key = json_scalars.key_writer(entry.fields_by_name["key"])
        field = entry.fields_by_name["value"]
        if field.message_type is None:
            return _map_of_scalars(write_key, self.scalar(field))
        return _map_of_messages(write_key, self.get(field.message_type).text)

    def any_text(self, message: Any, nesting: int) -> str:
        """Write an Any: its type in "@type", beside it the fields of its content, or "value"."""
        if nesting > NESTING_MAX:
            raise Flaw("nested too deep")
        url, packed = message.type_url, message.value
        if not url and not packed:
            return "{}"
        writer = self._any_type(url)
        content = writer.new()
        try:
            _merge(content, packed)
        except DecodeError:
            raise Flaw(f"the Any does not hold a {writer.descriptor.full_name}") from None
        head = '"@type":' + json_scalars.write_string(url)
        if writer.special:
            return f'{{{head},"value":{writer.text(content, nesting + ANY_NESTING)}}}'
        return "{" + ",".join([head, *writer.members(content, nesting + ANY_NESTING)]) + "}"

    def _any_type(self, url: str) -> MessageWriter:
        """Return the writer of the type that an Any names."""
        return self.get(json_known.any_type(self.pool, url))


def _wrapper(write: json_scalars.Write) -> Text:
    """Return what writes a wrapper: the bare value of its field."""
    return lambda message, nesting: write(message.value)


def _deeper(text: Text) -> Text:
    """Return what writes a single message field."""
    return lambda message, nesting: text(message, nesting + 1)


def _scalars(write: json_scalars.Write) -> json_scalars.Write:
    """Return what writes a repeated scalar field."""
    return lambda values: "[" + ",".join(map(write, values)) + "]"


def _list(text: Text) -> Text:
    """Return what writes a repeated message field."""

    def write(values: Any, nesting: int) -> str:
        parts: list[str] = []
        try:
            for value in values:
                parts.append(text(value, nesting + 1))  # noqa: PERF401 - its length is the index of a flaw
        except Flaw as flaw:
            flaw.inside(f"[{len(parts)}]")
            raise
        return "[" + ",".join(parts) + "]"

    return write


def _map_of_scalars(write_key: json_scalars.Write, write_value: json_scalars.Write) -> Text:
    """Return what writes a map with scalar values."""

    def write(values: Any, nesting: int) -> str:
        return "{" + ",".join([f"{write_key(key)}:{write_value(value)}" for key, value in values.items()]) + "}"

    return write


def _map_of_messages(write_key: json_scalars.Write, text: Text) -> Text:
    """Return what writes a map with message values. An entry nests one deeper than its value seems to."""

    def write(values: Any, nesting: int) -> str:
        parts, key = [], ""
        try:
            for key, value in values.items():
                parts.append(f"{write_key(key)}:{text(value, nesting + 2)}")
        except Flaw as flaw:
            flaw.inside(f"[{quoted(str(key))}]")
            raise
        return "{" + ",".join(parts) + "}"

    return write
