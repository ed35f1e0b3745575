"""Requirements of a runtime environment: which may be installed at all, and how exact ones are written.

Owns the rule: PEP 508, from an index or an https URL; nothing that reads files of the worker, and no options. Pure.
Called by the config file, the control plane's validation and the worker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mesh.errors import Problem

if TYPE_CHECKING:
    from packaging.requirements import Requirement

REQUIREMENTS_MAX = 1000
_CHARACTERS_MAX = 500
_HTTPS = re.compile(r"https://[^/@\s?#]+/[^@\s?]*\Z")
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*(?:==|@)")


def requirement_problems(requirements: Sequence[str], *, at: str) -> Iterator[Problem]:
    """Yield what is wrong with requirements; `at` is the path of their list in the config."""
    if len(requirements) > REQUIREMENTS_MAX:
        text = f"has {len(requirements)} items; {REQUIREMENTS_MAX} are allowed"
        yield Problem(at, text, "list what is needed only; what that needs comes along")
        return
    for i, text in enumerate(requirements):
        if (wrong := _problem(text)) is not None:
            yield Problem(f"{at}[{i}]", *wrong)


def _problem(text: str) -> tuple[str, str] | None:
    if len(text) > _CHARACTERS_MAX:
        return f"has {len(text)} characters; {_CHARACTERS_MAX} are allowed", "write a name and versions"
    if "\n" in text or "\r" in text:
        return "has more than one line", "write one requirement for each item"
    if text.lstrip().startswith("-"):
        return "is an option, which no requirement is", "set indexes and the like where the workers are started"
    try:
        requirement = _parsed(text)
    except ValueError:
        # What the parser says may repeat a URL with credentials.
        return "is no requirement", "write a name and versions, such as numpy>=2"
    if requirement.url is not None and not _HTTPS.match(requirement.url):
        return "may come from an index or an https: URL without credentials only", "write NAME @ https://…"
    return None


def constrained(own: Sequence[str]) -> tuple[str, ...]:
    """Return the requirements of an installed distribution as constraints, those of its extras left out."""
    found = []
    for text in own:
        requirement = _parsed(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirement.marker = None
            found.append(str(requirement))
    return tuple(sorted(found))


def pins(lock: str) -> tuple[str, ...]:
    """Return the exact requirements in a lock file, without their digests."""
    lines = (line for line in lock.splitlines() if _PINNED.match(line))
    return tuple(line.partition(" --hash")[0].rstrip("\\").strip() for line in lines)


def names(requirements: Sequence[str]) -> frozenset[str]:
    """Return the normalized names of requirements."""
    from packaging.utils import canonicalize_name

    return frozenset(canonicalize_name(_parsed(text).name) for text in requirements)


def url_of(requirement: str) -> str:
    """Return the URL that a requirement comes from; "": from an index."""
    return _parsed(requirement).url or ""


def _parsed(text: str) -> Requirement:
    """Return a requirement. Raises ValueError."""
    from packaging.requirements import Requirement  # not at the start of every command

    return Requirement(text)
