"""Maps the values of `model` to protobuf messages and back, by field name.

Owns nothing but the mapping. Not for the request path. Called by the shells of each role and by the CLI.
Numbers of the model's enums equal those of the proto's, so that enums pass as integers.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, TypeVar

from google.protobuf.message import Message

_M = TypeVar("_M", bound=Message)
_T = TypeVar("_T")


def to_proto(value: Any, message_type: type[_M]) -> _M:
    """Return `value`, a dataclass of `model`, as a message. None fields stay unset.

    Raises AttributeError or TypeError where the two do not agree; a unit test compares them all.
    """
    message = message_type()
    _fill(value, message)
    return message


def from_proto(message: Message, value_type: type[_T]) -> _T:
    """Return `message` as a dataclass of `model`. Unset optional and message fields become None or the default."""
    arguments: dict[str, Any] = {}
    for name, (kind, inner, optional) in _fields(value_type).items():
        if optional and not message.HasField(name):
            arguments[name] = None
            continue
        arguments[name] = _read(getattr(message, name), kind, inner)
    return value_type(**arguments)


def _fill(value: Any, message: Message) -> None:
    for name in _fields(type(value)):
        item = getattr(value, name)
        if item is None:
            continue
        if dataclasses.is_dataclass(item):
            target = getattr(message, name)
            target.SetInParent()
            _fill(item, target)
        elif isinstance(item, tuple):
            target = getattr(message, name)
            for element in item:
                if dataclasses.is_dataclass(element):
                    _fill(element, target.add())
                else:
                    target.append(element)
        elif isinstance(item, Mapping):
            getattr(message, name).update(item)
        else:
            setattr(message, name, item)


def _read(raw: Any, kind: str, inner: Any) -> Any:
    if kind == "message":
        return from_proto(raw, inner)
    if kind == "messages":
        return tuple(from_proto(element, inner) for element in raw)
    if kind == "tuple":
        return tuple(raw)
    if kind == "map":
        return dict(raw)
    if kind == "enum":
        return inner(raw)
    return raw


_FIELDS: dict[type, dict[str, tuple[str, Any, bool]]] = {}


def _fields(value_type: Any) -> dict[str, tuple[str, Any, bool]]:
    """Kind, inner type and optionality of each field of a dataclass."""
    if (known := _FIELDS.get(value_type)) is None:
        hints = typing.get_type_hints(value_type)
        known = {field.name: _kind(hints[field.name]) for field in dataclasses.fields(value_type)}
        _FIELDS[value_type] = known
    return known


def _kind(hint: Any) -> tuple[str, Any, bool]:
    optional = False
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
        optional = True
    if typing.get_origin(hint) is tuple:
        (element, _) = typing.get_args(hint)
        return ("messages" if dataclasses.is_dataclass(element) else "tuple", element, optional)
    if typing.get_origin(hint) is not None:
        return ("map", None, optional)
    if dataclasses.is_dataclass(hint):
        return ("message", hint, optional)
    if issubclass(hint, IntEnum):
        return ("enum", hint, optional)
    return ("scalar", None, optional)
