"""The HTTP rules of a method: read from its options, flattened, and checked.

Owns what a `google.api.http` annotation may say beyond the grammar of its template, and beyond what its messages
allow: that `binding` knows. Never does I/O. Called by `schema`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import MethodOptions

from mesh.transcode.binding import Binding, Method
from mesh.transcode.descriptor_set import SchemaError, one_line, shown
from mesh.transcode.json_codec import Codecs
from mesh.transcode.refusals import BindingError
from mesh.transcode.template import Template, TemplateError, parse_template

_METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,39}|\*")


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


def rule_count(options: MethodOptions) -> int:
    """Return how many rules a method has, without a look at them."""
    if not options.HasExtension(annotations_pb2.http):
        return 0
    return 1 + len(options.Extensions[annotations_pb2.http].additional_bindings)


def flattened(full_name: str, options: MethodOptions) -> tuple[HttpRule, ...]:
    """Return the rules of the method `full_name`, the main one first. Raises SchemaError."""
    if not options.HasExtension(annotations_pb2.http):
        return ()
    main = options.Extensions[annotations_pb2.http]
    rules = []
    for i, bound in enumerate((main, *main.additional_bindings)):
        where = f"the HTTP rule of {shown(full_name)}" if not i else f"additional binding {i} of {shown(full_name)}"
        if i and bound.additional_bindings:
            raise SchemaError(f"{where} has additional bindings of its own", hint="put them all into the first rule")
        rule = _rule(bound, where)
        _checked(rule.template_text, where)
        rules.append(rule)
    return tuple(rules)


def check_bindings(method: Method, rules: Iterable[HttpRule], codecs: Codecs) -> None:
    """Refuse rules that do not fit the messages of their method. Raises SchemaError."""
    for rule in rules:
        variables = (variable.field_path for variable in parse_template(rule.template_text).variables)
        try:
            Binding(rule, method, variables, codecs)
        except BindingError as error:
            raise SchemaError(f"the HTTP rules do not fit: {one_line(error.message)}", hint=error.hint) from None


def check_duplicates(rules: Iterable[tuple[str, HttpRule]]) -> None:
    """Refuse two rules, each with its method's name, that the same requests would match. Raises SchemaError."""
    seen: dict[tuple[str, str], str] = {}
    for name, rule in rules:
        key = (rule.http_method, parse_template(rule.template_text).shape)
        if (other := seen.get(key)) is not None:
            route = f"{rule.http_method} {shown(rule.template_text)}"
            owners = f"{shown(other)} and {shown(name)} have" if other != name else f"{shown(name)} twice has"
            raise SchemaError(f"{owners} the same route: {route}", hint="change one of the two templates")
        seen[key] = name


def _rule(bound: http_pb2.HttpRule, where: str) -> HttpRule:
    kind = bound.WhichOneof("pattern")
    if kind is None:
        raise SchemaError(f"{where} has no HTTP method and path", hint='write one, such as get: "/v1/books"')
    if kind == "custom":
        method, path = bound.custom.kind, bound.custom.path
        if not _METHOD.fullmatch(method):
            raise SchemaError(f"{where} has the HTTP method {shown(method)}", hint="write it in capital letters")
        if method in ("CONNECT", "TRACE"):
            raise SchemaError(f"{where} has the HTTP method {method}, which no gateway serves")
    else:
        method, path = kind.upper(), getattr(bound, kind)
    return HttpRule(method, path, bound.body, bound.response_body)


def _checked(text: str, where: str) -> Template:
    try:
        return parse_template(text)
    except TemplateError as error:
        reason = f"{where}: the path {shown(text)}: {one_line(error.message)}"
        raise SchemaError(reason, hint=error.hint) from None
