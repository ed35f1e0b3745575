"""Seeded mutations of descriptor sets: of bytes, and of what the messages say."""

from __future__ import annotations

from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

_TEXTS = (
    *("", ".", "M", ".M", "google", "google.protobuf.Any", ".google.protobuf.Timestamp", "\x00", "é" * 9, "a" * 300),
    *("/", "/{a.b.c}", "/{name=**}:x", "/v1/{shelf.parts}", "/*/**", "/{", "*", "/v1/shelves", "/%zz", "/a" * 200),
)
_NUMBERS = (-(2**31), -1, 0, 1, 2, 3, 11, 14, 19000, 536870911, 536870912, 2**31 - 1)


def mutated_bytes(seed: bytes, random: Random) -> bytes:
    """Return `seed` with one to six places changed, cut, doubled or made longer."""
    data = bytearray(seed)
    for _ in range(random.randint(1, 6)):
        at = random.randrange(len(data) + 1)
        match random.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case 1:
                data[at:at] = random.randbytes(random.randint(1, 8))
            case 2:
                del data[at : at + random.randint(1, 40)]
            case 3:
                data[at:at] = data[at : at + random.randint(1, 200)]
            case 4 if at < len(data):
                data[at] = random.choice((0, 0x7F, 0x80, 0xFF, 0x0A, 0x12))
            case _ if random.random() < 0.1:
                del data[at:]
    return bytes(data)


def mutated_set(seed: FileDescriptorSet, random: Random) -> bytes:
    """Return a descriptor set with one to four fields somewhere in it changed, emptied, doubled or moved."""
    changed = FileDescriptorSet.FromString(seed.SerializeToString())
    for _ in range(random.randint(1, 4)):
        _mutate(_somewhere(changed, random), random)
    return changed.SerializeToString()


def _somewhere(message: Any, random: Random) -> Any:
    """Walk down from a message by chance."""
    while random.random() < 0.85:
        inner = [value for field, value in message.ListFields() if field.message_type is not None]
        if not inner:
            break
        below = random.choice(inner)
        message = random.choice(below) if hasattr(below, "add") else below
    return message


def _mutate(message: Any, random: Random) -> None:
    field = random.choice(message.DESCRIPTOR.fields)
    set_fields = [each for each, _ in message.ListFields() if not each.is_extension]
    if set_fields and random.random() < 0.7:
        field = random.choice(set_fields)
    values = getattr(message, field.name)
    if field.is_repeated:
        _mutate_list(field, values, random)
    elif random.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is not None:
        values.SetInParent()
    else:
        setattr(message, field.name, _value(field, values, random))


def _mutate_list(field: FieldDescriptor, values: Any, random: Random) -> None:
    if values and random.random() < 0.5:
        at = random.randrange(len(values))
        if random.random() < 0.5:
            del values[at]
        elif field.message_type is not None:
            values.add().CopyFrom(values[at])
        else:
            values.append(values[at])
    elif field.message_type is not None:
        values.add()
    else:
        values.append(_value(field, None, random))


def _value(field: FieldDescriptor, old: Any, random: Random) -> Any:
    if field.enum_type is not None:
        return random.choice(field.enum_type.values).number
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return random.randbytes(4)
        return random.choice(_TEXTS if old is None else (*_TEXTS, old[1:], f"{old}{old}", old.upper()))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return not old
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return random.choice((0.0, -1.0, float("nan")))
    number = random.choice(_NUMBERS)
    return number if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64) else abs(number)
