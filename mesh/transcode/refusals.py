"""The errors of reading and writing JSON for protobuf messages.

Flaw             one value is wrong; raised deep inside a message, every level above adds its name; never leaves here
MeshError
├── BadJson          a JSON text is not the proto3 JSON form of the message; names the field
├── CannotRender     a message has no JSON form (an Any of unknown type, a Timestamp out of range)
├── RequestRefused   a request cannot become a message; carries the HTTP status and the field
└── BindingError     an HTTP rule does not fit the messages of its method

Owns the tree and how a client's text is quoted. Texts name fields and reasons; of a client's input they carry at
most a short, ASCII-only excerpt, so that they can go into any answer or log line. Called by its siblings.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.errors import MeshError

EXCERPT_CHARACTERS = 40


def quoted(text: str) -> str:
    """Return a short, ASCII-only, one-line form of a client's text, in double quotes."""
    excerpt = text if len(text) <= EXCERPT_CHARACTERS else text[:EXCERPT_CHARACTERS] + "..."
    return '"' + ascii(excerpt)[1:-1] + '"'


def step(name: str) -> str:
    """Return how a field is named in a path: plainly, unless a client could have made the name up."""
    return name if len(name) <= EXCERPT_CHARACTERS and name.isascii() and name.isidentifier() else f"[{quoted(name)}]"


def field_path(steps: Iterable[str]) -> str:
    """Join the steps of a path, outermost first: shelf.books[3].title."""
    path = ""
    for each in steps:
        path += each if each.startswith("[") or not path else "." + each
    return path


class Flaw(Exception):
    """One value is wrong. `reason` says why; `path` holds the names above it, innermost first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def inside(self, name: str) -> None:
        """Add the name of the field, "[3]" or '["key"]' that holds what is wrong."""
        self.path.append(name)

    @property
    def field(self) -> str:
        """The path as a client reads it."""
        return field_path(reversed(self.path))


class _AtField(MeshError):
    """An error about one field; `field` is its path, empty for the whole."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class BadJson(_AtField):
    """A JSON text is not the proto3 JSON form of the message."""


class CannotRender(_AtField):
    """A message has no JSON form. The application that made it is at fault, not the client."""


class RequestRefused(_AtField):
    """A request cannot become a message. `status` is the HTTP status to answer with."""

    def __init__(self, status: int, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.status = status


class BindingError(MeshError):
    """An HTTP rule does not fit the messages of its method."""
