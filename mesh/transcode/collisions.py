"""Which REST routes a schema takes under a route prefix, and which of them another application serves already.

Owns that rule: a route is an HTTP method and a path, route prefix included, with the variables left out. Each method
takes those of its HTTP rules and its own path, "/package.Service/Method", unless a rule has that. The same service may
be in several applications: gRPC calls name the application then. Never does I/O. Called by the control plane before a
revision goes live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from mesh.transcode.descriptor_set import SchemaError, shown
from mesh.transcode.rules import HttpRule
from mesh.transcode.schema import MethodSchema, ServiceSchema
from mesh.transcode.template import TemplateError, parse_template

REASONS_MAX = 10
"""Collisions that are told at once."""

_OWN_SEGMENT = "-"
"""The first segment of mesh's own pages."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route as people know it."""

    text: str
    """HTTP method and path."""
    method: str
    """Full name of the gRPC method that it leads to."""


Routes: TypeAlias = Mapping[tuple[str, str], Route]
"""By HTTP method and shape of the path."""


def routes_of(services: Iterable[ServiceSchema], route_prefix: str) -> Routes:
    """Return the routes of services under a route prefix; none for the prefix "", which is not reachable over HTTP.

    Raises SchemaError if a route cannot be had there.
    """
    routes: dict[tuple[str, str], Route] = {}
    for method, rule in _rules(services) if route_prefix else ():
        try:
            template = parse_template(rule.template_text).under(route_prefix)
        except TemplateError as error:
            text = f"nothing can be served under the route prefix {shown(route_prefix)}: {error.message}"
            raise SchemaError(text, hint="choose another route_prefix") from None
        route = Route(f"{rule.http_method} {shown(template.text)}", method.full_name)
        if template.segments[0] == _OWN_SEGMENT:
            text = f"{route.text} of {route.method} is below '/-/', which is mesh's own"
            raise SchemaError(text, hint="change its path, or the route_prefix")
        routes.setdefault((rule.http_method, template.shape), route)
    return routes


def collisions(new: Routes, others: Mapping[str, Routes]) -> tuple[str, ...]:
    """Return why the routes of `new` cannot be served beside those of other applications, at most REASONS_MAX reasons.

    `others` are by application, without the one that `new` belongs to.
    """
    reasons: list[str] = []
    for application, taken in sorted(others.items()):
        reasons += [
            f"{new[key].text} of {new[key].method} is served by application {application!r} already"
            for key in sorted(new.keys() & taken.keys())
        ]
    return tuple(reasons[:REASONS_MAX])


def shadowed(routes: Routes, route_prefix: str) -> tuple[Route, ...]:
    """Return the routes that an application with another, longer route prefix keeps requests from: those below it."""
    below = route_prefix.rstrip("/") + "/"
    if below == "/":
        return ()
    found = {route.text: route for (_, shape), route in routes.items() if f"{shape}/".startswith(below)}
    return tuple(found[text] for text in sorted(found))[:REASONS_MAX]


def _rules(services: Iterable[ServiceSchema]) -> Iterator[tuple[MethodSchema, HttpRule]]:
    """Yield each method with each of its rules, then each with its own path, which a rule may have taken."""
    methods = [method for service in services for method in service.methods.values()]
    for method in methods:
        for rule in method.rules:
            yield method, rule
    for method in methods:
        yield method, HttpRule("POST", method.rpc_path, "*", "")
