"""YAML 1.2 in, plain data with the place of each field out; and plain data back to YAML.

Owns the dialect: only the core types (`no` and `on` are text, as YAML 1.2 has it), no duplicate keys, no merge keys, no
tags but `!env` on a scalar, bounded depth and size. Knows nothing of what the fields mean. Pure. Called by
`config_file` and `output`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from mesh.cli import env_text
from mesh.errors import Problem

DEPTH_MAX = 50
VALUES_MAX = 100_000
"""Values in one document, each use of an alias counted."""
_PATH_CHARS_MAX = 16 * 1024 * 1024
"""Of the paths of all values together: aliases can make long ones many."""
ENV_TAG = "!env"
"""On a scalar: names of environment variables in it stand for their values."""

_TAG = "tag:yaml.org,2002:"
_RESOLVERS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    (_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)\Z"), "~nN"),
    (_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), "tTfF"),
    (_TAG + "int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), "-+0123456789"),
    (
        _TAG + "float",
        re.compile(r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"),
        "-+.0123456789",
    ),
)  # fmt: skip
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML's character set leaves out."""
_BREAKS = frozenset("\x85\u2028\u2029\ufeff")
"""What PyYAML writes as a line break outside double quotes, and thereby changes."""

_LOOK = "look at the indentation, the brackets and the quotes here and in the line before"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a text; both count from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem and its place."""

    place: Place
    problem: Problem


@dataclass(slots=True)
class Document:
    """A parsed text. Paths of fields look like "applications[0].name"; the whole has the path ""."""

    value: Any = None
    faults: list[Fault] = field(default_factory=list)
    values: dict[str, Place] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)

    def place(self, path: str) -> Place:
        """Return the place of a field, or of the nearest field around it that stands in the text."""
        while path and path not in self.values:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.values.get(path, Place())


def parse(text: str, environment: Mapping[str, str] | None = None) -> Document:
    """Read one document. What is wrong with it is in `faults`; then `value` holds what could be read.

    `environment` has what `!env` may name; without it the tag is refused.
    """
    document = Document()
    if (bad := _UNREADABLE.search(text)) is not None:
        before = text[: bad.start()]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        problem = Problem("", f"is not YAML: character {ord(bad.group()):#06x} may not stand here", "remove it")
        document.faults.append(Fault(place, problem))
        return document
    try:
        if (deep := _too_deep(text)) is not None:
            problem = Problem("", f"is nested more than {DEPTH_MAX} levels deep", "flatten it")
            document.faults.append(Fault(deep, problem))
            return document
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        document.faults.append(_syntax_fault(error, text))
    else:
        if root is not None:
            document.value = _Composer(document, environment).value(root, "", 0)
    return document


def dump(value: Any) -> str:
    """Return plain data as YAML that `parse` reads back unchanged, and YAML 1.1 readers as well."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1_000_000
    )
    return text


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers: Mapping[str, Any] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write repeated values out."""
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    plain = _BREAKS.isdisjoint(text) and all(not pattern.match(text) for _, pattern, _ in _RESOLVERS)
    return dumper.represent_scalar(_TAG + "str", text, style=None if plain else '"')


_Dumper.add_representer(str, _text_node)
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, [*_first, *([""] if _tag.endswith("null") else [])])


class _Composer:
    """Turns the nodes of one document into plain data and notes places and faults."""

    def __init__(self, document: Document, environment: Mapping[str, str] | None) -> None:
        self._document = document
        self._environment = environment
        self._left = VALUES_MAX
        self._path_chars_left = _PATH_CHARS_MAX
        self._env_chars_left = env_text.CHARS_MAX

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        self._document.values.setdefault(path, _place(node.start_mark))
        self._left -= 1
        self._path_chars_left -= len(path)
        if self._left < 0 or depth > DEPTH_MAX or self._path_chars_left < 0:
            # Only aliases lead here: without them `_too_deep` and the size of the text are the bound.
            if self._left >= -1:
                self._fault(node, "", "grows too large through its aliases", "use fewer aliases")
                self._left = -2
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            if node.tag != _TAG + "seq":
                self._fault(node, path, f"has the tag {_shown(node)!r}, which does not fit here", "leave the tag out")
            return [self.value(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        if node.tag != _TAG + "map":
            self._fault(node, path, f"has the tag {_shown(node)!r}, which does not fit here", "leave the tag out")
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                shown = key[:60] if isinstance(key, str) else "a list or mapping"
                self._fault(key_node, path, f"a key must be text, not {shown}", "put it in quotes")
                continue
            if key == "<<" and not key_node.style:
                hint = "write the keys out, or use an alias for the whole value"
                self._fault(key_node, path, "has a merge key (<<), which YAML 1.2 does not know", hint)
                continue
            at = f"{path}.{key}" if path else key
            if key in result:
                first = self._document.keys[at]
                self._fault(key_node, at, f"stands twice (also in line {first.line})", "remove one of the two")
                continue
            self._document.keys[at] = _place(key_node.start_mark)
            result[key] = self.value(value_node, at, depth + 1)
        return result

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        text: str = node.value
        tag: str = node.tag
        if tag == ENV_TAG and self._environment is not None:
            text = self._from_environment(node, path)
            # What stood without quotes is what it would be without the tag: a number, true, null or text.
            matching = (tag for tag, pattern, _ in _RESOLVERS if pattern.match(text))
            tag = next(matching, _TAG + "str") if not node.style else _TAG + "str"
        return self._typed(node, path, text, tag)

    def _from_environment(self, node: yaml.ScalarNode, path: str) -> str:
        assert self._environment is not None
        try:
            text = env_text.substituted(node.value, self._environment)
        except env_text.EnvTextError as error:
            self._fault(node, path, error.message, error.hint)
            return ""
        self._env_chars_left -= len(text)
        if self._env_chars_left < 0:
            self._fault(node, path, "grows too large through the environment", "substitute less")
            return ""
        if _UNREADABLE.search(text) is not None:
            self._fault(node, path, "gets a character from the environment that may not stand here", "set other text")
            return ""
        return text

    def _typed(self, node: yaml.ScalarNode, path: str, text: str, tag: str) -> Any:
        kind = tag.removeprefix(_TAG)
        if kind == "str":
            return text
        pattern = next((pattern for known, pattern, _ in _RESOLVERS if known == tag), None)
        if pattern is None or not pattern.match(text):
            self._fault(node, path, f"has the tag {_shown(node)!r}, which does not fit here", "leave the tag out")
            return None
        match kind:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return self._whole(node, path, text)
            case _:
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def _whole(self, node: yaml.ScalarNode, path: str, text: str) -> int | None:
        if len(text) > 100:
            self._fault(node, path, "has too many digits", "put it in quotes if it is text")
            return None
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)

    def _fault(self, node: yaml.Node, path: str, message: str, hint: str = "") -> None:
        self._document.faults.append(Fault(_place(node.start_mark), Problem(path, message, hint)))


def _too_deep(text: str) -> Place | None:
    """Return where the text goes too deep. Looked for first, because libyaml's composer recurses without bound."""
    depth = 0
    for event in _events(text):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                return _place(event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def _events(text: str) -> Iterator[yaml.Event]:
    return iter(yaml.parse(text, Loader=_Loader))


def _syntax_fault(error: yaml.YAMLError, text: str) -> Fault:
    if not isinstance(error, yaml.MarkedYAMLError):
        return Fault(Place(), Problem("", f"is not YAML: {error}", _LOOK))
    mark = error.problem_mark or error.context_mark
    place = _place(mark) if mark is not None else Place()
    message, hint = error.problem or "cannot be read", _LOOK
    if isinstance(error, yaml.composer.ComposerError) and "another document" in message:
        message, hint = "a second document begins here; one file holds one", "make two files of it"
    elif error.context and error.context_mark is not None and error.context_mark.line + 1 != place.line:
        message += f", {error.context} that begins in line {error.context_mark.line + 1}"
    elif message == "found character that cannot start any token":
        lines = text.splitlines()
        here = lines[place.line - 1][place.column - 1 :][:1] if place.line <= len(lines) else ""
        message = f"{'a tab' if here == chr(9) else repr(here)} may not stand here"
        hint = "indent with spaces" if here == "\t" else "put the text in quotes"
    return Fault(place, Problem("", f"is not YAML: {message}", hint))


def _shown(node: yaml.Node) -> str:
    return str(node.tag).replace(_TAG, "!!")[:60]


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)
