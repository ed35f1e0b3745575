"""Whether the REST routes of a new schema are free beside those of other applications.

Owns that rule: a route is an HTTP method and a path below the route prefix, with the variables left out. The same
service may be in several applications: gRPC calls name the application then. Never does I/O. Called by the control
plane before a revision goes live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mesh.transcode.descriptor_set import shown
from mesh.transcode.rules import HttpRule
from mesh.transcode.schema import MethodSchema, ServiceSchema
from mesh.transcode.template import Template, TemplateError, parse_template

REASONS_MAX = 10
"""Collisions that are told at once."""

_OWN_SEGMENT = "-"
"""The first segment of mesh's own pages."""


@dataclass(frozen=True, slots=True)
class Exposed:
    """What an application serves, and under which prefix."""

    route_prefix: str
    """"": not reachable over HTTP."""
    services: tuple[ServiceSchema, ...]


def check_collisions(existing: Mapping[str, Exposed], new: Exposed) -> tuple[str, ...]:
    """Return why the routes of `new` cannot be served, at most REASONS_MAX reasons; () if they can.

    `existing` are the other applications by name, without the one that `new` replaces.
    """
    reasons: list[str] = []
    wanted: dict[tuple[str, str], str] = {}
    for method, rule in _rules(new):
        try:
            template = parse_template(rule.template_text).under(new.route_prefix)
        except TemplateError as error:
            return (f"nothing can be served under the route prefix {shown(new.route_prefix)}: {error.message}",)
        if template.segments[0] == _OWN_SEGMENT:
            reasons.append(f"{_route(rule, template)} of {method.full_name} is below '/-/', which is mesh's own")
        wanted[rule.http_method, template.shape] = method.full_name
    for name, rule, template in _taken(existing) if wanted else ():
        if len(reasons) >= REASONS_MAX:
            break
        if (method_name := wanted.get((rule.http_method, template.shape))) is not None:
            reasons.append(f"{_route(rule, template)} of {method_name} is served by application {name!r} already")
    return tuple(reasons[:REASONS_MAX])


def _taken(existing: Mapping[str, Exposed]) -> Iterator[tuple[str, HttpRule, Template]]:
    for name, exposed in sorted(existing.items()):
        for _, rule in _rules(exposed):
            try:
                yield name, rule, parse_template(rule.template_text).under(exposed.route_prefix)
            except TemplateError:  # it cannot be served there, so it takes nothing
                continue


def _rules(exposed: Exposed) -> Iterable[tuple[MethodSchema, HttpRule]]:
    """Yield each rule with its method, unless the application is not reachable over HTTP."""
    for service in exposed.services if exposed.route_prefix else ():
        for method in service.methods.values():
            for rule in method.routes:
                yield method, rule


def _route(rule: HttpRule, template: Template) -> str:
    return f"{rule.http_method} {shown(template.text)}"
