"""How packages are written to their keyspace of the store: keys, values as messages, and chunks.

Owns the names of the keys ("packages/HEX", "uploads/ID", "chunks/ID/NUMBER", "usage") and the encoding. Never talks to
the store. Called by `package_store`; the values are decided on by `collection`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from mesh import wire
from mesh.controlplane.store import Item
from mesh.errors import Unreachable
from mesh.v1 import package_pb2

CHUNK_BYTES = 512 * 1024
"""Of all chunks but the last. One is one commit, well within what etcd takes in a request."""
PACKAGES = "packages/"
UPLOADS = "uploads/"
USAGE = "usage"
"""Rewritten by each upload that begins, so that of two only one can take the last room."""
_CHUNKS = "chunks/"
_ALGORITHM = "sha256:"


@dataclass(frozen=True, slots=True)
class StoredPackage:
    """A package that is there."""

    size: int = 0
    upload: str = ""
    """The upload whose chunks it is made of."""
    asked_at: float = 0.0
    """Unix time in seconds, some minutes coarse."""


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """Chunks that make up no package: not yet, not any more, or never."""

    digest: str = ""
    size: int = 0
    started_at: float = 0.0
    """Unix time in seconds."""
    abandoned: bool = False
    """Nobody writes any more."""


def package_key(digest: str) -> str:
    """Return the key of a package's record."""
    return PACKAGES + digest.removeprefix(_ALGORITHM)


def upload_key(upload: str) -> str:
    """Return the key of an upload's record."""
    return UPLOADS + upload


def chunk_keys(upload: str, size: int) -> tuple[str, ...]:
    """Return the keys of all chunks of an upload of `size` bytes, in order."""
    count = -(-size // CHUNK_BYTES)
    return tuple(f"{_CHUNKS}{upload}/{number:06d}" for number in range(count))


def digest_of(key: str) -> str:
    """Return the digest of the package whose record has this key."""
    return _ALGORITHM + key.removeprefix(PACKAGES)


def encode(record: StoredPackage | StoredUpload) -> bytes:
    """Return a record as it is stored."""
    kind = package_pb2.StoredPackage if isinstance(record, StoredPackage) else package_pb2.StoredUpload
    return wire.to_proto(record, kind).SerializeToString(deterministic=True)


def decode_package(item: Item) -> StoredPackage:
    """Return a stored package. Raises Unreachable if the value cannot be read."""
    return _decoded(item, package_pb2.StoredPackage, StoredPackage)


def decode_upload(item: Item) -> StoredUpload:
    """Return a stored upload. Raises Unreachable if the value cannot be read."""
    return _decoded(item, package_pb2.StoredUpload, StoredUpload)


_T = TypeVar("_T")


def _decoded(item: Item, message_type: Any, value_type: type[_T]) -> _T:
    try:
        return wire.from_proto(message_type.FromString(item.value), value_type)
    except DecodeError as error:
        text = f"the stored value of {item.key!r} cannot be read"
        raise Unreachable(text, hint="was it written by a newer version?") from error
