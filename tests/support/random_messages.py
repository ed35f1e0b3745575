"""Hypothesis strategies: messages of any type with every kind of field, that have a JSON form; and JSON values."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

FIELDS_MAX = 6
_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
_DOUBLE = st.floats().map(lambda number: math.nan if math.isnan(number) else number)  # JSON has one NaN
_FLOAT = st.floats(width=32, max_value=2.0**127, min_value=-(2.0**127)) | st.sampled_from([float("inf"), float("-inf")])
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 3),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: _DOUBLE,
    FieldDescriptor.CPPTYPE_FLOAT: _FLOAT,
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}
_PATHS = st.from_regex(r"[a-z][a-z0-9]{0,3}(_[a-z][a-z0-9]{0,2}){0,2}(\.[a-z]{1,3}(_[a-z])?)?", fullmatch=True)
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, *, depth: int = 3, keys_max: int = 3) -> Message:
    """Draw a message; at most `depth` levels of messages below it, and `keys_max` keys in a map."""
    message: Any = GetMessageClass(descriptor)()
    fill = _WELL_KNOWN.get(descriptor.full_name)
    if fill is not None:
        fill(draw, message, depth)
        return message  # type: ignore[no-any-return]
    fields = [field for field in descriptor.fields if depth > 0 or field.message_type is None]
    fields = [field for field in fields if not (field.is_repeated and _is_null(field))]
    required = [field for field in fields if field.is_required]
    some = st.lists(st.sampled_from(fields), max_size=FIELDS_MAX, unique_by=lambda field: field.number)
    chosen = draw(some) if fields else []
    for field in {field.number: field for field in (*required, *chosen)}.values():
        _set(draw, message, field, depth, keys_max)
    return message  # type: ignore[no-any-return]


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of a scalar field, or of one element of a repeated one."""
    if field.enum_type is not None:
        known = st.sampled_from([value.number for value in field.enum_type.values])
        return known if field.enum_type.is_closed or _is_null(field) else known | st.integers(-(2**31), 2**31 - 1)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=7)
    return _SCALARS.get(field.cpp_type, _TEXT)


def _is_null(field: FieldDescriptor) -> bool:
    """Whether it is a NullValue: json_format writes [null] for repeated ones, and refuses to read that."""
    return field.enum_type is not None and field.enum_type.full_name == "google.protobuf.NullValue"


def _set(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int, keys_max: int) -> None:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        values = getattr(message, field.name)
        key_field, value_field = kind.fields_by_name["key"], kind.fields_by_name["value"]
        for key in draw(st.lists(scalars(key_field), max_size=keys_max)):
            if value_field.message_type is not None:
                values[key].CopyFrom(draw(messages(value_field.message_type, depth=depth - 1, keys_max=keys_max)))
            else:
                values[key] = draw(scalars(value_field))
    elif field.is_repeated and kind is not None:
        for _ in range(draw(st.integers(0, 2))):
            getattr(message, field.name).add().CopyFrom(draw(messages(kind, depth=depth - 1, keys_max=keys_max)))
    elif field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(scalars(field), max_size=3)))
    elif kind is not None:
        getattr(message, field.name).SetInParent()
        getattr(message, field.name).CopyFrom(draw(messages(kind, depth=depth - 1, keys_max=keys_max)))
    else:
        setattr(message, field.name, draw(scalars(field)))


def _timestamp(draw: st.DrawFn, message: Any, depth: int) -> None:
    message.seconds = draw(st.integers(-62_135_596_800, 253_402_300_799))
    message.nanos = draw(_NANOS)


def _duration(draw: st.DrawFn, message: Any, depth: int) -> None:
    sign = draw(st.sampled_from([-1, 1]))
    message.seconds = sign * draw(st.integers(0, 315_576_000_000))
    message.nanos = sign * draw(_NANOS)


_NANOS = st.integers(0, 999_999_999) | st.integers(0, 999).map(lambda n: n * 1_000_000) | st.just(0)


def _mask(draw: st.DrawFn, message: Any, depth: int) -> None:
    message.paths.extend(draw(st.lists(_PATHS, max_size=3)))


def _struct(draw: st.DrawFn, message: Any, depth: int) -> None:
    for key in draw(st.lists(_TEXT, max_size=1)):  # one, because it may be in an Any
        _value(draw, message.fields[key], depth - 1)


def _list(draw: st.DrawFn, message: Any, depth: int) -> None:
    for _ in range(draw(st.integers(0, 2))):
        _value(draw, message.values.add(), depth - 1)


def _value(draw: st.DrawFn, message: Any, depth: int) -> None:
    kind = draw(st.sampled_from(["null", "number", "string", "bool", *(["struct", "list"] if depth > 0 else [])]))
    if kind == "null":
        message.null_value = 0
    elif kind == "number":
        message.number_value = draw(st.floats(allow_nan=False, allow_infinity=False))
    elif kind == "string":
        message.string_value = draw(_TEXT)
    elif kind == "bool":
        message.bool_value = draw(st.booleans())
    elif kind == "struct":
        message.struct_value.SetInParent()
        _struct(draw, message.struct_value, depth)
    else:
        message.list_value.SetInParent()
        _list(draw, message.list_value, depth)


def _any(draw: st.DrawFn, message: Any, depth: int) -> None:
    names = [field.message_type for field in _any_contents(message) if field.message_type is not None]
    if depth > 0 and draw(st.booleans()):
        # Its bytes are compared, and those of a map have no order: one key has.
        content = draw(messages(draw(st.sampled_from(names)), depth=depth - 1, keys_max=1))
        message.type_url = f"type.googleapis.com/{content.DESCRIPTOR.full_name}"
        message.value = content.SerializePartialToString(deterministic=True)


def _any_contents(message: Any) -> list[FieldDescriptor]:
    everything = message.DESCRIPTOR.file.pool.FindMessageTypeByName("everything.v1.Everything")
    return [f for f in everything.fields if f.message_type and not f.message_type.GetOptions().map_entry]


_WELL_KNOWN = {
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _duration,
    "google.protobuf.FieldMask": _mask,
    "google.protobuf.Struct": _struct,
    "google.protobuf.ListValue": _list,
    "google.protobuf.Value": _value,
    "google.protobuf.Any": _any,
}
