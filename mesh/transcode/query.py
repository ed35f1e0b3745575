"""Query strings into the fields of a request message.

Owns how a query string is read (`+` and %XX once, UTF-8), which field a parameter names and what it may not touch:
repeated messages, maps, fields that the path or the body sets, a second field of a oneof. Pure. Called by `binding`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from mesh.transcode import json_known, json_scalars
from mesh.transcode.json_codec import Codecs
from mesh.transcode.json_known import set_in_parent, which_oneof
from mesh.transcode.json_text import NESTING_MAX, decode
from mesh.transcode.refusals import Flaw, RequestRefused, field_path, quoted, step

_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SHOWN_CHARACTERS_MAX = 200
_IN_JSON_TEXT = frozenset(f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue", "Any", "Empty"))
"""Well-known types without a text of their own: a parameter holds their JSON."""

FillText: TypeAlias = Callable[[Any, str], None]
"""(empty message, text) -> None. Raises Flaw."""


class _Target(NamedTuple):
    """What a parameter names."""

    parents: tuple[FieldDescriptor, ...]
    field: FieldDescriptor
    path: str
    """Proto names with dots: equal for all spellings of a parameter."""


def pairs(query: bytes) -> list[tuple[str, str]]:
    """Return the parameters of a query string in order, decoded. Raises RequestRefused."""
    found = []
    for part in query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            found.append((_decoded(name), _decoded(value)))
    return found


def _decoded(text: bytes) -> str:
    """Decode one side of a parameter, once."""
    if _BAD_PERCENT.search(text):
        raise RequestRefused(400, "", f"bad percent-encoding in the query: {quoted(text.decode('latin-1'))}")
    try:
        return unquote_to_bytes(text.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise RequestRefused(400, "", f"the query is not UTF-8: {quoted(text.decode('latin-1'))}") from None


class QueryBinder:
    """Sets fields of messages of one type from query strings.

    `path_fields` are the field paths that the path sets (proto names), `body` is the body's field, "*" or "".
    """

    def __init__(self, descriptor: Descriptor, codecs: Codecs, path_fields: Iterable[str], body: str) -> None:
        self._descriptor = descriptor
        self._codecs = codecs
        self._path_fields = tuple(path_fields)
        self._body = body
        self._names: dict[str, dict[str, FieldDescriptor]] = {}
        self._texts: dict[str, FillText] = {}
        self._scalars: dict[str, json_scalars.ReadText] = {}

    def apply(self, message: Message, query: bytes) -> None:
        """Set what a query string holds. The body and the path are in the message already. Raises RequestRefused."""
        seen: set[str] = set()
        for name, value in pairs(query):
            try:
                target = self._target(name)
                if not target.field.is_repeated and target.path in seen:
                    raise Flaw("there is more than one value")
                seen.add(target.path)
                self._set(message, target, value)
            except Flaw as flaw:
                flaw.inside(_shown(name))
                raise RequestRefused(400, flaw.field, flaw.reason) from None

    def _target(self, name: str) -> _Target:
        """Find the field that a parameter names, if it may."""
        if self._body == "*":
            raise Flaw("unknown parameter: the body is the whole message, so there are none")
        if name.count(".") > NESTING_MAX:
            raise Flaw("nested too deep")
        descriptor, parents, steps = self._descriptor, [], name.split(".")
        for inner in steps[:-1]:
            field = self._field(descriptor, inner)
            if field.is_repeated or field.message_type is None or self._is_value(field.message_type):
                raise Flaw(f"unknown parameter: {step(inner)} has no fields that a query could name")
            parents.append(field)
            descriptor = field.message_type
        field = self._field(descriptor, steps[-1])
        target = _Target(tuple(parents), field, ".".join(each.name for each in (*parents, field)))
        self._check_free(target)
        return target

    def _field(self, descriptor: Descriptor, name: str) -> FieldDescriptor:
        """Find a field by its JSON or proto name."""
        names = self._names.get(descriptor.full_name)
        if names is None:
            names = {field.name: field for field in descriptor.fields}
            names |= {field.json_name: field for field in descriptor.fields}
            self._names[descriptor.full_name] = names
        if (field := names.get(name)) is None:
            raise Flaw("unknown parameter")
        return field

    def _is_value(self, kind: Descriptor) -> bool:
        """Whether a message type is written as one value, and not by its fields."""
        return kind.full_name in _IN_JSON_TEXT or self._codecs.readers.get(kind).special

    def _check_free(self, target: _Target) -> None:
        """Refuse a field that the path or the body sets, or a part or the whole of one."""
        for bound in self._path_fields:
            if f"{target.path}.".startswith(f"{bound}.") or f"{bound}.".startswith(f"{target.path}."):
                raise Flaw("already set by the path")
        if self._body and target.path.split(".", 1)[0] == self._body:
            raise Flaw("set by the body only")

    def _set(self, message: Any, target: _Target, text: str) -> None:
        """Set a field, and the messages it is in."""
        for parent in target.parents:
            _check_oneof(message, parent)
            message = getattr(message, parent.name)
            set_in_parent(message)
        field = target.field
        _check_oneof(message, field)
        if field.message_type is None:
            value = self._scalar(field)(text)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
            return
        if field.is_repeated:
            if not self._is_value(field.message_type):
                raise Flaw("repeated messages and maps cannot be in a query")
            self._text(field.message_type)(getattr(message, field.name).add(), text)
            return
        fill = self._text(field.message_type)
        part = getattr(message, field.name)
        set_in_parent(part)
        fill(part, text)

    def _scalar(self, field: FieldDescriptor) -> json_scalars.ReadText:
        """Return what reads a scalar field from text."""
        read = self._scalars.get(field.full_name)
        if read is None:
            read = self._scalars[field.full_name] = json_scalars.text_reader(field)
        return read

    def _text(self, kind: Descriptor) -> FillText:
        """Return what reads a message from text: only well-known types have one."""
        fill = self._texts.get(kind.full_name)
        if fill is None:
            fill = self._texts[kind.full_name] = self._make_text(kind)
        return fill

    def _make_text(self, kind: Descriptor) -> FillText:
        """Make what reads a well-known type from text."""
        if not self._is_value(kind):
            raise Flaw("a message cannot be in a query: name one of its fields")
        fill = self._codecs.readers.get(kind).fill
        if kind.full_name in json_known.WRAPPERS:
            return _wrapper(json_scalars.text_reader(json_known.scalar_field(kind)))
        if kind.full_name in _IN_JSON_TEXT:
            return lambda message, text: fill(message, decode(text), 0)
        return lambda message, text: fill(message, text, 0)


def _wrapper(read: json_scalars.ReadText) -> FillText:
    """Return what reads a wrapper from text."""

    def fill(message: Any, text: str) -> None:
        message.value = read(text)

    return fill


def _check_oneof(message: Any, field: FieldDescriptor) -> None:
    """Refuse a field whose oneof has another field set already."""
    if (oneof := json_known.shared_oneof(field)) is not None:
        other = which_oneof(message, oneof.name)
        if other not in (None, field.name):
            raise Flaw(f'only one field of the oneof "{oneof.name}" may be set, "{other}" is')


def _shown(name: str) -> str:
    """Return the name of a parameter as the path of a field."""
    return field_path(map(step, name.split("."))) if len(name) <= _SHOWN_CHARACTERS_MAX else step(name)
