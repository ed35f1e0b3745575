"""The words of `call`: which method is meant, its metadata, its request, and what an error of the other side says.

Owns the exit code that each status code stands for, by the kind of error it becomes. Pure. Called by `grpc_call`.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from mesh.cli.json_input import Text
from mesh.errors import DeadlineExceeded, InvalidConfig, MeshError, NotFound, Problem, Unreachable
from mesh.transcode.schema import MethodSchema, Schema, ServiceSchema

APPLICATION_METADATA = "application"
_NAMES_SHOWN_MAX = 10
_DETAIL_CHARACTERS_MAX = 2000
_METADATA_NAME = re.compile(r"[0-9a-z_.-]+")
_NO_FIELD = re.compile(r'Message type "(?P<type>[\w.]+)" has no field named "(?P<name>[^"]*)"')
_SYNTAX = re.compile(r"Failed to load JSON: (?P<what>.+): line (?P<line>\d+) column (?P<column>\d+) \(char \d+\)")
_KINDS: Mapping[str, type[MeshError]] = {
    "NOT_FOUND": NotFound,
    "UNIMPLEMENTED": NotFound,
    "UNAVAILABLE": Unreachable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}
_HINTS: Mapping[str, str] = {
    "UNAVAILABLE": "try again in a few seconds; meshctl status tells how applications are doing",
    "DEADLINE_EXCEEDED": "--timeout allows more time",
    "UNAUTHENTICATED": "send a credential, such as -H authorization:VALUE",
}
_ = error_details_pb2  # imported so that the default pool knows google.rpc's details


def named(text: str, services: Sequence[str]) -> tuple[str, str]:
    """Return the service and method that SERVICE/METHOD or SERVICE.METHOD names. Raises NotFound, InvalidConfig.

    `services` are the full names of all services. Whether the service has the method is another matter.
    """
    name = text.strip().removeprefix("/")
    service, slash, method = name.rpartition("/") if "/" in name else name.rpartition(".")
    if name in services:
        service, method = name, ""
    if service in services:
        return service, method
    if not slash:
        raise InvalidConfig((Problem("", f"{text!r} names no method", "write SERVICE/METHOD"),))
    simple = [full for full in services if full.rpartition(".")[2].lower() == service.rpartition(".")[2].lower()]
    near = simple or difflib.get_close_matches(service, services, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}/{method}?" if near else f"it has {_listed(services)}"
    raise NotFound(f"the server has no service {service}", hint=hint)


def chosen(service: ServiceSchema, name: str) -> MethodSchema:
    """Return a method of a service. Raises NotFound with the nearest names."""
    if (method := service.methods.get(name)) is not None:
        return method
    near = difflib.get_close_matches(name.lower(), by_lower := {each.lower(): each for each in service.methods}, n=1)
    hint = f"did you mean {service.full_name}/{by_lower[near[0]]}?" if near else f"it has {_listed([*service.methods])}"
    what = f"has no method {name}" if name else "is a service; name one of its methods too"
    raise NotFound(f"{service.full_name} {what}", hint=hint)


def metadata(headers: Iterable[str], application: str) -> tuple[tuple[str, str | bytes], ...]:
    """Return NAME:VALUE words as metadata; values of names in -bin are base64. Raises InvalidConfig."""
    found: list[tuple[str, str | bytes]] = []
    for word in headers:
        name, colon, value = word.partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or not _METADATA_NAME.fullmatch(name):
            raise _wrong_header(word, "write NAME:VALUE, the name of letters, digits, and any of - _ .")
        if name.startswith("grpc-"):
            raise _wrong_header(word, "names that begin with grpc- belong to gRPC itself")
        if name.endswith("-bin"):
            try:
                found.append((name, base64.b64decode(value + "=" * (-len(value) % 4), validate=True)))
            except binascii.Error:
                raise _wrong_header(word, "the value of a name in -bin is base64") from None
        elif value.isascii() and value.isprintable():
            found.append((name, value))
        else:
            raise _wrong_header(word, "write printable ASCII, or a name in -bin and base64")
    if application:
        found.append((APPLICATION_METADATA, application))
    return tuple(found)


def request(text: Text, method: MethodSchema, schema: Schema) -> Message:
    """Return a request from JSON; nothing at all is the empty message. Raises InvalidConfig."""
    message = schema.message_class(method.input)()
    if not text.text:
        return message
    if not text.text.startswith("{") and method.input.file.package != "google.protobuf":
        hint = f"write {{…}} with the fields of {method.input.full_name}"
        raise InvalidConfig((Problem("", f"{text.place}:{text.line}: a request is a JSON object", hint),))
    try:
        return json_format.Parse(text.text, message, descriptor_pool=schema.pool)
    except (json_format.ParseError, RecursionError) as error:
        raise InvalidConfig((_problem(text, str(error), method, schema.pool),)) from None


def response(message: Message, pool: DescriptorPool) -> Any:
    """Return an answer as plain data: proto3 JSON. Raises MeshError if it holds an Any of an unknown type."""
    try:
        return json.loads(json_format.MessageToJson(message, indent=None, ensure_ascii=False, descriptor_pool=pool))
    except (TypeError, DecodeError, ValueError, json_format.Error) as error:
        raise MeshError(f"the answer has no JSON form: {_clean(str(error))}") from None


def failure(
    code: str, details: str, trailers: Iterable[tuple[str, str | bytes]], pool: DescriptorPool | None
) -> MeshError:
    """Return the error that a status stands for. Its details (google.rpc types) are lines of the message."""
    found = dict(trailers)
    lines = [f"{code}: {_clean(details)}" if details else code]
    if isinstance(packed := found.get("grpc-status-details-bin"), bytes):
        lines += _details(packed, pool)
    hint = _HINTS.get(code, "")
    pushback = str(found.get("grpc-retry-pushback-ms", ""))
    if pushback.isdecimal() and len(pushback) < 10:
        hint = f"try again in {int(pushback) / 1000:g} s"
    return _KINDS.get(code, MeshError)("\n".join(lines), hint=hint)


def _details(packed: bytes, pool: DescriptorPool | None) -> list[str]:
    try:
        details = status_pb2.Status.FromString(packed).details
    except DecodeError:
        return ["its details cannot be read"]
    lines = []
    for detail in details:
        name = detail.type_url.rpartition("/")[2]
        text = f"({len(detail.value)} bytes)"
        for known in (descriptor_pool.Default(), pool):
            try:
                descriptor = known.FindMessageTypeByName(name) if known is not None else None
                if descriptor is not None:
                    message = message_factory.GetMessageClass(descriptor).FromString(detail.value)
                    data = json_format.MessageToDict(message, descriptor_pool=known)
                    text = json.dumps(data, ensure_ascii=False)
                    break
            except (KeyError, DecodeError, TypeError, ValueError, json_format.Error):
                continue
        lines.append(_clean(f"{name.removeprefix('google.rpc.')} {text}")[:_DETAIL_CHARACTERS_MAX])
    return lines


def _problem(given: Text, said: str, method: MethodSchema, pool: DescriptorPool) -> Problem:
    """Tell json_format's words again."""
    place, hint = f"{given.place}:{given.line}", f"write JSON for {method.input.full_name}"
    if (syntax := _SYNTAX.match(said)) is not None:
        line = given.line + int(syntax["line"]) - 1
        return Problem("", f"{given.place}:{line}:{syntax['column']}: {syntax['what']}", hint)
    if (missing := _NO_FIELD.search(said)) is not None:
        fields = pool.FindMessageTypeByName(missing["type"]).fields
        near = difflib.get_close_matches(missing["name"], [field.json_name for field in fields], n=1)
        names = _listed([field.json_name for field in fields])
        hint = f"did you mean {near[0]!r}?" if near else f"it has {names}"
        return Problem("", f"{place}: {missing['type']} has no field {missing['name']!r}", hint)
    text = _clean(said.rpartition("Failed to load JSON: ")[2]).partition("\n")[0].rstrip(".")
    return Problem("", f"{place}: {text}", hint)


def _wrong_header(word: str, hint: str) -> InvalidConfig:
    return InvalidConfig((Problem("", f"-H {word!r} is no metadata", hint),))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN_MAX])
    left = len(names) - _NAMES_SHOWN_MAX
    return f"{shown} and {left} more" if left > 0 else shown or "none"


def _clean(text: str) -> str:
    """Return foreign text as it may be written to a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
