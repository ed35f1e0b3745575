"""What every store refuses before it does anything, so that all stores refuse the same.

Owns the rules only: no I/O. Called by `sqlite_store` and `etcd_store`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.controlplane.store import COMMIT_BYTES_MAX, OPERATIONS_MAX, VALUE_BYTES_MAX, Compare, Put, Remove

KEY_BYTES_MAX = 4096
"""Bytes in one key, encoded as UTF-8."""


def check_commit(compares: Sequence[Compare], operations: Sequence[Put | Remove]) -> None:
    """Raise ValueError if the commit is larger than a store takes, or names a key twice or not at all."""
    if len(compares) > OPERATIONS_MAX or len(operations) > OPERATIONS_MAX:
        raise ValueError(f"a commit has at most {OPERATIONS_MAX} compares and {OPERATIONS_MAX} operations")
    keys = {operation.key for operation in operations}
    if len(keys) != len(operations):
        raise ValueError("a key stands twice in the operations of one commit")
    total = 0
    for compare in compares:
        total += _key_bytes(compare.key)
    for operation in operations:
        total += _key_bytes(operation.key)
        if isinstance(operation, Put):
            if len(operation.value) > VALUE_BYTES_MAX:
                raise ValueError(f"the value of {operation.key!r} has more than {VALUE_BYTES_MAX} bytes")
            total += len(operation.value)
    if total > COMMIT_BYTES_MAX:
        raise ValueError(f"the keys and values of one commit have more than {COMMIT_BYTES_MAX} bytes")


def prefix_end(prefix: bytes) -> bytes | None:
    """Return the first key after all keys that start with `prefix`; None if there is none."""
    stem = prefix.rstrip(b"\xff")
    if not stem:
        return None
    return stem[:-1] + bytes((stem[-1] + 1,))


def _key_bytes(key: str) -> int:
    size = len(key.encode())
    if not 0 < size <= KEY_BYTES_MAX:
        raise ValueError(f"a key has 1 to {KEY_BYTES_MAX} bytes, not {size}")
    return size
