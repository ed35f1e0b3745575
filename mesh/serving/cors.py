"""The rules of `http_options.cors`: which origins and headers may be named, and what holds where nothing is said.

Owns the rules once, for the config file and the control plane; gateways act on them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from mesh.errors import Problem
from mesh.model import Cors
from mesh.serving.options import Range, shown

NAMES_MAX = 100
"""Origins, and headers."""
MAX_AGE_S = Range(0, 86_400)
DEFAULT_MAX_AGE_S = 600
_CHARACTERS_MAX = 300
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DEFAULT_PORTS = {("http", "80"), ("https", "443")}
_HINT = "write '*', or an origin as browsers send it, such as 'https://app.example.com'"


def cors_problems(cors: Cors, *, at: str) -> Iterator[Problem]:
    """Yield what is wrong with the option; `at` is its path in the config."""
    for name, values in (("allow_origins", cors.allow_origins), ("allow_headers", cors.allow_headers)):
        if len(values) > NAMES_MAX:
            yield Problem(f"{at}.{name}", f"has {len(values)} items; {NAMES_MAX} are allowed", "name fewer")
            return
    for i, origin in enumerate(cors.allow_origins):
        if wrong := _origin_problem(origin):
            yield Problem(f"{at}.allow_origins[{i}]", wrong, _HINT)
    for i, header in enumerate(cors.allow_headers):
        if len(header) > _CHARACTERS_MAX or not _HEADER.fullmatch(header):
            yield Problem(
                f"{at}.allow_headers[{i}]", f"must be the name of a header, not {shown(header)}", "such as 'X-Api-Key'"
            )
    if cors.max_age_s is not None and (wrong := MAX_AGE_S.problem(cors.max_age_s)):
        yield Problem(f"{at}.max_age_s", wrong, MAX_AGE_S.hint)
    if cors.allow_credentials and "*" in cors.allow_origins:
        text = "cannot be had with the origin '*': any page could act in a user's name"
        yield Problem(f"{at}.allow_credentials", text, "name the origins, or leave allow_credentials out")


def resolved(cors: Cors) -> Cors | None:
    """Return the option with every field set; None if it allows nobody."""
    if not cors.allow_origins:
        return None
    max_age_s = DEFAULT_MAX_AGE_S if cors.max_age_s is None else cors.max_age_s
    return replace(cors, max_age_s=max_age_s, allow_credentials=bool(cors.allow_credentials))


def _origin_problem(origin: str) -> str:
    if origin == "*":
        return ""
    found = _ORIGIN.fullmatch(origin) if len(origin) <= _CHARACTERS_MAX else None
    if found is None or int(found["port"] or 0) > 65_535:
        return f"must be '*' or scheme://host[:port] in lower case, not {shown(origin)}"
    if (found["scheme"], found["port"]) in _DEFAULT_PORTS:
        return f"must be without the port that {found['scheme']} has anyway, as browsers send it, not {shown(origin)}"
    return ""
