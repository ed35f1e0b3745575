"""Why goals were not reached: text from benchmarks/not_met.md, with the figures of the results at hand. Pure.

A section of that file has the paths of goals in its head, and is told only if one of them is not met. Where a path
has `*` for a name, the section is told for each name whose goal is not met. In its text `{PATH}` is the figure at that
path, in place of which `{PATH + PATH : UNIT}` may stand: figures and numbers with + - * / between them, from left to
right, and a unit. `{=PATH}` is the text at it. `*` is the name that is spoken of. No figure is written by hand: it
would be of other results.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from benchmarks.page.tables import prose
from benchmarks.page.values import NONE, Results, look, number, shown

_OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the goals at these paths may not be met."""

    goals: tuple[str, ...]
    text: str

    def told(self, results: Results, missed: Collection[str]) -> list[str]:
        """Return the text, filled in, for each name, if one of its goals is among the missed."""
        names = {found.group("name") for goal in self.goals for path in missed if (found := _named(goal, path))}
        return [_filled(results, _starred(self.text, name)) for name in sorted(names, key=_order(missed))]

    def speaks_of(self, path: str) -> bool:
        """Tell whether it is about the goal at a path."""
        return any(_named(goal, path) for goal in self.goals)


def read(text: str) -> list[Reason]:
    """Return the reasons of a file; what is before the first head is for those who write it."""
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        head, _, body = section.partition("\n")
        found.append(Reason(tuple(head.split()), " ".join(body.split())))
    return found


def reasons(results: Results, text: str, missed: Sequence[tuple[str, str]]) -> str:
    """Return why the goals that are missed, by path and name, were not met, and for which of them nobody knows."""
    found, paths = read(text), [path for path, _ in missed]
    told = [each for reason in found for each in reason.told(results, paths)]
    unknown = [what for path, what in missed if not any(reason.speaks_of(path) for reason in found)]
    lines = [prose(f"- {each}").rstrip().replace("\n", "\n  ") for each in told]
    if unknown:
        lines.append(prose(f"- Without a reason noted: {'; '.join(unknown)}.").rstrip().replace("\n", "\n  "))
    return "Why not:\n" + "\n".join(lines) + "\n" if lines else ""


def _named(goal: str, path: str) -> re.Match[str] | None:
    """Match a goal's path against one in a head; the group `name` is what its `*` stands for, or nothing."""
    pattern = re.escape(goal).replace(r"\*", "(?P<name>[^/]+)", 1)
    return re.fullmatch(pattern if "?P<name>" in pattern else f"{pattern}(?P<name>)", path)


def _starred(text: str, name: str) -> str:
    """Put the name in the place of each `*` within a path."""
    return re.sub(r"(?<=/)\*(?=/)", name, text)


def _order(missed: Collection[str]) -> Callable[[str], int]:
    paths = list(missed)
    return lambda name: next((i for i, path in enumerate(paths) if name in path.split("/")), -1)


def _filled(results: Results, text: str) -> str:
    return re.sub(r"\{([^}]*)\}", lambda found: figure(results, found.group(1)), text)


def figure(results: Results, field: str) -> str:
    """Return what stands in the place of a field; "–" if one of its figures is not there."""
    if field.startswith("="):
        found = look(results, field[1:].strip())
        return str(found) if isinstance(found, str) else NONE
    terms, _, unit = field.partition(" : ")
    first, *rest = terms.split()
    value = _value(results, first)
    for sign, operand in zip(rest[::2], rest[1::2], strict=True):
        other = _value(results, operand)
        if value is None or other is None or (sign == "/" and not other):
            return NONE
        value = _OPERATORS[sign](value, other)
    return shown(value, unit.strip())


def _value(results: Results, term: str) -> float | None:
    return float(term) if re.fullmatch(r"[0-9.]+", term) else number(results, term)
