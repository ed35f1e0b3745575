"""Metadata of gRPC calls: as it comes to user code, and what user code may set.

Owns what HTTP/2 can carry, and how much of it. Pure. Called by `grpc_context`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Given = Iterable[tuple[Any, Any]] | None
"""What user code sets, which may be anything."""

METADATA_BYTES_MAX = 64 * 1024
"""Bytes of the initial, and of the trailing metadata of an answer."""
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


class Metadatum(NamedTuple):
    """One piece of metadata, as grpc gives them to user code."""

    key: str
    value: str | bytes


def received(flat: Sequence[bytes]) -> tuple[Metadatum, ...]:
    """Return a call's metadata, given as names and values in turn."""
    return tuple(
        Metadatum(_text(name), value if name.endswith(b"-bin") else _text(value))
        for name, value in zip(flat[::2], flat[1::2], strict=True)
    )


def _text(data: bytes) -> str:
    return data.decode("ascii", "replace")


def checked(metadata: Given) -> tuple[tuple[str, str | bytes], ...]:
    """Return metadata that can be sent. Raises ValueError, in user code, if it cannot be."""
    pairs = tuple((name, value) for name, value in metadata or ())
    flattened(pairs)
    return pairs


def flattened(metadata: Given) -> list[bytes]:
    """Return names and values in turn. Raises ValueError for what HTTP/2 cannot carry, and for too much."""
    flat: list[bytes] = []
    for name, value in metadata or ():
        if not (name and isinstance(name, str) and _NAME_CHARS.issuperset(name)):
            shown = repr(name)[:100]
            raise ValueError(f"metadata name {shown} may have lower-case letters, digits, '-', '_' and '.' only")
        if name.endswith("-bin"):
            if not isinstance(value, bytes):
                raise ValueError(f"metadata {name[:100]!r} ends in -bin, so its value must be bytes")
            flat += (name.encode(), value)
        else:
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            if not (isinstance(text, str) and text.isascii() and text.isprintable()):
                raise ValueError(f"the value of metadata {name[:100]!r} is not printable ASCII")
            flat += (name.encode(), text.encode("ascii"))
    if (size := sum(map(len, flat))) > METADATA_BYTES_MAX:
        raise ValueError(f"the metadata has {size} bytes; {METADATA_BYTES_MAX} are allowed")
    return flat
