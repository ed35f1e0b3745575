"""Decoded JSON into messages: a table per message type, made when the type is first met.

Owns names (JSON and proto, never both at once), null, oneofs, repeated fields, maps, extensions, wrappers and Any.
Scalars and the other well-known types are siblings'. A recursive type needs no care: tables refer to each other
through `MessageReader`s, which are empty until used. Pure. Called by `json_codec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

from google.protobuf import empty_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import EncodeError, Message
from google.protobuf.message_factory import GetMessageClass

from mesh.transcode import json_known, json_scalars
from mesh.transcode.json_known import Fill, set_in_parent, which_oneof
from mesh.transcode.json_text import ANY_NESTING, NESTING_MAX, type_name
from mesh.transcode.refusals import Flaw, quoted, step

Container: TypeAlias = Callable[[Any], Any]
"""message -> the submessage, repeated or map container of one field"""

_serialize: Callable[[Any], bytes] = empty_pb2.Empty.SerializeToString


class _Entry(NamedTuple):
    """What one key of an object does. Plain scalars have `read` and are set by the loop itself, others have `put`."""

    read: json_scalars.Read
    attribute: str
    put: Fill | None
    twin: str | None
    """The other name of the same field."""


class MessageReader:
    """Fills messages of one type."""

    __slots__ = ("_entries", "_readers", "descriptor", "fill", "new")

    def __init__(self, descriptor: Descriptor, readers: MessageReaders) -> None:
        self.descriptor = descriptor
        self.new: type[Message] = GetMessageClass(descriptor)
        self._readers = readers
        self._entries: dict[str, _Entry] | None = None
        self.fill: Fill = self._special() or self._fill
        """(empty message, JSON value, its nesting): raises Flaw"""

    @property
    def special(self) -> bool:
        """Whether the JSON form is not an object of the fields."""
        return self.fill != self._fill

    def _fill(self, message: Any, value: object, nesting: int) -> None:
        """Read an object of the fields."""
        if type(value) is not dict:
            raise Flaw(f"an object is expected, not {type_name(value)}")
        if nesting > NESTING_MAX:
            raise Flaw("nested too deep")
        entries = self._entries
        if entries is None:
            entries = self._entries = self._compile()
        name = ""
        try:
            for name, item in value.items():
                entry = entries.get(name)
                if entry is None:
                    entry = self._extension(entries, name)
                read, attribute, put, twin = entry
                if twin is not None and twin in value:
                    raise Flaw(f"the same field is there as {quoted(twin)} too")
                if put is not None:
                    put(message, item, nesting)
                elif item is not None:
                    setattr(message, attribute, read(item))
        except Flaw as flaw:
            flaw.inside(step(name))
            raise

    def _special(self) -> Fill | None:
        """Return what reads a well-known type, None for all others."""
        name = self.descriptor.full_name
        if name not in json_known.SPECIAL or not json_known.is_standard(self.descriptor):
            return None
        if name == json_known.ANY:
            return self._readers.fill_any
        if name in json_known.WRAPPERS:
            return _wrapper(json_scalars.reader(json_known.scalar_field(self.descriptor)))
        return json_known.FILLS[name]

    def _compile(self) -> dict[str, _Entry]:
        """Make the table: JSON names, and proto names that are not the JSON name of another field."""
        entries = {}
        for field in self.descriptor.fields:
            entries[field.name] = self._entry(field, None if field.json_name == field.name else field.json_name)
        for field in self.descriptor.fields:
            if field.json_name != field.name:
                entries[field.json_name] = self._entry(field, field.name)
        return entries

    def _entry(self, field: FieldDescriptor, twin: str | None) -> _Entry:
        """Make the entry of a field under one of its names."""
        put = self._readers.put(field, attrgetter(field.name))
        oneof = json_known.shared_oneof(field)
        if put is None and (oneof is not None or _is_null(field)):
            put = _scalar(field.name, json_scalars.reader(field), nullable=_is_null(field))
        if put is not None and oneof is not None:
            put = _sole(oneof.name, put, nullable=_takes_null(field))
        return _Entry(_unused if put is not None else json_scalars.reader(field), field.name, put, twin)

    def _extension(self, entries: dict[str, _Entry], key: str) -> _Entry:
        """Find the extension field that a key such as [package.name] means, and keep it in the table."""
        field = None
        if key.startswith("[") and key.endswith("]") and key.isascii() and self.descriptor.is_extendable:
            with suppress(KeyError):
                field = self._readers.pool.FindExtensionByName(key[1:-1])
        extended = field.containing_type if field is not None else None
        if field is None or extended is None or extended.full_name != self.descriptor.full_name:
            raise Flaw("no such field")
        put = self._readers.put(field, lambda message: message.Extensions[field])
        entries[key] = _Entry(_unused, key, put or _extension_scalar(field), None)
        return entries[key]


class MessageReaders:
    """The readers of the types of one pool, made on demand and kept."""

    def __init__(self, pool: DescriptorPool) -> None:
        self.pool = pool
        self._by_name: dict[str, MessageReader] = {}

    def get(self, descriptor: Descriptor) -> MessageReader:
        """Return the reader of a type of the pool."""
        reader = self._by_name.get(descriptor.full_name)
        if reader is None:
            reader = self._by_name[descriptor.full_name] = MessageReader(descriptor, self)
        return reader

    def put(self, field: FieldDescriptor, container: Container) -> Fill | None:
        """Return what reads a message, map or repeated field into its message; None for a single scalar."""
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            return self._map(kind, container)
        if field.is_repeated:
            if kind is not None:
                return _repeated_messages(self.get(kind), container)
            return _repeated_scalars(json_scalars.reader(field), container)
        if kind is not None:
            return _message(self.get(kind), container, nullable=_takes_null(field))
        return None

    def _map(self, entry: Descriptor, container: Container) -> Fill:
        """Return what reads a map."""
        read_key = json_scalars.key_reader(entry.fields_by_name["key"])
        field = entry.fields_by_name["value"]
        if field.message_type is None:
            return _map_of_scalars(read_key, json_scalars.reader(field), container)
        return _map_of_messages(read_key, self.get(field.message_type), container)

    def fill_any(self, message: Any, value: object, nesting: int) -> None:
        """Read an Any: the type in "@type", beside it the fields, or "value" for a type with a form of its own."""
        if type(value) is not dict:
            raise Flaw(f"an object is expected, not {type_name(value)}")
        if nesting > NESTING_MAX:
            raise Flaw("nested too deep")
        if not value:
            return
        reader = self._any_type(value.get("@type"))
        content = reader.new()
        if not reader.special:
            reader.fill(content, {name: item for name, item in value.items() if name != "@type"}, nesting + ANY_NESTING)
        elif value.keys() == {"@type", "value"}:
            _fill_at("value", reader, content, value["value"], nesting + ANY_NESTING)
        else:
            raise Flaw(f'for {reader.descriptor.full_name} exactly "@type" and "value" are expected')
        try:
            packed = _serialize(content)
        except EncodeError:
            raise Flaw(f"required fields of {reader.descriptor.full_name} are missing") from None
        message.type_url, message.value = value["@type"], packed

    def _any_type(self, url: object) -> MessageReader:
        """Return the reader of the type that an "@type" names."""
        try:
            if type(url) is not str:
                raise Flaw("the type is missing" if url is None else f"a string is expected, not {type_name(url)}")
            return self.get(json_known.any_type(self.pool, url))
        except Flaw as flaw:
            flaw.inside("@type")
            raise


def _is_null(field: FieldDescriptor) -> bool:
    """Whether null is the one value of a scalar field."""
    return field.enum_type is not None and field.enum_type.full_name == json_scalars.NULL_VALUE


def _takes_null(field: FieldDescriptor) -> bool:
    """Whether null is a value of a single field, and not its absence."""
    return _is_null(field) or (field.message_type is not None and field.message_type.full_name == json_known.VALUE)


def _unused(value: object) -> json_scalars.Scalar:
    """Stand where an entry has `put` and no reader is called."""
    raise AssertionError(value)


def _wrapper(read: json_scalars.Read) -> Fill:
    """Return what reads a wrapper: the bare value of its field."""

    def fill(message: Any, value: object, nesting: int) -> None:
        message.value = read(value)

    return fill


def _scalar(attribute: str, read: json_scalars.Read, *, nullable: bool) -> Fill:
    """Return what sets a scalar."""

    def put(message: Any, item: object, nesting: int) -> None:
        if item is not None or nullable:
            setattr(message, attribute, read(item))

    return put


def _extension_scalar(field: FieldDescriptor) -> Fill:
    """Return what sets a scalar extension field."""
    read, nullable = json_scalars.reader(field), _is_null(field)

    def put(message: Any, item: object, nesting: int) -> None:
        if item is not None or nullable:
            message.Extensions[field] = read(item)

    return put


def _sole(oneof: str, put: Fill, *, nullable: bool) -> Fill:
    """Return what reads a field of a oneof: no other of its fields may be set yet."""

    def put_sole(message: Any, item: object, nesting: int) -> None:
        if item is not None or nullable:
            if (other := which_oneof(message, oneof)) is not None:
                raise Flaw(f'only one field of the oneof "{oneof}" may be set, "{other}" is')
            put(message, item, nesting)

    return put_sole


def _message(reader: MessageReader, container: Container, *, nullable: bool) -> Fill:
    """Return what reads a single message field."""
    fill = reader.fill

    def put(message: Any, item: object, nesting: int) -> None:
        if item is not None or nullable:
            part = container(message)
            set_in_parent(part)
            fill(part, item, nesting + 1)

    return put


def _repeated_scalars(read: json_scalars.Read, container: Container) -> Fill:
    """Return what reads a repeated scalar field."""

    def put(message: Any, item: object, nesting: int) -> None:
        if item is None:
            return
        if type(item) is not list:
            raise Flaw(f"an array is expected, not {type_name(item)}")
        values: list[json_scalars.Scalar] = []
        try:
            for element in item:
                values.append(read(element))  # noqa: PERF401 - its length is the index of a flaw
        except Flaw as flaw:
            flaw.inside(f"[{len(values)}]")
            raise
        container(message).extend(values)

    return put


def _repeated_messages(reader: MessageReader, container: Container) -> Fill:
    """Return what reads a repeated message field."""

    def put(message: Any, item: object, nesting: int) -> None:
        if item is None:
            return
        if type(item) is not list:
            raise Flaw(f"an array is expected, not {type_name(item)}")
        fill, add, index = reader.fill, container(message).add, 0
        try:
            for index, element in enumerate(item):  # noqa: B007 - the index is for the path of a flaw
                fill(add(), element, nesting + 1)
        except Flaw as flaw:
            flaw.inside(f"[{index}]")
            raise

    return put


def _members(item: object) -> Mapping[str, object]:
    """Return the members of the JSON object of a map."""
    if type(item) is not dict:
        raise Flaw(f"an object is expected, not {type_name(item)}")
    return item


def _map_of_scalars(read_key: json_scalars.ReadText, read: json_scalars.Read, container: Container) -> Fill:
    """Return what reads a map with scalar values."""

    def put(message: Any, item: object, nesting: int) -> None:
        if item is None:
            return
        members, values, key = _members(item), container(message), ""
        try:
            for key, element in members.items():
                values[read_key(key)] = read(element)
        except Flaw as flaw:
            flaw.inside(f"[{quoted(key)}]")
            raise

    return put


def _map_of_messages(read_key: json_scalars.ReadText, reader: MessageReader, container: Container) -> Fill:
    """Return what reads a map with message values. An entry nests one deeper than its value seems to."""

    def put(message: Any, item: object, nesting: int) -> None:
        if item is None:
            return
        members, values, key, fill = _members(item), container(message), "", reader.fill
        try:
            for key, element in members.items():
                fill(values[read_key(key)], element, nesting + 2)
        except Flaw as flaw:
            flaw.inside(f"[{quoted(key)}]")
            raise

    return put


def _fill_at(name: str, reader: MessageReader, message: Any, value: object, nesting: int) -> None:
    """Fill a message whose place has a name."""
    try:
        reader.fill(message, value, nesting)
    except Flaw as flaw:
        flaw.inside(name)
        raise
