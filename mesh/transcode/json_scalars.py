"""Scalar fields as proto3 JSON: a reader, a text reader and a writer for each type of field.

A reader takes a decoded JSON value, a text reader the text of a path capture, a query parameter or a map key, a
writer gives JSON text. Readers are strict: no signs, blanks, underscores or digits that JSON does not have, no number
for a bool, no base64 with foreign characters. Owns the mapping of scalars; knows nothing of messages. Pure. Called by
`json_read`, `json_write` and `query`.
"""

from __future__ import annotations

import binascii
import math
import re
import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from json.encoder import encode_basestring
from typing import TypeAlias

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from mesh.transcode.json_text import type_name
from mesh.transcode.refusals import Flaw, quoted

Scalar: TypeAlias = int | float | bool | str | bytes
Read: TypeAlias = Callable[[object], Scalar]
"""A JSON value to the value of a field. Raises Flaw."""
ReadText: TypeAlias = Callable[[str], Scalar]
"""A text to the value of a field. Raises Flaw."""
Write: TypeAlias = Callable[..., str]
"""The value of a field to JSON text. Raises Flaw."""

NULL_VALUE = "google.protobuf.NullValue"

_NUMBER_CHARACTERS_MAX = 400
"""A longer number in a string is refused unread. The longest exact double has 324 characters before its exponent."""
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,9})?")
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_FLOAT32 = struct.Struct("<f")
_INTEGER_DIGITS_MAX = 20
_BASE64URL = str.maketrans("-_", "+/")

_INT32 = (-(2**31), 2**31 - 1)
_UINT32 = (0, 2**32 - 1)
_INT64 = (-(2**63), 2**63 - 1)
_UINT64 = (0, 2**64 - 1)
_INTEGERS: Mapping[int, tuple[int, int]] = {
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_SINT32: _INT32,
    FieldDescriptor.TYPE_SFIXED32: _INT32,
    FieldDescriptor.TYPE_UINT32: _UINT32,
    FieldDescriptor.TYPE_FIXED32: _UINT32,
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_SINT64: _INT64,
    FieldDescriptor.TYPE_SFIXED64: _INT64,
    FieldDescriptor.TYPE_UINT64: _UINT64,
    FieldDescriptor.TYPE_FIXED64: _UINT64,
}


def reader(field: FieldDescriptor) -> Read:
    """Return the reader of a scalar or enum field."""
    if (bounds := _INTEGERS.get(field.type)) is not None:
        return _integer_reader(*bounds)
    if field.type == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        return _enum_reader(field.enum_type)
    return _READERS[field.type]


def text_reader(field: FieldDescriptor) -> ReadText:
    """Return the reader of a scalar or enum field for text that is no JSON: paths, queries."""
    if field.type == FieldDescriptor.TYPE_BOOL:
        return read_bool_text
    if field.type == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        return _enum_text_reader(field.enum_type)
    return reader(field)


def key_reader(field: FieldDescriptor) -> ReadText:
    """Return the reader of the keys of a map: as a text, but an integer has one form only."""
    if (bounds := _INTEGERS.get(field.type)) is None:
        return text_reader(field)
    read_integer = _integer_reader(*bounds)

    def read(key: str) -> Scalar:
        if not _INTEGER.fullmatch(key) or key == "-0":
            raise Flaw("the key must be an integer")
        return read_integer(key)

    return read


def writer(field: FieldDescriptor, *, enums_as_numbers: bool) -> Write:
    """Return the writer of a scalar or enum field."""
    if field.type == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        return _enum_writer(field.enum_type, as_numbers=enums_as_numbers)
    if (bounds := _INTEGERS.get(field.type)) is not None:
        return write_quoted_integer if bounds in (_INT64, _UINT64) else int.__repr__
    return _WRITERS[field.type]


def key_writer(field: FieldDescriptor) -> Write:
    """Return the writer of the keys of a map."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return write_string
    return _BOOL_KEYS.__getitem__ if field.type == FieldDescriptor.TYPE_BOOL else write_quoted_integer


def _integer_reader(low: int, high: int) -> Read:
    """Return a reader of integers from low to high, both included."""

    def read(value: object) -> int:
        number = value if type(value) is int else _integer(value)
        if low <= number <= high:
            return number
        raise Flaw(f"out of range: an integer from {low} to {high} is expected")

    return read


def _integer(value: object) -> int:
    """Return the integer in a string or in a number with fraction or exponent."""
    if type(value) is str:
        if len(value) <= _NUMBER_CHARACTERS_MAX:
            if _INTEGER.fullmatch(value):
                return int(value)
            if _NUMBER.fullmatch(value):
                return _exact_integer(value)
        raise Flaw(f"an integer is expected, not {quoted(value)}")
    if type(value) is float:
        if value.is_integer():
            return int(value)
        raise Flaw("an integer is expected, not a fraction")
    raise Flaw(f"an integer is expected, not {type_name(value)}")


def _exact_integer(text: str) -> int:
    """Return the integer that a number with fraction or exponent is; its exponent may be absurd."""
    number = Decimal(text)
    if not number:
        return 0
    if number.adjusted() > _INTEGER_DIGITS_MAX:
        raise Flaw(f"out of range: {quoted(text)}")
    if number != number.to_integral_value():
        raise Flaw(f"an integer is expected, not {quoted(text)}")
    return int(number)


def read_double(value: object) -> float:
    """Read a double: a JSON number, or a string with a number, NaN, Infinity or -Infinity."""
    if type(value) is str:
        return _double_in_text(value)
    if type(value) is not float:
        if type(value) is not int:
            raise Flaw(f"a number is expected, not {type_name(value)}")
        try:
            return float(value)
        except OverflowError:
            raise Flaw("out of range of a double") from None
    if value - value != 0.0:
        raise Flaw("out of range of a double")
    return value


def _double_in_text(text: str) -> float:
    """Return the double that a string holds."""
    if (special := _SPECIAL.get(text)) is not None:
        return special
    if len(text) > _NUMBER_CHARACTERS_MAX or not _NUMBER.fullmatch(text):
        raise Flaw(f"a number is expected, not {quoted(text)}")
    number = float(text)
    if math.isinf(number):
        raise Flaw("out of range of a double")
    return number


def _read_float(value: object) -> float:
    """Read a float: a double that does not become infinite when it is rounded to 32 bits."""
    number = read_double(value)
    try:
        _FLOAT32.pack(number)
    except OverflowError:
        raise Flaw("out of range of a float") from None
    return number


def read_bool(value: object) -> bool:
    """Read a bool: true or false, nothing else."""
    if value is True or value is False:
        return value
    raise Flaw(f"true or false is expected, not {type_name(value)}")


def read_bool_text(text: str) -> bool:
    """Read a bool from text."""
    if text == "true":
        return True
    if text == "false":
        return False
    raise Flaw(f"true or false is expected, not {quoted(text)}")


def read_string(value: object) -> str:
    """Read a string; half of a surrogate pair is no text."""
    if type(value) is not str:
        raise Flaw(f"a string is expected, not {type_name(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Flaw("a lone surrogate is no text") from None
    return value


def read_bytes(value: object) -> bytes:
    """Read base64 in the standard or the URL alphabet, with its padding or without."""
    if type(value) is not str:
        raise Flaw(f"a string with base64 is expected, not {type_name(value)}")
    if "-" in value or "_" in value:
        value = value.translate(_BASE64URL)
    if missing := -len(value) % 4:
        if "=" in value:
            raise Flaw("bad base64: wrong padding")
        value += "=" * missing
    elif value.endswith("==="):
        raise Flaw("bad base64: wrong padding")
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        raise Flaw("bad base64") from None


def _enum_reader(enum: EnumDescriptor) -> Read:
    """Return a reader of an enum: a name, or a number (one that the enum has, if it is closed)."""
    numbers = {value.name: value.number for value in enum.values}
    known = frozenset(numbers.values()) if enum.is_closed else None
    nullable = enum.full_name == NULL_VALUE
    read_int32 = _integer_reader(*_INT32)

    def read(value: object) -> int:
        if type(value) is str:
            if (named := numbers.get(value)) is None:
                raise Flaw(f"{enum.full_name} has no value {quoted(value)}")
            return named
        if value is None and nullable:
            return 0
        if type(value) is not int and type(value) is not float:
            raise Flaw(f"the name or number of a value of {enum.full_name} is expected, not {type_name(value)}")
        number = int(read_int32(value))
        if known is not None and number not in known:
            raise Flaw(f"{enum.full_name} has no value {number}")
        return number

    return read


def _enum_text_reader(enum: EnumDescriptor) -> ReadText:
    """Return a reader of an enum from text: a name or the digits of a number."""
    read_value = _enum_reader(enum)
    read_int32 = _integer_reader(*_INT32)

    def read(text: str) -> Scalar:
        if text == "null" and enum.full_name == NULL_VALUE:
            return 0
        return read_value(read_int32(text) if _INTEGER.fullmatch(text) else text)

    return read


class _Names(dict[int, str]):
    """JSON text by enum number; a number without a name is its own text."""

    def __missing__(self, number: int) -> str:
        return str(number)


def _enum_writer(enum: EnumDescriptor, *, as_numbers: bool) -> Write:
    """Return a writer of an enum: the first name of a number, or the number."""
    if as_numbers:
        return int.__repr__
    if enum.full_name == NULL_VALUE:
        return lambda number: "null"
    names = _Names()
    for value in enum.values:
        names.setdefault(value.number, f'"{value.name}"')
    return names.__getitem__


def write_double(value: float) -> str:
    """Write a double: the shortest digits that give it back, integral values without a fraction."""
    if value - value != 0.0:
        return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'
    text = repr(value)
    return text[:-2] if text.endswith(".0") and text != "-0.0" else text


def _write_float(value: float) -> str:
    """Write a float: the shortest digits that give the same 32 bits back."""
    if value - value == 0.0:
        for digits in (6, 7, 8):
            short = float(f"{value:.{digits}g}")
            if _rounded(short) == value:
                return write_double(short)
        return write_double(float(f"{value:.9g}"))
    return write_double(value)


def _rounded(value: float) -> float:
    """Round to 32 bits; infinite if it is too large."""
    try:
        return float(_FLOAT32.unpack(_FLOAT32.pack(value))[0])
    except OverflowError:
        return math.inf


def write_string(value: str) -> str:
    """Write a string. In proto2 what was sent as a string need not be text."""
    if type(value) is str:
        return encode_basestring(value)
    raise Flaw("a string that is not UTF-8")


def write_bytes(value: bytes) -> str:
    """Write bytes as padded base64 in the standard alphabet."""
    return '"' + binascii.b2a_base64(value, newline=False).decode() + '"'


def _write_bool(value: bool) -> str:
    """Write a bool."""
    return "true" if value else "false"


write_quoted_integer: Write = '"%d"'.__mod__
"""64-bit integers are strings in JSON: a JavaScript number cannot hold them."""

_BOOL_KEYS = {True: '"true"', False: '"false"'}

_READERS: Mapping[int, Read] = {
    FieldDescriptor.TYPE_DOUBLE: read_double,
    FieldDescriptor.TYPE_FLOAT: _read_float,
    FieldDescriptor.TYPE_BOOL: read_bool,
    FieldDescriptor.TYPE_STRING: read_string,
    FieldDescriptor.TYPE_BYTES: read_bytes,
}

_WRITERS: Mapping[int, Write] = {
    FieldDescriptor.TYPE_DOUBLE: write_double,
    FieldDescriptor.TYPE_FLOAT: _write_float,
    FieldDescriptor.TYPE_BOOL: _write_bool,
    FieldDescriptor.TYPE_STRING: write_string,
    FieldDescriptor.TYPE_BYTES: write_bytes,
}
