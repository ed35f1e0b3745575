"""Well-known types whose JSON is not that of their fields: Timestamp, Duration, FieldMask, Struct, Value, ListValue.

A reader fills an empty message from a decoded JSON value, a writer gives JSON text. Owns these forms and the test
that a type is the standard one: a schema may bring a file of its own under a standard name. Wrappers and Any need
the codec of other types and are in `json_read` and `json_write`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from google.protobuf import any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from mesh.transcode import json_scalars
from mesh.transcode.json_text import NESTING_MAX, type_name
from mesh.transcode.refusals import Flaw, quoted

Fill: TypeAlias = Callable[[Any, object, int], None]
"""(empty message, JSON value, its nesting) -> None. Raises Flaw."""
Text: TypeAlias = Callable[[Any, int], str]
"""(message, its nesting) -> JSON text. Raises Flaw."""

ANY = "google.protobuf.Any"
VALUE = "google.protobuf.Value"
WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)

# Unbound, because a message may have a field of the same name. They also are quicker so.
which_oneof: Callable[[Any, str], str | None] = empty_pb2.Empty.WhichOneof
set_in_parent: Callable[[Any], None] = empty_pb2.Empty.SetInParent

_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:Z|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)
_DURATION = re.compile(r"(-?)(0|[1-9][0-9]{0,11})(?:\.([0-9]{1,9}))?s")
_EPOCH = datetime(1970, 1, 1)
_SECONDS_PER_DAY = 86_400
_EPOCH_DAY = _EPOCH.toordinal()
_TIMESTAMP_SECONDS = (-62_135_596_800, 253_402_300_799)
_DURATION_SECONDS_MAX = 315_576_000_000
_MASK_PATH = re.compile(r"[!-+\--^`-~]+")
"""One path of a FieldMask in JSON: visible ASCII but for "_" and ",". Names are lowerCamelCase there."""
_CAPITAL = re.compile(r"[A-Z]")
_SNAKE = re.compile(r"_([a-z])")


def is_standard(descriptor: Descriptor) -> bool:
    """Whether a type and all it consists of are those of the standard files, and not others of the same name."""
    pending, seen = [descriptor], {descriptor.full_name}
    while pending:
        current = pending.pop()
        standard = _STANDARD.get(current.full_name)
        if standard is None or _signature(current) != _signature(standard):
            return False
        for field in current.fields:
            if field.message_type is not None and field.message_type.full_name not in seen:
                seen.add(field.message_type.full_name)
                pending.append(field.message_type)
    return True


def _signature(descriptor: Descriptor) -> set[tuple[object, ...]]:
    """Return what code that knows the type by heart relies on."""
    return {
        (
            field.name,
            field.number,
            field.type,
            field.is_repeated,
            field.has_presence,
            field.message_type and field.message_type.full_name,
            field.containing_oneof and field.containing_oneof.name,
        )
        for field in descriptor.fields
    }


def fill_timestamp(message: Any, value: object, nesting: int) -> None:
    """Read an RFC 3339 time: capital T, Z or an offset, at most nine digits of a second."""
    match = _TIMESTAMP.fullmatch(value) if type(value) is str else None
    if match is None:
        raise Flaw(f"a time such as 2026-01-31T09:30:00Z is expected, not {_shown(value)}")
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    try:
        date = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second))
    except ValueError as error:
        raise Flaw(f"not a time: {error}") from None
    seconds = (date.toordinal() - _EPOCH_DAY) * _SECONDS_PER_DAY
    seconds += date.hour * 3600 + date.minute * 60 + date.second
    if sign is not None:
        offset = int(offset_hours) * 3600 + int(offset_minutes) * 60
        seconds += offset if sign == "-" else -offset
        if not _TIMESTAMP_SECONDS[0] <= seconds <= _TIMESTAMP_SECONDS[1]:
            raise Flaw("not a time: out of the years 1 to 9999")
    message.seconds = seconds
    message.nanos = int(fraction.ljust(9, "0")) if fraction else 0


def timestamp_text(message: Any, nesting: int) -> str:
    """Write a Timestamp in UTC, with no, three, six or nine digits of a second."""
    seconds, nanos = message.seconds, message.nanos
    if not (_TIMESTAMP_SECONDS[0] <= seconds <= _TIMESTAMP_SECONDS[1] and 0 <= nanos < 1_000_000_000):
        raise Flaw("a Timestamp out of the years 1 to 9999, or with nanos out of range")
    return f'"{(_EPOCH + timedelta(seconds=seconds)).isoformat()}{_fraction(nanos)}Z"'


def fill_duration(message: Any, value: object, nesting: int) -> None:
    """Read seconds with an "s" behind them, at most nine digits of a second."""
    match = _DURATION.fullmatch(value) if type(value) is str else None
    if match is None:
        raise Flaw(f"a duration such as 1.5s is expected, not {_shown(value)}")
    sign, whole, fraction = match.groups()
    seconds, nanos = int(whole), int(fraction.ljust(9, "0")) if fraction else 0
    if seconds > _DURATION_SECONDS_MAX:
        raise Flaw(f"out of range: at most {_DURATION_SECONDS_MAX}s")
    message.seconds = -seconds if sign else seconds
    message.nanos = -nanos if sign else nanos


def duration_text(message: Any, nesting: int) -> str:
    """Write a Duration in seconds, with no, three, six or nine digits of a second."""
    seconds, nanos = message.seconds, message.nanos
    in_range = abs(seconds) <= _DURATION_SECONDS_MAX and abs(nanos) < 1_000_000_000
    if not in_range or (seconds < 0 < nanos) or (nanos < 0 < seconds):
        raise Flaw("a Duration out of range, or with seconds and nanos of different signs")
    sign = "-" if seconds < 0 or nanos < 0 else ""
    return f'"{sign}{abs(seconds)}{_fraction(abs(nanos))}s"'


def _fraction(nanos: int) -> str:
    """Return nanoseconds as the fraction of a second, in groups of three digits."""
    if not nanos:
        return ""
    if nanos % 1_000_000 == 0:
        return f".{nanos // 1_000_000:03d}"
    return f".{nanos // 1_000:06d}" if nanos % 1_000 == 0 else f".{nanos:09d}"


def fill_field_mask(message: Any, value: object, nesting: int) -> None:
    """Read the comma-separated lowerCamelCase paths of a FieldMask."""
    if type(value) is not str:
        raise Flaw(f"a string with field paths is expected, not {type_name(value)}")
    paths = value.split(",") if value else []
    for path in paths:
        if not _MASK_PATH.fullmatch(path):
            raise Flaw(f"lowerCamelCase field paths with commas between them are expected, not {quoted(path)}")
    message.paths.extend([_CAPITAL.sub(_after_underscore, path) for path in paths])


def field_mask_text(message: Any, nesting: int) -> str:
    """Write the paths of a FieldMask in lowerCamelCase; a path that would not read back has no JSON form."""
    paths = []
    for path in message.paths:
        camel = _SNAKE.sub(_capital, path)
        if not _MASK_PATH.fullmatch(camel) or _CAPITAL.search(path):
            raise Flaw(f"the FieldMask path {quoted(path)} has no JSON form")
        paths.append(camel)
    return json_scalars.write_string(",".join(paths))


def _after_underscore(match: re.Match[str]) -> str:
    return "_" + match[0].lower()


def _capital(match: re.Match[str]) -> str:
    return match[1].upper()


def _shown(value: object) -> str:
    """Return how a wrong value is named in a reason."""
    return quoted(value) if type(value) is str else type_name(value)


def fill_struct(message: Any, value: object, nesting: int) -> None:
    """Read any JSON object."""
    if type(value) is not dict:
        raise Flaw(f"an object is expected, not {type_name(value)}")
    if nesting > NESTING_MAX:
        raise Flaw("nested too deep")
    fields, key = message.fields, ""
    try:
        for key, item in value.items():
            fill_value(fields[json_scalars.read_string(key)], item, nesting + 2)
    except Flaw as flaw:
        flaw.inside(f"[{quoted(key)}]")
        raise


def fill_list(message: Any, value: object, nesting: int) -> None:
    """Read any JSON array."""
    if type(value) is not list:
        raise Flaw(f"an array is expected, not {type_name(value)}")
    if nesting > NESTING_MAX:
        raise Flaw("nested too deep")
    add, index = message.values.add, 0
    try:
        for index, item in enumerate(value):  # noqa: B007 - the index is for the path of a flaw
            fill_value(add(), item, nesting + 1)
    except Flaw as flaw:
        flaw.inside(f"[{index}]")
        raise


def fill_value(message: Any, value: object, nesting: int) -> None:
    """Read any JSON value; null is a value too."""
    if nesting > NESTING_MAX:
        raise Flaw("nested too deep")
    kind = type(value)
    if kind is str:
        message.string_value = json_scalars.read_string(value)
    elif kind is dict:
        set_in_parent(message.struct_value)
        fill_struct(message.struct_value, value, nesting + 1)
    elif kind is list:
        set_in_parent(message.list_value)
        fill_list(message.list_value, value, nesting + 1)
    elif kind is bool:
        message.bool_value = value
    elif value is None:
        message.null_value = 0
    else:
        message.number_value = json_scalars.read_double(value)


def struct_text(message: Any, nesting: int) -> str:
    """Write a Struct as an object."""
    _bounded(nesting)
    string = json_scalars.write_string
    parts, key = [], ""
    try:
        for key, value in message.fields.items():
            parts.append(f"{string(key)}:{value_text(value, nesting + 2)}")
    except Flaw as flaw:
        flaw.inside(f"[{quoted(key)}]")
        raise
    return "{" + ",".join(parts) + "}"


def list_text(message: Any, nesting: int) -> str:
    """Write a ListValue as an array."""
    _bounded(nesting)
    return "[" + ",".join([value_text(value, nesting + 1) for value in message.values]) + "]"


def value_text(message: Any, nesting: int) -> str:
    """Write a Value as what it holds; one that holds nothing is null."""
    kind = which_oneof(message, "kind")
    if kind == "string_value":
        return json_scalars.write_string(message.string_value)
    if kind == "number_value":
        number = message.number_value
        if number - number != 0.0:
            raise Flaw("a Value that is NaN or infinite has no JSON form")
        return json_scalars.write_double(number)
    if kind == "struct_value":
        return struct_text(message.struct_value, nesting + 1)
    if kind == "list_value":
        return list_text(message.list_value, nesting + 1)
    return "null" if kind != "bool_value" else "true" if message.bool_value else "false"


def _bounded(nesting: int) -> None:
    """Refuse what nests deeper than a message can: it can only by Any in Any."""
    if nesting > NESTING_MAX:
        raise Flaw("nested too deep")


def any_type(pool: DescriptorPool, url: str) -> Descriptor:
    """Return the type that the URL of an Any names, for both ways: what is written can be read. Raises Flaw."""
    prefix, _, name = url.rpartition("/")
    if not prefix or not url.isascii() or not url.isprintable():
        raise Flaw(f"a type such as type.googleapis.com/package.Message is expected, not {quoted(url)}")
    try:
        descriptor = pool.FindMessageTypeByName(name)
    except KeyError:
        raise Flaw(f"no such type: {quoted(name)}") from None
    if descriptor.GetOptions().map_entry:
        raise Flaw(f"no such type: {quoted(name)}")
    return descriptor


def shared_oneof(field: FieldDescriptor) -> OneofDescriptor | None:
    """Return the oneof of a field if it has other fields; that of an `optional` field has none."""
    oneof = field.containing_oneof
    return oneof if oneof is not None and len(oneof.fields) > 1 else None


def scalar_field(descriptor: Descriptor) -> FieldDescriptor:
    """Return the one field of a wrapper."""
    return descriptor.fields_by_name["value"]


FILLS: Mapping[str, Fill] = {
    "google.protobuf.Timestamp": fill_timestamp,
    "google.protobuf.Duration": fill_duration,
    "google.protobuf.FieldMask": fill_field_mask,
    "google.protobuf.Struct": fill_struct,
    "google.protobuf.ListValue": fill_list,
    VALUE: fill_value,
}

TEXTS: Mapping[str, Text] = {
    "google.protobuf.Timestamp": timestamp_text,
    "google.protobuf.Duration": duration_text,
    "google.protobuf.FieldMask": field_mask_text,
    "google.protobuf.Struct": struct_text,
    "google.protobuf.ListValue": list_text,
    VALUE: value_text,
}

_MESSAGES: tuple[type[Message], ...] = (
    any_pb2.Any,
    duration_pb2.Duration,
    field_mask_pb2.FieldMask,
    struct_pb2.ListValue,
    struct_pb2.Struct,
    struct_pb2.Struct.FieldsEntry,
    struct_pb2.Value,
    timestamp_pb2.Timestamp,
    wrappers_pb2.DoubleValue,
    wrappers_pb2.FloatValue,
    wrappers_pb2.Int64Value,
    wrappers_pb2.UInt64Value,
    wrappers_pb2.Int32Value,
    wrappers_pb2.UInt32Value,
    wrappers_pb2.BoolValue,
    wrappers_pb2.StringValue,
    wrappers_pb2.BytesValue,
)
_STANDARD: Mapping[str, Any] = {message.DESCRIPTOR.full_name: message.DESCRIPTOR for message in _MESSAGES}
SPECIAL = WRAPPERS | FILLS.keys() | {ANY}
"""Types whose JSON form is not an object of their fields."""
