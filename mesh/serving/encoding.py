"""Python values as bytes, for calls from one deployment to another: msgpack, with types that it does not know itself.

Owns the form of a message and what may be in it. No pickle, and nothing is imported on the word of a message: classes
are looked up among those that are loaded, and must be dataclasses, named tuples, enums, pydantic models or messages of
protobuf. Buffers of arrays stand behind the rest and are not copied when they are read. Pure; numpy, pydantic and
protobuf are looked at only where user code has loaded them. Called by handles on both sides of a call.

A message is 0 and the packed value, or 1, the size of the packed value and the number of buffers (four bytes each), the
sizes of these (eight each), the packed value, and the buffers, each at a multiple of 64.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgpack import ExtType, Packer, unpackb

from mesh.errors import DecodingFailed, EncodingFailed
from mesh.serving.classes import (
    ENUM,
    fields_of,
    kind_of,
    known,
    loaded_class,
    made,
    message_class,
    module_of,
)

MESSAGE_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of one value, whatever it is."""
DEPTH_MAX = 100
"""Values within values that have a type of their own (tuples, sets, objects)."""
_APART_BYTES = 4096
"""Arrays of so many bytes stand behind the rest."""
_ALIGNED = 64
_BUFFERS_MAX = 100_000
_INT_BYTES_MAX = 65_536
_PLAIN, _WITH_BUFFERS = b"\0", b"\1"
_HEAD_BYTES = 9

_TUPLE, _SET, _FROZENSET, _INT, _COMPLEX, _DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID = range(1, 12)
_ENUM, _OBJECT, _MESSAGE, _ARRAY, _SCALAR = range(12, 17)

Part = bytes | memoryview
_KEPT_BYTES_MAX = 256 * 1024
"""Of the buffer of a packer that is kept."""
_simple = [Packer(strict_types=True)]
"""For what msgpack knows by itself, which is most of all calls. It runs no Python code: any thread may use it."""


def encode(value: Any, named: str = "value") -> list[Part]:
    """Return `value` as the parts of one message.

    Parts may be views of arrays in it. Raises EncodingFailed, which tells what cannot travel and where it stands:
    `named` is what the whole is called there.
    """
    encoder = None
    try:
        packed = _simple[0].pack(value)
        if len(packed) > _KEPT_BYTES_MAX:
            _simple[0] = Packer(strict_types=True)
    except Exception:  # it has a type that needs more
        _simple[0] = Packer(strict_types=True)
        try:
            encoder = _Encoder()
            packed = encoder.pack(value)
        except Exception as error:
            raise _failure(value, named, error) from None
    if encoder is None and len(packed) < MESSAGE_BYTES_MAX:
        return [_PLAIN, packed]
    parts: list[Part] = [_PLAIN, packed]
    if encoder is not None and encoder.buffers:
        sizes = [buffer.nbytes for buffer in encoder.buffers]
        head = b"".join((_u32(len(packed)), _u32(len(sizes)), *(size.to_bytes(8, "big") for size in sizes)))
        parts = [_WITH_BUFFERS, head, packed]
        at = sum(map(len, parts))
        for buffer in encoder.buffers:
            pad = -at % _ALIGNED
            parts += [bytes(pad), buffer] if pad else [buffer]
            at += pad + buffer.nbytes
    if (size := sum(map(len, parts))) > MESSAGE_BYTES_MAX:
        hint = "send it in pieces, or as a stream of items"
        raise EncodingFailed(f"{named} has {size} bytes; {MESSAGE_BYTES_MAX} are allowed", hint=hint)
    return parts


def decode(message: bytes | bytearray | memoryview) -> Any:
    """Return the value of a message. Arrays are views of it, where it can be written to. Raises DecodingFailed."""
    try:
        if message[:1] == _PLAIN:
            return unpackb(memoryview(message)[1:], ext_hook=_extended, strict_map_key=False)
        if message[:1] != _WITH_BUFFERS:
            raise DecodingFailed("it is of no form that is known here")
        packed, buffers = _split(memoryview(message))
        return _Decoder(buffers).unpack(packed)
    except DecodingFailed:
        raise
    except (Exception, RecursionError) as error:
        raise DecodingFailed(
            f"the value that came cannot be read: {type(error).__name__}: {str(error)[:200]}"
        ) from None


def _split(message: memoryview) -> tuple[memoryview, tuple[memoryview, ...]]:
    size, count = int.from_bytes(message[1:5], "big"), int.from_bytes(message[5:9], "big")
    begin = _HEAD_BYTES + 8 * count
    if count > _BUFFERS_MAX or begin + size > len(message):
        raise DecodingFailed("it is shorter than it says")
    sizes = [int.from_bytes(message[at : at + 8], "big") for at in range(_HEAD_BYTES, begin, 8)]
    at, buffers = begin + size, []
    for each in sizes:
        at += -at % _ALIGNED
        buffers.append(message[at : at + each])
        at += each
    if at != len(message):
        raise DecodingFailed("it has not the size that it says")
    return message[begin : begin + size], tuple(buffers)


def _extended(code: int, content: bytes) -> Any:
    """Read what msgpack does not know by itself, in a message without buffers. Most have none of it."""
    return _Decoder(())._extended(code, content)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


class _Unknown(TypeError):
    """A value of a type that has no form on the wire; the message says why."""


class _Encoder:
    """Packs one value and gathers the buffers that go behind it."""

    __slots__ = ("_depth", "buffers")

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []
        self._depth = 0

    def pack(self, value: Any) -> bytes:
        packed: bytes = Packer(default=self._extended, strict_types=True, buf_size=1024).pack(value)
        return packed

    def _extended(self, value: Any) -> ExtType:
        """Return what msgpack does not know by itself."""
        if self._depth >= DEPTH_MAX:
            raise _Unknown(f"it is nested more than {DEPTH_MAX} deep, or contains itself")
        self._depth += 1
        try:
            if (encode := _BY_TYPE.get(type(value))) is not None:
                code, content = encode(value)
                return ExtType(code, content if isinstance(content, bytes) else self.pack(content))
            return self._object(value)
        finally:
            self._depth -= 1

    def _object(self, value: Any) -> ExtType:
        numpy = module_of("numpy")
        if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
            return self._array(value, numpy)
        if (message := module_of("google.protobuf.message")) is not None and isinstance(value, message.Message):
            name = value.DESCRIPTOR.full_name
            return ExtType(_MESSAGE, self.pack([name, value.SerializeToString()]))
        kind = kind_of(type(value))
        if kind is None:
            raise _Unknown(_unsupported(value))
        where = known(type(value))
        if kind == ENUM:
            by = value.value if isinstance(value, enum.Flag) else value.name
            return ExtType(_ENUM, self.pack([*where, by]))
        return ExtType(_OBJECT, self.pack([*where, fields_of(kind, value)]))

    def _array(self, value: Any, numpy: Any) -> ExtType:
        dtype = value.dtype
        if dtype.kind not in "?biufcmMSU":
            raise _Unknown(f"arrays of dtype {dtype} cannot travel; convert it to one of numbers, text or times")
        if isinstance(value, numpy.generic):
            return ExtType(_SCALAR, self.pack([dtype.str, value.tobytes()]))
        if type(value) is not numpy.ndarray:
            raise _Unknown(f"arrays of type {type(value).__name__} cannot travel; convert it with numpy.asarray")
        shape, order = list(value.shape), "C"
        if not value.flags.c_contiguous:
            if value.flags.f_contiguous:
                value, order = value.T, "F"
            else:
                value = numpy.ascontiguousarray(value)
        if value.nbytes < _APART_BYTES:
            return ExtType(_ARRAY, self.pack([dtype.str, shape, order, value.tobytes()]))
        # Dates and text give no view of their own.
        self.buffers.append(memoryview(value.reshape(-1).view(numpy.uint8)))
        return ExtType(_ARRAY, self.pack([dtype.str, shape, order, len(self.buffers) - 1]))


class _Decoder:
    """Reads one packed value."""

    __slots__ = ("_buffers", "_depth")

    def __init__(self, buffers: tuple[memoryview, ...]) -> None:
        self._buffers = buffers
        self._depth = 0

    def unpack(self, packed: bytes | memoryview) -> Any:
        return unpackb(packed, ext_hook=self._extended, strict_map_key=False)

    def _extended(self, code: int, content: bytes) -> Any:
        if self._depth > DEPTH_MAX:
            raise DecodingFailed(f"it is nested more than {DEPTH_MAX} deep")
        self._depth += 1
        try:
            if (plain := _FROM_TEXT.get(code)) is not None:
                return plain(content)
            inner = self.unpack(content)
            if (nested := _FROM_PARTS.get(code)) is not None:
                return nested(inner)
            if code == _ENUM:
                return _member(*inner)
            if code == _OBJECT:
                module, name, fields = inner
                return made(loaded_class(module, name), fields)
            if code == _MESSAGE:
                return message_class(inner[0]).FromString(inner[1])
            if code in (_ARRAY, _SCALAR):
                return self._array(inner)
        finally:
            self._depth -= 1
        raise DecodingFailed(f"it has a value of kind {code}, which nobody knows here")

    def _array(self, told: Any) -> Any:
        if (numpy := module_of("numpy")) is None:
            raise DecodingFailed("an array came, and nothing has imported numpy here")
        dtype = _dtype(numpy, told[0])
        if len(told) == 2:
            if not dtype.itemsize:  # "" and b""
                return dtype.type()
            (scalar,) = numpy.frombuffer(told[1], dtype)
            return scalar
        _, shape, order, content = told
        buffer = self._buffers[content] if isinstance(content, int) else content
        flat = numpy.frombuffer(buffer, dtype)
        if not flat.flags.writeable:
            flat = flat.copy()
        return flat.reshape(shape[::-1]).T if order == "F" else flat.reshape(shape)


def _dtype(numpy: Any, text: Any) -> Any:
    if len(text) > 32:
        raise DecodingFailed("an array came whose dtype is none")
    dtype = numpy.dtype(text)
    if dtype.kind not in "?biufcmMSU":
        raise DecodingFailed(f"an array of dtype {text!r} came, which nobody sends here")
    return dtype


def _member(module: str, name: str, by: Any) -> Any:
    cls = loaded_class(module, name)
    if kind_of(cls) != ENUM:
        raise DecodingFailed(f"{module}.{name} is no enum here")
    if issubclass(cls, enum.Flag):
        return cls(by)
    if by not in cls.__members__:
        raise DecodingFailed(f"{module}.{name} has no member {str(by)[:60]!r} here")
    return cls.__members__[by]


def _of_int(value: int) -> tuple[int, bytes]:
    size = value.bit_length() // 8 + 1
    if size > _INT_BYTES_MAX:
        raise _Unknown(f"a number of {size} bytes cannot travel; {_INT_BYTES_MAX} are allowed")
    return _INT, value.to_bytes(size, "big", signed=True)


def _of_moment(value: datetime.datetime) -> tuple[int, bytes]:
    return _DATETIME, f"{value.isoformat()}{'|1' if value.fold else ''}".encode()


_BY_TYPE: dict[type, Callable[[Any], tuple[int, Any]]] = {
    tuple: lambda value: (_TUPLE, list(value)),
    set: lambda value: (_SET, list(value)),
    frozenset: lambda value: (_FROZENSET, list(value)),
    int: _of_int,
    complex: lambda value: (_COMPLEX, [value.real, value.imag]),
    datetime.datetime: _of_moment,
    datetime.date: lambda value: (_DATE, value.isoformat().encode()),
    datetime.time: lambda value: (_TIME, value.isoformat().encode()),
    datetime.timedelta: lambda value: (_TIMEDELTA, [value.days, value.seconds, value.microseconds]),
    decimal.Decimal: lambda value: (_DECIMAL, str(value).encode()),
    uuid.UUID: lambda value: (_UUID, value.bytes),
}


def _moment(content: bytes) -> datetime.datetime:
    text, _, fold = content.decode().partition("|")
    return datetime.datetime.fromisoformat(text).replace(fold=1 if fold else 0)


_FROM_TEXT: dict[int, Callable[[bytes], Any]] = {
    _INT: lambda content: int.from_bytes(content, "big", signed=True),
    _DATETIME: _moment,
    _DATE: lambda content: datetime.date.fromisoformat(content.decode()),
    _TIME: lambda content: datetime.time.fromisoformat(content.decode()),
    _DECIMAL: lambda content: decimal.Decimal(content.decode()),
    _UUID: lambda content: uuid.UUID(bytes=content),
}
_FROM_PARTS: dict[int, Callable[[Any], Any]] = {
    _TUPLE: tuple,
    _SET: set,
    _FROZENSET: frozenset,
    _COMPLEX: lambda parts: complex(*parts),
    _TIMEDELTA: lambda parts: datetime.timedelta(*parts),
}


def _unsupported(value: Any) -> str:
    cls = type(value)
    for base, better in ((dict, "dict"), (list, "list"), (str, "str"), (int, "int"), (float, "float")):
        if isinstance(value, base):
            return f"a {cls.__name__} is a {better} with a type of its own, which cannot travel; convert it to {better}"
    if callable(value):
        return f"a {cls.__name__} cannot travel between deployments: it is code"
    return f"a {cls.__module__}.{cls.__qualname__} cannot travel between deployments"


_LOOKED_AT_MAX = 10_000
"""Values that are searched for one that cannot travel: the event loop waits meanwhile."""


class _TooMany(Exception):
    """There are more values than are searched."""


_TAKEN = (
    "send what it is made of: dict, list, tuple, set, str, bytes, numbers, times, dataclasses, named tuples, enums, "
    "pydantic models, protobuf messages or numpy arrays"
)


def _failure(value: Any, named: str, error: Exception) -> EncodingFailed:
    """Return the error that tells where the trouble is."""
    try:
        left = iter(range(_LOOKED_AT_MAX))
        place, why = next(_faults(value, named, (), left), (named, str(error) or type(error).__name__))
    except Exception:
        place, why = named, str(error) or type(error).__name__
    return EncodingFailed(f"{place}: {why[:500]}", hint=_TAKEN)


def _faults(value: Any, place: str, within: tuple[int, ...], left: Iterator[int]) -> Iterator[tuple[str, str]]:
    """Yield the place of what cannot travel, and why, deepest first. Raises _TooMany when nothing is `left`."""
    if next(left, None) is None:
        raise _TooMany
    if id(value) in within:
        yield place, "it contains itself"
    elif len(within) > DEPTH_MAX:
        yield place, f"it is nested more than {DEPTH_MAX} deep"
    else:
        for at, inner in _inside(value):
            yield from _faults(inner, f"{place}{at}", (*within, id(value)), left)
        try:
            _Encoder().pack(value)
        except Exception as error:
            yield place, str(error) or type(error).__name__


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield " (a key)", key
            yield f"[{str(key)[:60]!r}]", inner
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{i}]", inner) for i, inner in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((" (in a set)", inner) for inner in value)
    elif (kind := kind_of(type(value))) is not None and kind != ENUM:
        yield from ((f".{name}", inner) for name, inner in fields_of(kind, value).items())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{field.name}", getattr(value, field.name, None)) for field in dataclasses.fields(value))
