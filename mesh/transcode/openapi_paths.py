"""Path templates as OpenAPI paths.

Owns the names that wildcards get. OpenAPI knows one parameter for one segment and nothing else: a field that takes
several segments, such as {name=shelves/*/books/*}, becomes one parameter for each wildcard, named after what stands
before it: /shelves/{shelf}/books/{book}. Never does I/O. Called by `openapi_operations`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.transcode.template import ANY, REST, Template, Variable, parse_template

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class ApiParameter:
    """One parameter in a path."""

    name: str
    field_path: str
    """The field that it goes to, or a part of that field; "": none."""
    whole: bool
    """It is all of the field."""
    multi: bool
    """It takes several segments, with plain slashes between them."""
    note: str


@dataclass(frozen=True, slots=True)
class ApiPath:
    """A template as OpenAPI has it."""

    text: str
    hierarchy: str
    """Equal for two paths that are one to OpenAPI."""
    parameters: tuple[ApiParameter, ...]
    fields: frozenset[str]
    """All that the path sets, as field paths."""


def api_path(route_prefix: str, template_text: str) -> ApiPath:
    """Return the OpenAPI path of a rule below a route prefix."""
    template = parse_template(template_text).under(route_prefix)
    parameters: list[ApiParameter] = []
    parts = []
    for i, segment in enumerate(template.segments):
        if segment in (ANY, REST):
            parameter = _parameter(template, i, {each.name for each in parameters})
            parameters.append(parameter)
            segment = f"{{{parameter.name}}}"
        parts.append(segment)
    hierarchy = template.shape.replace(f"/{REST}", f"/{ANY}")
    fields = frozenset(variable.field_path for variable in template.variables)
    verb = f":{template.verb}" if template.verb else ""
    return ApiPath("/" + "/".join(parts) + verb, hierarchy, tuple(parameters), fields)


def _parameter(template: Template, at: int, taken: set[str]) -> ApiParameter:
    segment = template.segments[at]
    multi = segment == REST
    notes = ["Any number of segments, also none: slashes stay as they are."] if multi else []
    owner = next((each for each in template.variables if _covers(each, at)), None)
    if owner is None:
        name = _after(template, at, 0) or "segment"
        notes.insert(0, "Not read.")
        return ApiParameter(_free(name, taken), "", False, multi, " ".join(notes))
    pattern = template.segments[owner.begin : owner.end]
    if len(pattern) == 1:
        return ApiParameter(_free(owner.field_path, taken), owner.field_path, True, multi, " ".join(notes))
    name = _after(template, at, owner.begin) or owner.field_path.rpartition(".")[2]
    notes.insert(0, f"Part of `{owner.field_path}`, which is `{'/'.join(pattern)}`.")
    return ApiParameter(_free(name, taken), owner.field_path, False, multi, " ".join(notes))


def _covers(variable: Variable, at: int) -> bool:
    return variable.begin <= at and (variable.end is None or at < variable.end)


def _after(template: Template, at: int, begin: int) -> str:
    """Return a name after the literal before segment `at`, in the singular, or ""."""
    literal = template.segments[at - 1] if at > begin else ""
    if not _WORD.fullmatch(literal):
        return ""
    if literal.endswith("ies") and len(literal) > 4:
        return f"{literal[:-3]}y"
    if literal.endswith("elves"):
        return f"{literal[:-3]}f"
    if literal.endswith(("ses", "xes", "shes", "ches")) and len(literal) > 4:
        return literal[:-2]
    if literal.endswith("s") and not literal.endswith(("ss", "us", "is")) and len(literal) > 2:
        return literal[:-1]
    return literal


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
