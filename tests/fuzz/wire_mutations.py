"""Protobuf messages: drawn by chance with every kind of field, and mutated on the wire, broken or not.

What is drawn has a form that is right; mutations flip, cut, splice, nest, lie about lengths and types, and put in what
no serializer writes. Everything follows from the `Random` that is handed in.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

MESSAGE_BYTES_MAX = 64 * 1024
"""A mutated message is not longer than that, but for what a mutation adds last."""

_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
_INTEGERS = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    65536,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
)
_DOUBLES = (0.0, -0.0, 1.5, -1e-300, 1e308, 5e-324, float("inf"), float("-inf"), float("nan"), 3.4e38, 2.0**53, 0.1)
_TEXTS = (
    *(
        "",
        "a",
        "héllo",
        "\0",
        "\u2028",
        "😈",
        "null",
        "1",
        "a.b",
        "snake_case",
        "..",
        "x" * 300,
        '"\\/',
        "\x7f\x1b",
        "%2F",
    ),
    *("2026-01-31T09:30:00Z", "type.googleapis.com/everything.v1.Part", "-1.5s", "\ufffe\uffff", "a b+c&d=e", "A"),
)
_WRONG_TEXTS = (
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"a\xe2\x82",
    b"\x80" * 9,
    b"\xf8\x88\x80\x80\x80",
)
_TYPES = (
    *("everything.v1.Everything", "everything.v1.Part", "everything.v1.Everything.LabelsEntry", "no.such.Type", ""),
    *(f"google.protobuf.{name}" for name in ("Any", "Timestamp", "Duration", "Struct", "Value", "ListValue", "Empty")),
    *(f"google.protobuf.{name}" for name in ("FieldMask", "Int64Value", "BytesValue", "Struct.FieldsEntry")),
    *("legacy.v1.Legacy", "legacy.v1.rating", "everything.v1.Color", "everything.v1", "\0", "a/b", "é"),
)
_URLS = ("type.googleapis.com/", "/", "", "a/b/", "http://x/", "\0/", "é/")
_LENGTHS = (0, 1, 2, 127, 128, 2**16, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
_FIELD_NUMBERS = (0, 1, 2, 3, 15, 16, 82, 98, 2047, 18_999, 19_000, 2**28, 2**29 - 1, 2**29, 2**32 - 1)


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it; negative ones as 64 bits."""
    number &= 2**64 - 1
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    return bytes(data)


def lengthy(number: int, content: bytes) -> bytes:
    """Return a field that has a length."""
    return varint(number << 3 | _BYTES) + varint(len(content)) + content


def serialized(message: Message) -> bytes:
    """Return a message as bytes; the order of a map's keys follows from nothing but the keys."""
    return message.SerializePartialToString(deterministic=True)


def draw(descriptor: Descriptor, random: Random, depth: int = 3) -> Message:
    """Return a message of a type with a few of its fields set, those of any type among them."""
    message: Any = GetMessageClass(descriptor)()
    name = descriptor.full_name
    if name == "google.protobuf.Any":
        inner = random.choice(_TYPES[:2]) if random.random() < 0.5 else random.choice(_TYPES)
        message.type_url = random.choice(_URLS if random.random() < 0.2 else _URLS[:1]) + inner
        if depth > 0 and inner.startswith("everything.v1.") and inner in _TYPES[:2]:
            kind = descriptor.file.pool.FindMessageTypeByName(inner)
            message.value = serialized(draw(kind, random, depth - 1))
        elif random.random() < 0.3:
            message.value = random.randbytes(random.randrange(6))
        return message  # type: ignore[no-any-return]
    if name == "google.protobuf.Timestamp" and random.random() < 0.7:
        message.seconds, message.nanos = random.randrange(-62_135_596_800, 253_402_300_800), random.randrange(10**9)
        return message  # type: ignore[no-any-return]
    fields = [field for field in descriptor.fields if depth > 0 or field.message_type is None]
    for field in random.sample(fields, min(len(fields), random.randrange(7))):
        _set(message, field, random, depth)
    for field in descriptor.fields:
        if field.is_required and random.random() < 0.9:
            _set(message, field, random, depth)
    return message  # type: ignore[no-any-return]


def _set(message: Any, field: FieldDescriptor, random: Random, depth: int) -> None:
    kind = field.message_type
    count = random.randrange(4) if field.is_repeated else 1
    if kind is not None and kind.GetOptions().map_entry:
        values, value_field = getattr(message, field.name), kind.fields_by_name["value"]
        for _ in range(count):
            key = _scalar(kind.fields_by_name["key"], random)
            if value_field.message_type is not None:
                values[key].MergeFrom(draw(value_field.message_type, random, depth - 1))
            else:
                values[key] = _scalar(value_field, random)
    elif kind is not None:
        for _ in range(count):
            part = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
            part.SetInParent()
            part.MergeFrom(draw(kind, random, depth - 1))
    elif field.is_repeated:
        getattr(message, field.name).extend(_scalar(field, random) for _ in range(count))
    else:
        setattr(message, field.name, _scalar(field, random))


def _scalar(field: FieldDescriptor, random: Random) -> Any:
    if field.enum_type is not None:
        if field.enum_type.is_closed or random.random() < 0.8:
            return random.choice([value.number for value in field.enum_type.values])
        return random.choice((-1, 7, 2**31 - 1, -(2**31)))
    cpp = field.cpp_type
    if cpp in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return random.choice(_DOUBLES)
    if cpp == FieldDescriptor.CPPTYPE_BOOL:
        return random.random() < 0.5
    if cpp == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return random.randbytes(random.randrange(12))
        return random.choice(_TEXTS)
    bits = 32 if cpp in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
    signed = cpp in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    number = random.choice(_INTEGERS) % 2**bits
    return number - 2**bits if signed and number >= 2 ** (bits - 1) else number


def fields(data: bytes) -> list[tuple[int, int, int, int]]:
    """Return (begin, begin of what follows the tag, end, wire type) of each field, as far as they can be told."""
    found, at, end = [], 0, len(data)
    while at < end:
        begin = at
        tag, at = _read(data, at)
        kind, value = tag & 7, at
        if kind == _VARINT:
            _, at = _read(data, at)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _BYTES:
            size, at = _read(data, at)
            at += size
        if at > end or kind > _FIXED32:
            break
        found.append((begin, value, at, kind))
    return found


def _read(data: bytes, at: int) -> tuple[int, int]:
    number, shift = 0, 0
    for byte in data[at : at + 10]:
        at += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, at
    return number, len(data) + 1


class Wire:
    """Mutates messages of some starting points. `nesting` are the numbers of fields that may hold their own type."""

    def __init__(self, starts: list[bytes], numbers: list[int], nesting: list[int]) -> None:
        self._starts = [start for start in starts if start] or [b"\x08\x01"]
        self._numbers = numbers
        self._nesting = nesting or numbers
        self._mutations: tuple[Callable[[bytes, Random], bytes], ...] = (
            *(_bit, _bit, _byte, _cut, _remove, _insert, _double, self._splice, self._splice, _bomb, _wire_type),
            *(
                self._unknown,
                self._nest,
                self._wrong_text,
                self._packed,
                _long_varint,
                self._extreme,
                _swap,
                self._group,
            ),
        )
        self._gentle: tuple[Callable[[bytes, Random], bytes], ...] = (
            _double,
            _swap,
            self._field_of_another,
            self._extreme,
        )

    def __call__(self, random: Random) -> bytes:
        """Return a mutated message."""
        data = random.choice(self._starts)
        if random.random() < 0.3:  # what is mostly a message still
            for _ in range(random.choice((1, 2, 4))):
                data = random.choice(self._gentle)(data, random)
            return data[:MESSAGE_BYTES_MAX]
        for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
            data = self.mutated(data, random)[:MESSAGE_BYTES_MAX]
        return data

    def mutated(self, data: bytes, random: Random, depth: int = 3) -> bytes:
        """Return `data` with one change: at its own level, or inside of a field, whose length is kept right."""
        if depth and random.random() < 0.5:
            inner = [each for each in fields(data) if each[3] == _BYTES]
            if inner:
                _, value, end, _ = random.choice(inner)
                _, content = _read(data, value)
                changed = self.mutated(data[content:end], random, depth - 1)
                return data[:value] + varint(len(changed)) + changed + data[end:]
        return random.choice(self._mutations)(data, random)

    def _splice(self, data: bytes, random: Random) -> bytes:
        other = random.choice(self._starts)
        if random.random() < 0.6:
            return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other)) :]
        return self._field_of_another(data, random)

    def _field_of_another(self, data: bytes, random: Random) -> bytes:
        other = random.choice(self._starts)
        begin, _, end, _ = random.choice(fields(other) or [(0, 0, len(other), 0)])
        at = random.choice([0, len(data), *(each[0] for each in fields(data))])
        return data[:at] + other[begin:end] + data[at:]

    def _unknown(self, data: bytes, random: Random) -> bytes:
        number = random.choice(_FIELD_NUMBERS) if random.random() < 0.7 else random.getrandbits(29)
        kind = random.randrange(8)
        content = {
            _VARINT: varint(random.getrandbits(64)),
            _FIXED64: random.randbytes(8),
            _FIXED32: random.randbytes(4),
        }
        field = content.get(kind, b"\x03abc" if kind == _BYTES else b"")
        return data + varint(number << 3 | kind) + field

    def _nest(self, data: bytes, random: Random) -> bytes:
        number, inner = random.choice(self._nesting), data[:200]
        for _ in range(random.choice((2, 10, 50, 97, 98, 99, 100, 101, 102, 150, 400))):
            inner = lengthy(number, inner)
        return data + inner

    def _wrong_text(self, data: bytes, random: Random) -> bytes:
        return data + lengthy(random.choice(self._numbers), random.choice(_WRONG_TEXTS))

    def _packed(self, data: bytes, random: Random) -> bytes:
        number, some = random.choice(self._numbers), []
        for _ in range(random.randrange(1, 5)):
            value = varint(random.choice(_INTEGERS))
            alone = (varint(number << 3) + value, varint(number << 3 | _FIXED32) + b"\0\0\x80\x3f")
            many = b"".join(varint(random.choice(_INTEGERS)) for _ in range(random.randrange(6)))
            packed = lengthy(number, many[: random.randrange(len(many) + 1)] if random.random() < 0.3 else many)
            some.append(
                random.choice((*alone, packed, lengthy(number, random.randbytes(random.choice((4, 7, 8, 16))))))
            )
        return data + b"".join(some)

    def _extreme(self, data: bytes, random: Random) -> bytes:
        number = random.choice(self._numbers)
        match random.randrange(4):
            case 0:
                field = varint(number << 3) + varint(random.choice(_INTEGERS))
            case 1:
                field = varint(number << 3 | _FIXED64) + struct.pack("<d", random.choice(_DOUBLES))
            case 2:
                whole = varint(1 << 3) + varint(random.choice(_INTEGERS)) + varint(2 << 3)
                field = lengthy(number, whole + varint(random.choice(_INTEGERS)))
            case _:
                named = lengthy(1, (random.choice(_URLS) + random.choice(_TYPES)).encode())
                field = lengthy(number, named + lengthy(2, data[:100] if random.random() < 0.5 else b"\xff"))
        return data + field

    def _group(self, data: bytes, random: Random) -> bytes:
        number = random.choice(self._numbers)
        depth = random.choice((1, 1, 3, 99, 100, 101, 300))
        ends = depth if random.random() < 0.7 else random.randrange(depth + 1)
        return data + varint(number << 3 | _GROUP) * depth + data[:50] + varint(number << 3 | _END_GROUP) * ends


def _bit(data: bytes, random: Random) -> bytes:
    if not data:
        return b"\x08"
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _byte(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice((b"\0", b"\x7f", b"\x80", b"\xff", b"\x0a", b"\x0b", b"\x0c")) + data[at + 1 :]


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _remove(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at + random.randrange(1, 20) :]


def _insert(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.randrange(1, 9)) + data[at:]


def _double(data: bytes, random: Random) -> bytes:
    begin, _, end, _ = random.choice(fields(data) or [(0, 0, len(data), 0)])
    return data[:end] + data[begin:end] * random.choice((1, 1, 2, 30)) + data[end:]


def _swap(data: bytes, random: Random) -> bytes:
    found = [data[begin:end] for begin, _, end, _ in fields(data)]
    random.shuffle(found)
    return b"".join(found)


def _bomb(data: bytes, random: Random) -> bytes:
    inner = [each for each in fields(data) if each[3] == _BYTES]
    if not inner:
        return data + b"\x0a" + varint(random.choice(_LENGTHS))
    _, value, _, _ = random.choice(inner)
    _, content = _read(data, value)
    return data[:value] + varint(random.choice(_LENGTHS)) + data[content:]


def _wire_type(data: bytes, random: Random) -> bytes:
    begin = random.choice(fields(data) or [(0, 0, 0, 0)])[0]
    first = data[begin] if data else 8
    return data[:begin] + bytes([first & 0xF8 | random.randrange(8)]) + data[begin + 1 :]


def _long_varint(data: bytes, random: Random) -> bytes:
    begin, value, _, _ = random.choice(fields(data) or [(0, 0, 0, 0)])
    at = random.choice((begin, value))
    return data[:at] + b"\x80" * random.choice((1, 4, 5, 9, 10, 11, 40)) + data[at:]
