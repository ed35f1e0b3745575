"""Which method of an application an HTTP request is for, and how its parts become a message.

Owns the routes of one schema: its HTTP rules, and each method's own path "/package.Service/Method". Pure. Made by
`pipeline` for each schema and route prefix; used by `rest_front`.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from mesh.transcode.binding import Binding
from mesh.transcode.json_codec import Codec, Codecs, JsonOptions
from mesh.transcode.router import MalformedPath, Match, NoSuchPath, Route, Router, WrongMethod
from mesh.transcode.rules import HttpRule
from mesh.transcode.schema import MethodSchema, Schema
from mesh.transcode.template import parse_template

Found = Match["Endpoint"] | NoSuchPath | WrongMethod | MalformedPath


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route of one method."""

    method: MethodSchema
    binding: Binding
    request_class: type[Message]
    response_class: type[Message]
    codecs: Codecs
    request_codec: Codec
    response_codec: Codec
    is_rpc_path: bool
    """It is the method's own path, where Connect and gRPC-Web are spoken too."""


class RestTable:
    """Finds the endpoint of a path. Never changes once built; goes with its schema's pool."""

    def __init__(self, schema: Schema, prefix: str, options: JsonOptions) -> None:
        """`prefix`: the application's route prefix without a slash at its end. Raises MeshError if a rule is wrong."""
        self.schema = schema
        self.options = options
        self._prefix = prefix
        codecs = Codecs(schema.pool, options)
        methods = [method for service in schema.services.values() for method in service.methods.values()]
        ruled = [(method, rule) for method in methods for rule in method.rules]
        # A method's own path may be taken, by a rule of its own or of another one.
        taken = {(rule.http_method, parse_template(rule.template_text).shape) for _, rule in ruled}
        own = [(method, HttpRule("POST", method.rpc_path, "*", "")) for method in methods]
        free = [
            (method, rule) for method, rule in own if ("POST", parse_template(rule.template_text).shape) not in taken
        ]
        self._router = Router([self._route(method, rule, codecs) for method, rule in (*ruled, *free)])

    def match(self, http_method: str, raw_path: bytes) -> Found:
        """Return what a request leads to. `raw_path` is the whole path as sent."""
        return self._router.match(http_method, raw_path)

    def _route(self, method: MethodSchema, rule: HttpRule, codecs: Codecs) -> Route[Endpoint]:
        template = parse_template(rule.template_text)
        endpoint = Endpoint(
            method=method,
            binding=Binding(rule, method, [variable.field_path for variable in template.variables], codecs),
            request_class=self.schema.message_class(method.input),
            response_class=self.schema.message_class(method.output),
            codecs=codecs,
            request_codec=codecs.get(method.input),
            response_codec=codecs.get(method.output),
            is_rpc_path=(rule.http_method, rule.template_text) == ("POST", method.rpc_path),
        )
        return Route(rule.http_method, template.under(self._prefix) if self._prefix else template, endpoint)
