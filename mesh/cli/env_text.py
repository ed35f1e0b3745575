"""`${NAME}` in a text that asks for it (`!env` in a config file).

Owns the grammar: ${NAME}, ${NAME:-default} (where NAME is unset or empty), $$ for a dollar sign, and nothing else. Sees
only the environment that it is given, and no error of it has a value. Pure. Called by `strict_yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mesh.errors import MeshError

CHARS_MAX = 1024 * 1024
"""Of all texts of one document, substituted."""
_PART = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<either>:-(?P<default>[^{}$]*))?\}|)")


class EnvTextError(MeshError):
    """A text cannot be substituted."""


def substituted(text: str, environment: Mapping[str, str]) -> str:
    """Return the text with values in place of names. Raises EnvTextError."""

    def value(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        name = found["name"]
        if name is None:
            hint = "write ${NAME} or ${NAME:-default}; $$ stands for a dollar sign"
            raise EnvTextError(f"has a '$' that begins no name: {found.string[found.start() :][:20]!r}", hint=hint)
        if found["either"] is not None:
            return environment.get(name) or str(found["default"])
        if name not in environment:
            hint = f"set it where meshctl runs, or write ${{{name[:60]}:-default}}"
            raise EnvTextError(f"needs the environment variable {name[:60]!r}, which is not set", hint=hint)
        return environment[name]

    return _PART.sub(value, text)
