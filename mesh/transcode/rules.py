"""The HTTP rules of a method: read from its options, flattened, and checked.

Owns what a `google.api.http` annotation may say beyond the grammar of its template, and beyond what its messages
allow: that `binding` knows. Never does I/O. Called by `schema`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import MethodOptions, ServiceDescriptorProto

from mesh.transcode.binding import Binding, Method
from mesh.transcode.descriptor_set import Limits, SchemaError, one_line, shown
from mesh.transcode.json_codec import Codecs
from mesh.transcode.refusals import BindingError
from mesh.transcode.template import Template, TemplateError, parse_template

_METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,39}|\*")


class Routed(Method, Protocol):
    """A method with its rules."""

    @property
    def routes(self) -> tuple[HttpRule, ...]:
        """The rules it is served by."""


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One way to call a method over HTTP. Additional bindings are rules of their own."""

    http_method: str
    """In upper case; "*": any."""
    template_text: str
    body: str
    """"*": what the path does not bind; a field of the request; "": no body."""
    response_body: str
    """A field of the answer; "": all of it."""


def check_size(services: Mapping[str, ServiceDescriptorProto], limits: Limits) -> None:
    """Refuse too many rules, without a look at what they say. Raises SchemaError."""
    rules = characters = 0
    for name, service in services.items():
        for method in service.method:
            bound = _bound(method.options)
            rules += len(bound)
            characters += sum(len(_path(each)) for each in bound) if bound else len(name) + len(method.name)
    if rules > limits.rules_max:
        raise SchemaError(f"the services have {rules} HTTP rules; {limits.rules_max} are allowed")
    if characters > limits.path_characters_max:
        text = (
            f"the paths of the services have {characters} characters in all; {limits.path_characters_max} are allowed"
        )
        raise SchemaError(text)


def flattened(full_name: str, options: MethodOptions) -> tuple[HttpRule, ...]:
    """Return the rules of the method `full_name`, the main one first. Raises SchemaError."""
    rules = []
    for i, bound in enumerate(_bound(options)):
        where = f"the HTTP rule of {shown(full_name)}" if not i else f"additional binding {i} of {shown(full_name)}"
        if i and bound.additional_bindings:
            raise SchemaError(f"{where} has additional bindings of its own", hint="put them all into the first rule")
        rule = _rule(bound, where)
        _check_template(rule.template_text, where)
        rules.append(rule)
    return tuple(rules)


def check(methods: Iterable[Routed], codecs: Codecs) -> None:
    """Refuse rules that do not fit the messages of their method, and two for the same requests. Raises SchemaError."""
    seen: dict[tuple[str, str], str] = {}
    for method in methods:
        for rule in method.routes:
            template = parse_template(rule.template_text)
            _check_binding(method, rule, template, codecs)
            key = (rule.http_method, template.shape)
            if (other := seen.get(key)) is not None:
                route = f"{rule.http_method} {shown(rule.template_text)}"
                same = other == method.full_name
                owners = f"{shown(other)} twice has" if same else f"{shown(other)} and {shown(method.full_name)} have"
                raise SchemaError(f"{owners} the same route: {route}", hint="change one of the two templates")
            seen[key] = method.full_name


def _check_binding(method: Method, rule: HttpRule, template: Template, codecs: Codecs) -> None:
    try:
        Binding(rule, method, (variable.field_path for variable in template.variables), codecs)
    except BindingError as error:
        raise SchemaError(f"the HTTP rules do not fit: {one_line(error.message)}", hint=error.hint) from None


def _bound(options: MethodOptions) -> tuple[http_pb2.HttpRule, ...]:
    """Return the rules as annotated, the main one first."""
    if not options.HasExtension(annotations_pb2.http):
        return ()
    main = options.Extensions[annotations_pb2.http]
    return (main, *main.additional_bindings)


def _path(bound: http_pb2.HttpRule) -> str:
    kind = bound.WhichOneof("pattern")
    path: str = "" if kind is None else bound.custom.path if kind == "custom" else getattr(bound, kind)
    return path


def _rule(bound: http_pb2.HttpRule, where: str) -> HttpRule:
    kind = bound.WhichOneof("pattern")
    if kind is None:
        raise SchemaError(f"{where} has no HTTP method and path", hint='write one, such as get: "/v1/books"')
    if kind == "custom":
        method = bound.custom.kind
        if not _METHOD.fullmatch(method):
            raise SchemaError(f"{where} has the HTTP method {shown(method)}", hint="write it in capital letters")
        if method in ("CONNECT", "TRACE"):
            raise SchemaError(f"{where} has the HTTP method {method}, which no gateway serves")
    else:
        method = kind.upper()
    return HttpRule(method, _path(bound), bound.body, bound.response_body)


def _check_template(text: str, where: str) -> None:
    try:
        parse_template(text)
    except TemplateError as error:
        reason = f"{where}: the path {shown(text)}: {one_line(error.message)}"
        raise SchemaError(reason, hint=error.hint) from None
