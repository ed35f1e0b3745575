"""What a deploy of one Config in place of another would change: as fields with old and new values, and as text.

Owns the comparison. Deployments are told apart by name, as a deploy does. Pure. Called by `diff`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mesh.cli import strict_yaml
from mesh.cli.config_data import application_data, options_data
from mesh.cli.config_values import Config

_RED, _GREEN, _CYAN, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field that differs. What is not set is None."""

    application: str
    """Empty: an option of the whole."""
    field: str
    """Path in the application, such as "deployments[Slow].num_replicas"; empty: the application comes or goes."""
    old: Any
    new: Any


def changes(old: Config, new: Config) -> tuple[FieldChange, ...]:
    """Return each field that differs: options of the whole, applications of the new one, then those that go.

    Both have the types that the goal state has: what came from a file has been a message meanwhile.
    """
    return tuple(_changes(old, new))


def unified(old: Config, new: Config, *, file: str, colour: bool = False) -> str:
    """Return the changes as a unified diff, one part for each application that differs; "" if none does."""
    before, after = _parts(old), _parts(new)
    lines: list[str] = []
    for name in dict.fromkeys((*after, *before)):
        was, becomes = before.get(name), after.get(name)
        if _text(was) != _text(becomes):
            title = f"application {name}" if name else "options"
            lines += _diff(was, becomes, f"goal state: {title}", f"{file}: {title}")
    return "".join(f"{_coloured(line) if colour else line}\n" for line in lines)


def as_data(found: tuple[FieldChange, ...]) -> dict[str, Any]:
    """Return changes as plain data."""
    return {
        "changes": [
            {"application": each.application, "field": each.field, "old": each.old, "new": each.new} for each in found
        ]
    }


def _changes(old: Config, new: Config) -> Iterator[FieldChange]:
    before, after = _parts(old), _parts(new)
    for name in dict.fromkeys((*after, *before)):
        was, becomes = before.get(name), after.get(name)
        if was is None or becomes is None:
            # Options of the whole are never absent: they are an empty mapping.
            yield FieldChange(name, "", was, becomes)
        else:
            yield from _fields(name, "", was, becomes)


def _parts(config: Config) -> dict[str, dict[str, Any]]:
    """The applications by name, and under "" what stands beside them."""
    return {"": options_data(config)} | {each.name: application_data(each) for each in config.applications}


def _fields(name: str, at: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[FieldChange]:
    for key in dict.fromkeys((*new, *old)):
        was, becomes = old.get(key), new.get(key)
        field = f"{at}.{key}" if at else key
        if not at and key == "deployments":
            yield from _deployments(name, was or [], becomes or [])
        elif _text(was) != _text(becomes):
            if isinstance(was, Mapping) and isinstance(becomes, Mapping):
                yield from _fields(name, field, was, becomes)
            else:
                yield FieldChange(name, field, was, becomes)


def _deployments(name: str, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterator[FieldChange]:
    before, after = ({each["name"]: each for each in items} for items in (old, new))
    for deployment in dict.fromkeys((*after, *before)):
        was, becomes = before.get(deployment), after.get(deployment)
        if was is None or becomes is None:
            yield FieldChange(name, f"deployments[{deployment}]", was, becomes)
        else:
            yield from _fields(name, f"deployments[{deployment}]", was, becomes)
    kept, still = ([each for each in names if each in before and each in after] for names in (before, after))
    if kept != still:
        yield FieldChange(name, "deployments", list(before), list(after))


def _text(value: object) -> str:
    """Return a value as a text that is the same for the same value only: 1, 1.0 and true are three."""
    return json.dumps(value, sort_keys=True)


def _diff(was: object, becomes: object, old_title: str, new_title: str) -> list[str]:
    old_lines, new_lines = (strict_yaml.dump(part).splitlines() if part else [] for part in (was, becomes))
    return list(difflib.unified_diff(old_lines, new_lines, old_title, new_title, lineterm="", n=3))


def _coloured(line: str) -> str:
    colour = {"-": _RED, "+": _GREEN, "@": _CYAN}.get(line[:1])
    return f"{colour}{line}{_PLAIN}" if colour else line
