"""Which method of an application an HTTP request is for, and how its parts become a message.

Owns the routes of one schema: its HTTP rules, and each method's own path "/package.Service/Method". Pure. Made by
`pipeline` for each schema and route prefix; used by `rest_front`.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from mesh.transcode.binding import Binding
from mesh.transcode.json_codec import Codecs, JsonOptions
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
        self._router = Router(
            [
                self._route(method, rule, codecs)
                for service in schema.services.values()
                for method in service.methods.values()
                for rule in _rules(method)
            ]
        )

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
            is_rpc_path=rule.template_text == method.rpc_path,
        )
        return Route(rule.http_method, template.under(self._prefix) if self._prefix else template, endpoint)


def _rules(method: MethodSchema) -> tuple[HttpRule, ...]:
    """The method's rules, and its own path, which a rule of its own may have taken."""
    own = HttpRule("POST", method.rpc_path, "*", "")
    taken = any(rule.http_method == "POST" and rule.template_text == method.rpc_path for rule in method.rules)
    return method.rules if taken else (*method.rules, own)
