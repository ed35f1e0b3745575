"""Comments of .proto files: read from a file's source info, and written into it.

Owns the way from a location to the full name of what is declared there. A comment is known by that full name; that
of an enum's value by the enum's full name and the value's. Never does I/O. Called by `collect` and `schema`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto

CHARS_MAX = 4000
"""Of one comment; what is beyond is left out."""

COMMENTS_MAX = 50_000
"""Of one file; the others are left out."""

_PATH_MAX = 130
"""Numbers in a location's path: two for each message that the declaration is nested in, and a few."""

_FILE: Mapping[int, str] = {4: "message_type", 5: "enum_type", 6: "service"}
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "DescriptorProto": {2: "field", 3: "nested_type", 4: "enum_type", 8: "oneof_decl"},
    "EnumDescriptorProto": {2: "value"},
    "ServiceDescriptorProto": {2: "method"},
}
"""What may be declared in what, by field number of descriptor.proto."""


def read(file: FileDescriptorProto) -> dict[str, str]:
    """Return the comment of each thing declared in `file` that has one, by full name."""
    found: dict[str, str] = {}
    commented = (
        location
        for location in file.source_code_info.location
        if location.HasField("leading_comments") or location.HasField("trailing_comments")
    )
    for location in islice(commented, COMMENTS_MAX):
        if name := _name(file, location.path):
            parts = (_text(location.leading_comments), _text(location.trailing_comments))
            if text := "\n\n".join(filter(None, map(cleaned, parts))):
                found.setdefault(name, text[:CHARS_MAX])
    return found


def write(file: FileDescriptorProto, comments: Mapping[str, str]) -> None:
    """Make `comments`, by full name, the only source info of `file`. Those of things it lacks are left out."""
    file.ClearField("source_code_info")
    for path, name in sorted(_declared(file)):
        if text := comments.get(name):
            file.source_code_info.location.add(path=path, leading_comments=text)


def cleaned(text: str) -> str:
    """Return a comment without the blanks that its lines share and without empty lines around it."""
    lines = [line.rstrip() for line in text[: 2 * CHARS_MAX].expandtabs(4).split("\n")]
    margin = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
    return "\n".join(line[margin:] for line in lines).strip("\n")


def _text(value: object) -> str:
    """Return a string of the file, or "" if it is not UTF-8: such a string reads as bytes."""
    return value if isinstance(value, str) else ""


def _name(file: FileDescriptorProto, path: Sequence[int]) -> str:
    """Return the full name of what is declared at `path`, or "" for what has no comment of its own here."""
    if not path or len(path) % 2 or len(path) > _PATH_MAX:
        return ""
    at: Any = file
    names = [_text(file.package)] if file.package else []
    for number, i in zip(path[::2], path[1::2], strict=True):
        kinds = _FILE if at is file else _INSIDE.get(at.DESCRIPTOR.name, {})
        if (kind := kinds.get(number)) is None or not 0 <= i < len(getattr(at, kind)):
            return ""
        at = getattr(at, kind)[i]
        names.append(_text(at.name))
    return ".".join(names)


def _declared(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield path and full name of everything that `file` declares."""
    pending: list[tuple[Any, tuple[int, ...], str]] = [(file, (), file.package)]
    while pending:
        at, path, scope = pending.pop()
        for number, kind in (_FILE if at is file else _INSIDE.get(at.DESCRIPTOR.name, {})).items():
            for i, inner in enumerate(getattr(at, kind)):
                name = f"{scope}.{inner.name}" if scope else inner.name
                yield (*path, number, i), name
                pending.append((inner, (*path, number, i), name))
