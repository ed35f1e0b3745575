"""Which packages may go, and how much room there is.

Owns the rules: what is named anywhere in the goal state or its history stays, and so does what was asked for lately,
for whoever uploads needs time to deploy. Pure. Called by `package_store` and `collector`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from mesh.controlplane.package_records import StoredPackage, StoredUpload

KEEP_S = 3600.0
"""Seconds for which a package stays that nothing names, from when it was last asked for."""
UPLOAD_S_MAX = 600.0
"""Seconds that an upload may take."""
ABANDONED_S = 2 * UPLOAD_S_MAX
"""Seconds after which the chunks of an upload that did not end are garbage: whoever wrote them is gone."""
COUNTED_BYTES_MIN = 64 * 1024
"""What each package counts at least, so that there cannot be very many."""
_NAMED = re.compile(rb"package:(sha256:[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Garbage:
    """What may go: digests of packages, and ids of uploads."""

    packages: tuple[str, ...] = ()
    uploads: tuple[str, ...] = ()


def unasked(packages: Mapping[str, StoredPackage], now: float) -> tuple[str, ...]:
    """Return the digests that were not asked for lately, longest ago first. `now` is Unix time."""
    old = [digest for digest, package in packages.items() if now - package.asked_at >= KEEP_S]
    return tuple(sorted(old, key=lambda digest: packages[digest].asked_at))


def named_in(values: Iterable[bytes]) -> set[str]:
    """Return the digests of packages that stored values name.

    Text is text in any message: so also records that this version does not know keep what they name.
    """
    return {match[1].decode() for value in values for match in _NAMED.finditer(value)}


def garbage(
    packages: Mapping[str, StoredPackage],
    uploads: Mapping[str, StoredUpload],
    named: Collection[str],
    now: float,
) -> Garbage:
    """Return what may go. `named` are the digests in use, `now` is Unix time."""
    return Garbage(
        tuple(digest for digest in unasked(packages, now) if digest not in named),
        tuple(sorted(key for key, u in uploads.items() if u.abandoned or now - u.started_at >= ABANDONED_S)),
    )


def used_bytes(packages: Mapping[str, StoredPackage], uploads: Mapping[str, StoredUpload]) -> int:
    """Return the bytes that count against the quota: of packages, and of uploads from their beginning on."""
    sizes = [*(package.size for package in packages.values()), *(upload.size for upload in uploads.values())]
    return sum(map(counted_bytes, sizes))


def counted_bytes(size: int) -> int:
    """Return what a package of `size` bytes counts."""
    return max(size, COUNTED_BYTES_MIN)
