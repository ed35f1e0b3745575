"""docs/reference-states.md names every state, reason and event, and no other; each reason is given somewhere."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from mesh.model import ApplicationState, DeploymentState, ReplicaState, WorkerState
from mesh.reasons import EventReason, Reason

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference-states.md").read_text()
CODE = "".join(path.read_text() for path in (ROOT / "mesh").rglob("*.py") if path.name != "reasons.py")
TABLES: dict[str, type[IntEnum]] = {
    "| of an application |": ApplicationState,
    "| of a deployment |": DeploymentState,
    "| of a replica |": ReplicaState,
    "| of a worker |": WorkerState,
    "| reason |": Reason,
    "| event |": EventReason,
}


def rows(header: str) -> list[str]:
    """Names in the table that starts with this header."""
    table = PAGE[PAGE.index(header) :].split("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \| \S", table, re.MULTILINE)


@pytest.mark.parametrize("header", TABLES)
def test_a_table_has_each_value_once(header: str) -> None:
    names = rows(header)
    assert sorted(names) == sorted(each.name for each in TABLES[header] if each.value)


@pytest.mark.parametrize("enum", [Reason, EventReason], ids=["Reason", "EventReason"])
def test_each_value_is_given_somewhere(enum: type[IntEnum]) -> None:
    given = set(re.findall(rf"\b{enum.__name__}\.([A-Z_]+)\b", CODE))
    assert {each.name for each in enum} - given == set()
