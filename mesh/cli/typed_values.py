"""Values of a document as the types that are asked for; what is of another type becomes a located fault.

Owns the messages for wrong types and unknown keys. Each fault is noted and a stand-in returned, so that all of a
file's faults are told at once. Knows no field by name. Pure. Called by `config_reader`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mesh.cli import ray_serve
from mesh.cli.strict_yaml import Document, Fault
from mesh.errors import Problem
from mesh.serving.options import Range, nearest, shown


class Values:
    """The values of one document. `faults` has what is wrong with them so far."""

    def __init__(self, document: Document) -> None:
        self.faults: list[Fault] = []
        self._document = document

    def fault(self, field: str, message: str, hint: str = "") -> None:
        """Note what is wrong with a field, at the place of its value."""
        self.noted(Problem(field, message, hint))

    def noted(self, problem: Problem) -> None:
        """Note a problem at the place of its field's value."""
        self.faults.append(Fault(self._document.place(problem.field), problem))

    def mapping(
        self, value: object, at: str, known: Sequence[str] | None, *, level: str | None = None
    ) -> dict[str, Any]:
        """Return the mapping without unknown keys. `known` None: any key. `level` is that of Ray Serve's fields."""
        if not isinstance(value, dict):
            self.fault(at, f"must be a mapping of keys to values, not {kind(value)}", "write KEY: VALUE, indented")
            return {}
        if known is None:
            return value
        for key, item in value.items():
            if key not in known:
                self._unknown(key, item, at, known, level)
        return {key: item for key, item in value.items() if key in known}

    def items(self, value: object, at: str) -> list[Any]:
        """Return the list."""
        if not isinstance(value, list):
            self.fault(at, f"must be a list, not {kind(value)}", "write each item on a line of its own, after '- '")
            return []
        return value

    def text(self, found: Mapping[str, Any], key: str, at: str, *, default: str = "", stand_in: str = "") -> str:
        """Return the text at `key`, or `default` if there is none."""
        if key not in found:
            return default
        value = found[key]
        if not isinstance(value, str):
            hint = f'put it in quotes: "{value}"' if isinstance(value, (int, float)) else "write text"
            self.fault(f"{at}.{key}", f"must be text, not {kind(value)}", hint)
            return stand_in
        return value

    def texts(self, value: object, at: str) -> tuple[str, ...]:
        """Return the list of texts."""
        items = self.items(value, at)
        for i, item in enumerate(items):
            if not isinstance(item, str):
                self.fault(f"{at}[{i}]", f"must be text, not {kind(item)}", "put it in quotes")
        return tuple(item for item in items if isinstance(item, str))

    def number(self, found: Mapping[str, Any], key: str, at: str, allowed: Range) -> Any:
        """Return the number at `key`; None if there is none, or null."""
        value = found.get(key)
        if value is not None and (wrong := allowed.problem(value)):
            self.fault(f"{at}.{key}", wrong, allowed.hint)
            return None
        return value

    def truth(self, found: Mapping[str, Any], key: str, at: str) -> bool | None:
        """Return the true or false at `key`; None if there is none, or null."""
        value = found.get(key)
        if value is None or isinstance(value, bool):
            return value
        self.fault(f"{at}.{key}", f"must be true or false, not {kind(value)}", "write true or false")
        return None

    def json_object(self, value: object, at: str) -> str:
        """Return the mapping as JSON; "" if it is empty."""
        found = self.mapping(value, at, None)
        try:
            return json.dumps(found, allow_nan=False, sort_keys=True) if found else ""
        except ValueError:
            self.fault(at, "must be JSON values, which .inf and .nan are not", "write a number, or null")
            return ""

    def _unknown(self, key: str, value: object, at: str, known: Sequence[str], level: str | None) -> None:
        path = f"{at}.{key}" if at else key
        ray_field = ray_serve.FIELDS.get(level, {}).get(key) if level is not None else None
        if ray_field is None:
            problem = Problem(path, f"unknown key {shown(key)}", nearest(key, known))
            self.faults.append(Fault(self._document.keys[path], problem))
            return
        for refused, field in ray_serve.refusals(ray_field, value, path):
            if field is None:
                inner = refused.rpartition(".")[2]
                hint = nearest(inner, ray_serve.FIELDS[ray_field.inner])
                problem = Problem(refused, f"unknown key {shown(inner)}", hint)
            else:
                problem = Problem(refused, "is a field of Ray Serve that mesh does not have", field.note)
            self.faults.append(Fault(self._document.keys[refused], problem))


def kind(value: object) -> str:
    """Return what a value of a document is, in words."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list():
            return "a list"
    return shown(value)
