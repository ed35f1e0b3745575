"""The cases of routing.yaml, whoever runs them: the matcher alone, or a gateway that serves the routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).with_name("routing.yaml")


@dataclass(frozen=True)
class Expected:
    """What a request gives: a route and all that the path gives to its fields, or a status with its Allow."""

    status: int
    route: str = ""
    captures: tuple[tuple[str, str], ...] = ()
    allow: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Routes that are served together: label -> method and template."""

    name: str
    routes: Mapping[str, tuple[str, str]]
    at_root: bool
    raw: bool


@dataclass(frozen=True)
class Case:
    """One request to the routes of a group."""

    group: Group
    http_method: str
    raw_path: bytes
    expected: Expected

    def __str__(self) -> str:
        return f"{self.group.name}: {self.http_method} {ascii(self.raw_path)[2:-1]}"


@dataclass(frozen=True)
class Refused:
    """Routes that cannot be deployed: the column of the template's fault, or 0 for duplicates."""

    routes: tuple[tuple[str, str], ...]
    column: int

    def __str__(self) -> str:
        return " and ".join(" ".join(route) for route in self.routes)


def cases() -> list[Case]:
    """Return all requests."""
    found = []
    for entry in _table()["groups"]:
        routes = {label: _two(text) for label, text in entry["routes"].items()}
        group = Group(entry["name"], routes, entry.get("at_root", False), entry.get("raw", False))
        for request, expected in entry["cases"]:
            method, path = _two(request)
            found.append(Case(group, method, path.encode("latin-1"), _expected(expected)))
    return found


def refused() -> list[Refused]:
    """Return all that cannot be deployed."""
    return [
        Refused(tuple(map(_two, entry["routes"])), 0 if "duplicate" in entry else entry["template"])
        for entry in _table()["refused"]
    ]


def _table() -> Any:
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def _two(text: str) -> tuple[str, str]:
    method, rest = text.split(" ", 1)
    return method, rest


def _expected(entry: Any) -> Expected:
    if isinstance(entry, int):
        return Expected(entry)
    if "allow" in entry:
        return Expected(405, allow=tuple(entry["allow"]))
    return Expected(200, entry["to"], tuple(entry.get("with", {}).items()))
