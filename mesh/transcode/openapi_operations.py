"""HTTP rules as OpenAPI operations: parameters, bodies and answers of each, and what all of them share.

Owns what stands under a path. Never does I/O. Called by `openapi`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from mesh.transcode.json_codec import JsonOptions
from mesh.transcode.openapi_paths import ApiPath, api_path
from mesh.transcode.openapi_types import HTTP_BODY, REFERENCE, WELL_KNOWN, JsonSchema, Types, is_map
from mesh.transcode.rules import HttpRule
from mesh.transcode.schema import MethodSchema, Schema

Operation = dict[str, Any]

QUERY_PARAMETERS_MAX = 100
"""Of one operation. Messages in messages can make any number of them."""

_FIELDS_MAX = 500
"""After so many are looked at for them, no more messages are opened: they may have nothing but messages."""

_PATH_ITEM_METHODS = frozenset({"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"})
_NOT_IN_QUERY = frozenset({"google.protobuf.Empty", HTTP_BODY})
_JSON_IN_QUERY = frozenset(f"google.protobuf.{name}" for name in ("Any", "Struct", "Value", "ListValue"))
_JSON, _LINES, _EVENTS, _ANY_TYPE = "application/json", "application/x-ndjson", "text/event-stream", "*/*"


class Operations:
    """Gathers the operations of all applications. Add applications in a fixed order: it decides between equals."""

    def __init__(self) -> None:
        self._paths: dict[str, dict[str, Any]] = {}
        self._names: dict[str, ApiPath] = {}
        self._tags: dict[str, str] = {}
        self._ids: dict[str, tuple[str, int]] = {}
        self._schemas: dict[str, JsonSchema] = {}

    def add(self, application: str, route_prefix: str, schema: Schema, options: JsonOptions) -> None:
        """Add what one application serves."""
        types = Types(schema.comments, options)
        written = [
            (method, rule, _Writer(types, method, rule, api_path(route_prefix, rule.template_text)))
            for service in schema.services.values()
            for method in service.methods.values()
            for rule in method.routes
        ]
        placed = [(method, rule, writer.path, self._named(writer)) for method, rule, writer in written]
        operations = [operation for _, _, _, operation in placed]
        self._share(application, operations, types.components())
        for method, rule, path, operation in placed:
            operation |= {
                "operationId": self._id(method, application),
                "x-mesh-application": application,
                "x-mesh-grpc-method": method.full_name,
            }
            self._place(path, rule, operation)
        for service in schema.services.values():
            self._tags[service.full_name] = self._tags.get(service.full_name) or service.comments

    def paths(self) -> dict[str, Any]:
        """Return all path items, sorted."""
        return {path: self._paths[path] for path in sorted(self._paths)}

    def tags(self) -> list[dict[str, str]]:
        """Return one tag for each service, sorted."""
        return [{"name": name, **({"description": text} if text else {})} for name, text in sorted(self._tags.items())]

    def schemas(self) -> dict[str, JsonSchema]:
        """Return the components of all messages and enums, sorted."""
        return {name: self._schemas[name] for name in sorted(self._schemas)}

    def _named(self, writer: _Writer) -> Operation:
        """Return the operation, with the names in its path that the first one like it has."""
        first = self._names.setdefault(writer.path.hierarchy, writer.path)
        return writer.operation(first)

    def _share(self, application: str, operations: list[Operation], found: dict[str, JsonSchema]) -> None:
        """Keep an application's components. If one differs from another application's, all get names of their own."""
        if any(self._schemas.get(name, body) != body for name, body in found.items()):
            suffix = f"-{application}"  # no full name has a hyphen
            while any(name + suffix in self._schemas for name in found):
                suffix += "-2"
            _rename([operations, found], {REFERENCE + name: REFERENCE + name + suffix for name in found})
            found = {name + suffix: body for name, body in found.items()}
        self._schemas |= found

    def _id(self, method: MethodSchema, application: str) -> str:
        """Return a name of its own for the next operation of a method."""
        base = method.full_name.replace("/", ".")
        owner, count = self._ids.get(base, (application, 0))
        self._ids.setdefault(base, (application, 0))
        if owner != application:
            base = f"{base}-{application}"
            _, count = self._ids.get(base, (application, 0))
        self._ids[base] = (application if owner == application else owner, count + 1)
        return f"{base}-{count + 1}" if count else base

    def _place(self, path: ApiPath, rule: HttpRule, operation: Operation) -> None:
        key = self._names[path.hierarchy].text
        item = self._paths.setdefault(key, {})
        method = rule.http_method.lower()
        if rule.http_method in _PATH_ITEM_METHODS and method not in item:
            item[method] = operation
        else:
            item.setdefault("x-mesh-operations", []).append({"method": rule.http_method, **operation})


class _Writer:
    """Writes the operation of one rule."""

    def __init__(self, types: Types, method: MethodSchema, rule: HttpRule, path: ApiPath) -> None:
        self._types = types
        self._method = method
        self._rule = rule
        self.path = path

    def operation(self, named: ApiPath) -> Operation:
        """Return the operation; its parameters in the path have the names that they have in `named`."""
        method = self._method
        operation: Operation = {"tags": [method.full_name.partition("/")[0]]}
        if method.comments:
            operation["summary"] = _summary(method.comments)
            operation["description"] = method.comments
        if method.deprecated:
            operation["deprecated"] = True
        if parameters := [*self._path_parameters(named), *self._query_parameters()]:
            operation["parameters"] = parameters
        if self._rule.body:
            operation["requestBody"] = {"required": True, "content": self._request()}
            if method.client_streaming:
                operation["requestBody"]["description"] = "A stream of messages: one JSON value in each line."
        operation["responses"] = {
            "200": {"description": self._answer_note(), "content": self._answer()},
            **{status: {"$ref": f"#/components/responses/{name}"} for status, name in _ERRORS.items()},
        }
        return operation

    def _path_parameters(self, named: ApiPath) -> Iterator[JsonSchema]:
        for own, shown in zip(self.path.parameters, named.parameters, strict=True):
            field = _field(self._method.input, own.field_path) if own.field_path else None
            schema = self._types.value(field) if field is not None and own.whole else {"type": "string"}
            notes = [self._types.comment(field.full_name) if field is not None and own.whole else "", own.note]
            if own.whole and own.name != shown.name:
                notes.append(f"The field `{own.field_path}`.")
            parameter: JsonSchema = {"name": shown.name, "in": "path", "required": True, "schema": schema}
            if text := "\n\n".join(filter(None, notes)):
                parameter["description"] = text
            if own.multi:
                parameter["x-mesh-multi-segment"] = True
            yield parameter

    def _query_parameters(self) -> list[JsonSchema]:
        if self._rule.body == "*":
            return []
        bound = self.path.fields | {self._rule.body}
        found: list[tuple[FieldDescriptor, ...]] = []
        pending: list[tuple[FieldDescriptor, ...]] = [(field,) for field in self._method.input.fields]
        for fields in pending:  # it grows meanwhile
            if len(found) == QUERY_PARAMETERS_MAX:
                break
            inner = fields[-1].message_type
            if ".".join(each.name for each in fields) in bound or is_map(fields[-1]):
                continue
            if inner is None:
                found.append(fields)
            elif fields[-1].is_repeated or inner.full_name in _NOT_IN_QUERY:
                continue
            elif inner.full_name in WELL_KNOWN:
                found.append(fields)
            elif len(pending) < _FIELDS_MAX and not self._is_inside_itself(fields):
                pending += [(*fields, each) for each in inner.fields]
        found.sort(key=lambda fields: tuple(field.index for field in fields))
        return [self._query_parameter(fields) for fields in found]

    def _is_inside_itself(self, fields: tuple[FieldDescriptor, ...]) -> bool:
        """Whether the last field's message is above it already: it would go on for ever."""
        above = (self._method.input, *(field.message_type for field in fields[:-1]))
        return fields[-1].message_type in above

    def _query_parameter(self, fields: tuple[FieldDescriptor, ...]) -> JsonSchema:
        schema = self._types.field(fields[-1])
        text = schema.pop("description", "")
        parameter: JsonSchema = {"name": self._types.path(fields), "in": "query"}
        if schema.pop("deprecated", False):
            parameter["deprecated"] = True
        kind = fields[-1].message_type
        if kind is not None and kind.full_name in _JSON_IN_QUERY:
            parameter["content"] = {_JSON: {"schema": schema}}
        else:
            parameter["schema"] = schema
        if text:
            parameter["description"] = text
        return parameter

    def _request(self) -> dict[str, Any]:
        request = self._method.input
        if self._rule.body == "*":
            if request.full_name == HTTP_BODY:
                return {_ANY_TYPE: {}}
            top_level = frozenset(path for path in self.path.fields if path in request.fields_by_name)
            schema = self._types.fields(request, without=top_level) if top_level else self._types.message(request)
        else:
            field = request.fields_by_name[self._rule.body]
            if field.message_type is not None and field.message_type.full_name == HTTP_BODY:
                return {_ANY_TYPE: {}}
            schema = self._types.field(field)
        return {_LINES if self._method.client_streaming else _JSON: {"schema": schema}}

    def _answer(self) -> dict[str, Any]:
        answer = self._method.output
        field = answer.fields_by_name[self._rule.response_body] if self._rule.response_body else None
        inner = answer if field is None else field.message_type
        if inner is not None and inner.full_name == HTTP_BODY and not (field is not None and field.is_repeated):
            return {_ANY_TYPE: {}}
        schema = self._types.message(answer) if field is None else self._types.field(field)
        if not self._method.server_streaming:
            return {_JSON: {"schema": schema}}
        return {
            _LINES: {"schema": schema},
            _EVENTS: {"schema": {"type": "string", "description": "Each event's data is one message as JSON."}},
            _JSON: {"schema": {"type": "array", "items": schema}},
        }

    def _answer_note(self) -> str:
        if self._method.server_streaming:
            return "A stream of messages: one JSON value in each line, or as `Accept` asks."
        return "The answer."


def components(schemas: Mapping[str, JsonSchema]) -> dict[str, Any]:
    """Return the components of a document: its schemas, and errors as they are answered."""
    problem = {"application/problem+json": {"schema": {"$ref": f"{REFERENCE}{_PROBLEM}"}}}
    responses: dict[str, Any] = {name: {"description": text, "content": problem} for name, text in _ERROR_NOTES.items()}
    retry = {"description": "Seconds to wait before the next attempt.", "schema": {"type": "integer", "minimum": 1}}
    responses["Unavailable"] = {**responses["Unavailable"], "headers": {"Retry-After": retry}}
    return {"schemas": {**schemas, _PROBLEM: _PROBLEM_SCHEMA}, "responses": responses}


_PROBLEM = "Problem"
_PROBLEM_SCHEMA: JsonSchema = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "required": ["type", "title", "status", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Name of the gRPC status code.", "examples": ["INVALID_ARGUMENT"]},
        "reason": {"type": "string", "description": "Why, for programs."},
        "request_id": {"type": "string"},
        "details": {
            "type": "array",
            "description": "Details of the status, as messages in JSON with their type in @type.",
            "items": {"type": "object", "properties": {"@type": {"type": "string"}}, "additionalProperties": True},
        },
    },
}
_ERRORS = {"400": "Invalid", "404": "NotFound", "503": "Unavailable", "504": "Late", "default": "Error"}
_ERROR_NOTES = {
    "Invalid": "The request does not fit the method, or the method refused it.",
    "NotFound": "There is no such route, or the method found no such thing.",
    "Unavailable": "A limit is reached and the request never ran, or no replica can serve it.",
    "Late": "It took longer than it may.",
    "Error": "Any other error.",
}


def _field(message: Descriptor, path: str) -> FieldDescriptor:
    first, *others = path.split(".")
    field = message.fields_by_name[first]
    for name in others:
        assert field.message_type is not None
        field = field.message_type.fields_by_name[name]
    return field


def _summary(comment: str) -> str:
    line = comment.split("\n\n", 1)[0].replace("\n", " ")
    return line if len(line) <= 120 else f"{line[:117]}..."


def _rename(node: Any, names: Mapping[str, str]) -> None:
    """Change all references in a tree of lists and objects."""
    pending = [node]
    while pending:
        at = pending.pop()
        if isinstance(at, list):
            pending += at
        elif isinstance(at, dict):
            if isinstance(reference := at.get("$ref"), str):
                at["$ref"] = names.get(reference, reference)
            pending += at.values()
