"""One HTTP rule of one method: (path captures, query, body) -> request message; answer message -> body.

Owns how path, query and body share the fields of a request (the path wins over the body; the query may touch neither),
content types, and `google.api.HttpBody`, which travels raw. Everything that can be known from the descriptors is
checked when a Binding is made. Never routes and never speaks HTTP. Pure. Called by the control plane (to check a
deploy) and by the gateway.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from mesh.transcode import json_scalars
from mesh.transcode.json_codec import Codecs, check_initialized
from mesh.transcode.json_known import set_in_parent, shared_oneof
from mesh.transcode.json_text import NESTING_MAX, decode
from mesh.transcode.query import QueryBinder
from mesh.transcode.refusals import BadJson, BindingError, CannotRender, Flaw, RequestRefused

JSON_CONTENT_TYPE = "application/json"
_OCTETS = "application/octet-stream"
_HTTP_BODY = "google.api.HttpBody"
_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE"})
_JSON_TYPE = re.compile(
    r"application/(?!connect\+|grpc[+-])(?:[a-z0-9.+_-]+\+)?json[ \t]*"
    r'(?:;[ \t]*charset[ \t]*=[ \t]*"?(?:utf-?8|us-ascii)"?[ \t]*)?;?[ \t]*',
    re.IGNORECASE,
)
_CONTENT_TYPE_CHARACTERS_MAX = 200
_HEADER_VALUE = re.compile(r"[!-~](?:[ \t!-~]{0,254}[!-~])?")


class Rule(Protocol):
    """What a Binding needs of an HTTP rule."""

    @property
    def http_method(self) -> str:
        """GET, POST, ..."""

    @property
    def body(self) -> str:
        """A field of the request, "*" or ""."""

    @property
    def response_body(self) -> str:
        """A field of the answer, or ""."""


class Method(Protocol):
    """What a Binding needs of a method."""

    @property
    def full_name(self) -> str:
        """For errors."""

    @property
    def input(self) -> Descriptor:
        """Type of the request."""

    @property
    def output(self) -> Descriptor:
        """Type of the answer."""


SetText = Callable[[Any, str], None]
"""(request, decoded text of a path capture) -> None. Raises Flaw."""


class Binding:
    """Converts the requests and answers of one HTTP rule.

    `variables` are the field paths of the template ("shelf.name"). Raises BindingError if the rule does not fit.
    """

    def __init__(self, rule: Rule, method: Method, variables: Iterable[str], codecs: Codecs) -> None:
        self._name = f"{method.full_name}: {rule.http_method} rule"
        self._body = rule.body
        self._input, self._output = codecs.get(method.input), codecs.get(method.output)
        self._body_field = self._top_field(method.input, rule.body, "body") if rule.body not in ("", "*") else None
        self._response_field = (
            self._top_field(method.output, rule.response_body, "response_body") if rule.response_body else None
        )
        paths = tuple(variables)
        self._captures = {path: self._variable(method.input, path) for path in paths}
        self._check_variables(method.input, paths)
        self._query = QueryBinder(method.input, codecs, paths, rule.body)
        self._request_body = self._raw_place(method.input, self._body_field) if rule.body else None
        self._response_body = self._raw_place(method.output, self._response_field)
        self.warnings: tuple[str, ...] = ()
        """What is legal and yet doubtful, a sentence each."""
        if rule.body and rule.http_method in _WITHOUT_BODY:
            self.warnings = (f"{self._name} maps a body: many clients and proxies send none with {rule.http_method}",)

    @property
    def raw_request(self) -> bool:
        """Whether the body is taken as it is (google.api.HttpBody), whatever its content type."""
        return self._request_body is not None

    @property
    def raw_response(self) -> bool:
        """Whether answers are bytes with a content type of their own (google.api.HttpBody)."""
        return self._response_body is not None

    def request(
        self, captures: Iterable[tuple[str, str]], query: bytes, body: bytes, content_type: str = ""
    ) -> Message:
        """Return the request message. Raises RequestRefused.

        `captures` are (field path, decoded text) of the template's variables, `query` is raw and without its "?",
        `content_type` is the value of the header, empty if there is none.
        """
        message = self._input.new()
        try:
            self._read_body(message, body, content_type)
            for path, text in captures:
                self._capture(message, path, text)
            if query:
                self._query.apply(message, query)
            check_initialized(message)
        except BadJson as error:
            raise RequestRefused(400, error.field, error.reason) from None
        return message

    def response(self, message: Message) -> tuple[str, bytes]:
        """Return (content type, body) of an answer. Raises CannotRender."""
        if self._response_body is not None:
            part = self._response_body(message)
            return _checked(part.content_type) if part.content_type else _OCTETS, part.data
        if self._response_field is not None:
            return JSON_CONTENT_TYPE, self._output.render_field(message, self._response_field)
        return JSON_CONTENT_TYPE, self._output.render(message)

    def _read_body(self, message: Message, body: bytes, content_type: str) -> None:
        """Put the body where the rule says."""
        if not self._body:
            if body:
                raise RequestRefused(400, "", "this method takes no body")
            return
        if self._request_body is not None:
            if body or content_type:
                _take_raw(self._request_body(message), body, content_type)
            return
        if (body or content_type) and not is_json(content_type):
            raise RequestRefused(415, "", f"the content type must be {JSON_CONTENT_TYPE}")
        if not body:
            return
        if self._body_field is None:
            self._input.fill(message, body)
            return
        try:
            value = decode(body)
        except Flaw as flaw:
            raise RequestRefused(400, self._body_field.json_name, flaw.reason) from None
        self._input.fill_value(message, {self._body_field.name: value})

    def _capture(self, message: Message, path: str, text: str) -> None:
        """Set a field that is bound by the path, over whatever the body says."""
        try:
            self._captures[path](message, text)
        except Flaw as flaw:
            raise RequestRefused(400, path, flaw.reason) from None

    def _top_field(self, descriptor: Descriptor, name: str, part: str) -> FieldDescriptor:
        """Find the field that a rule's body or response_body names."""
        field = descriptor.fields_by_name.get(name)
        if field is None:
            raise BindingError(
                f"{self._name}: {part} names {name!r}, which is not a field of {descriptor.full_name}",
                hint="it must be a field of the message itself, by its name in the .proto file",
            )
        return field

    def _variable(self, descriptor: Descriptor, path: str) -> SetText:
        """Return what sets the field of a template variable."""
        names = path.split(".")
        if len(names) > NESTING_MAX:
            raise BindingError(f"{self._name}: the variable {path!r} is nested too deep")
        fields: list[FieldDescriptor] = []
        current: Descriptor | None = descriptor
        for name in names:
            field = current.fields_by_name.get(name) if current is not None else None
            if field is None:
                place = current.full_name if current is not None else f"{fields[-1].name!r}, which is no message"
                raise BindingError(f"{self._name}: the variable {path!r} names {name!r}: no such field in {place}")
            if field.is_repeated:
                kind = "a map" if field.message_type and field.message_type.GetOptions().map_entry else "repeated"
                raise BindingError(f"{self._name}: the variable {path!r} may not name {name!r}, which is {kind}")
            fields.append(field)
            current = field.message_type
        if current is not None:
            raise BindingError(
                f"{self._name}: the variable {path!r} names a message, {current.full_name}",
                hint="a path sets single scalar fields; name one of the message's fields",
            )
        return _setter(names[:-1], names[-1], json_scalars.text_reader(fields[-1]))

    def _check_variables(self, descriptor: Descriptor, paths: tuple[str, ...]) -> None:
        """Refuse variables that would undo each other, or the body."""
        if len(set(paths)) < len(paths):
            raise BindingError(f"{self._name}: a field is in the template twice")
        if self._body in paths:
            raise BindingError(f"{self._name}: the field {self._body!r} is in the template and is the body too")
        chosen: dict[tuple[str, str], str] = {}
        for path in (*paths, *([self._body_field.name] if self._body_field is not None else [])):
            current, parent = descriptor, ""
            for name in path.split("."):
                field = current.fields_by_name[name]
                if (oneof := shared_oneof(field)) is not None:
                    other = chosen.setdefault((parent, oneof.name), name)
                    if other != name:
                        raise BindingError(
                            f"{self._name}: {other!r} and {name!r}, which it sets both, are in one oneof"
                        )
                parent = f"{parent}.{name}"
                current = field.message_type or current

    def _raw_place(self, descriptor: Descriptor, field: FieldDescriptor | None) -> Callable[[Any], Any] | None:
        """Return what finds the HttpBody in a message, None if there is none to be taken raw."""
        if field is None:
            return _itself if _is_http_body(descriptor) else None
        if field.message_type is None or field.is_repeated or not _is_http_body(field.message_type):
            return None
        name = field.name
        return lambda message: getattr(message, name)


def is_json(content_type: str) -> bool:
    """Whether the value of a Content-Type header is JSON in UTF-8: application/json or application/...+json.

    Not the streams of Connect, gRPC and gRPC-Web: the bodies of application/connect+json and the like are frames.
    """
    if content_type == JSON_CONTENT_TYPE:
        return True
    return len(content_type) <= _CONTENT_TYPE_CHARACTERS_MAX and _JSON_TYPE.fullmatch(content_type) is not None


def _is_http_body(descriptor: Descriptor) -> bool:
    """Whether a type is google.api.HttpBody, with the two fields that matter."""
    if descriptor.full_name != _HTTP_BODY:
        return False
    types = {name: descriptor.fields_by_name.get(name) for name in ("content_type", "data")}
    return all(
        field is not None and not field.is_repeated and field.type == kind
        for field, kind in zip(types.values(), (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES), strict=True)
    )


def _itself(message: Any) -> Any:
    return message


def _take_raw(part: Any, body: bytes, content_type: str) -> None:
    """Put the bytes of a body and their type into an HttpBody."""
    set_in_parent(part)
    try:
        part.content_type = json_scalars.read_string(content_type)
    except Flaw as flaw:
        raise RequestRefused(400, "", f"the content type: {flaw.reason}") from None
    part.data = body


def _checked(content_type: str) -> str:
    """Return the content type that an application set, if it can be a header's value."""
    if not _HEADER_VALUE.fullmatch(content_type):
        raise CannotRender("content_type", "the content type of the HttpBody cannot be a header")
    return content_type


def _setter(parents: list[str], name: str, read: json_scalars.ReadText) -> SetText:
    """Return what sets a scalar field, which may be inside of other messages."""

    def put(message: Any, text: str) -> None:
        value = read(text)
        for parent in parents:
            message = getattr(message, parent)
            set_in_parent(message)
        setattr(message, name, value)

    return put
