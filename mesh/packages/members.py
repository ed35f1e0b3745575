"""Which members of a hostile archive may be written, and where.

Owns the rules: names, kinds, links, and the bounds on all of them together. An archive is refused as a whole by its
first member that breaks one; nothing is skipped or renamed. Pure. Called by `extract`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from mesh.errors import MeshError

_HOPS_MAX = 40
"""Links followed to resolve one; as many as Linux follows."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_SHOWN_CHARS_MAX = 120
_RATIO_FREE_BYTES = 16 * 1024 * 1024
"""Written before it matters how well an archive is compressed."""


class ArchiveRefused(MeshError):
    """An archive is damaged, or may not be unpacked. Nothing of it is left."""


class Kind(Enum):
    """What a member is. All else (hard links, devices, pipes, sparse files) is refused."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "symbolic link"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one archive, on what is written rather than on what its headers say."""

    bytes_max: int = 2 * 1024 * 1024 * 1024
    members_max: int = 50_000
    depth_max: int = 64
    name_bytes_max: int = 255
    path_bytes_max: int = 1024
    ratio_max: int = 200
    """Bytes written for each byte of the archive, beyond the first 16 MiB."""


class Members:
    """What one archive has had so far. Each method returns, or raises ArchiveRefused and names the member."""

    def __init__(self, archive_bytes: int, limits: Limits) -> None:
        self._limits = limits
        self._kinds: dict[tuple[str, ...], Kind] = {(): Kind.DIRECTORY}
        self._links: dict[tuple[str, ...], tuple[str, str]] = {}
        self._count = 0
        self._bytes = 0
        self._bytes_max = min(limits.bytes_max, max(_RATIO_FREE_BYTES, limits.ratio_max * archive_bytes))

    @property
    def files(self) -> int:
        """How many files there are."""
        return sum(kind is Kind.FILE for kind in self._kinds.values())

    @property
    def bytes_written(self) -> int:
        """How much was written."""
        return self._bytes

    @property
    def stream_bytes_max(self) -> int:
        """Bytes that a tar may have when it is decompressed, headers included."""
        return 2 * self._bytes_max + _RATIO_FREE_BYTES

    def add(self, name: str, kind: Kind) -> tuple[str, ...]:
        """Take the next member; return its place as path components, () for the target itself."""
        self._count += 1
        if self._count > self._limits.members_max:
            raise ArchiveRefused(f"the archive has more than {self._limits.members_max} members")
        path = self._path(name)
        for end in range(1, len(path)):
            if self._kinds.setdefault(path[:end], Kind.DIRECTORY) is not Kind.DIRECTORY:
                raise _refused(name, f"lies in {shown('/'.join(path[:end]))}, which is no directory")
        if (before := self._kinds.get(path)) is not None and not before is kind is Kind.DIRECTORY:
            raise _refused(name, "stands twice")
        self._kinds[path] = kind
        if len(self._kinds) > self._limits.members_max:
            raise ArchiveRefused(f"the archive makes more than {self._limits.members_max} files and directories")
        return path

    def write(self, name: str, count: int) -> None:
        """Count bytes that are about to be written to a file."""
        self._bytes += count
        if self._bytes > self._bytes_max:
            limit = f"{self._bytes_max // (1024 * 1024)} MiB"
            raise _refused(name, f"makes the archive grow beyond {limit} when unpacked")

    def link(self, path: tuple[str, ...], target: str) -> None:
        """Note where a symbolic link points. `resolve_links` looks at it when all are known."""
        name = "/".join(path)
        if not path:
            raise _refused(name, "is a link in the place of the target")
        if not target or len(_encoded(name, target)) > self._limits.path_bytes_max or _CONTROL.search(target):
            raise _refused(name, f"is a link to {shown(target)}, which is no usable path")
        if target.startswith("/") or "\\" in target or _DRIVE.match(target):
            raise _refused(name, f"is a link to {shown(target)}, outside the archive")
        self._links[path] = (name, target)

    def resolve_links(self) -> dict[tuple[str, ...], str]:
        """Return what each symbolic link points at. None of them leaves the target, over whichever others it leads."""
        for path, (name, target) in self._links.items():
            self._resolve(name, path, target)
        return {path: target for path, (_, target) in self._links.items()}

    def _resolve(self, name: str, path: tuple[str, ...], target: str) -> None:
        place = list(path[:-1])
        pending = target.split("/")[::-1]
        hops = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not place:
                    raise _refused(name, f"is a link to {shown(target)}, outside the archive")
                place.pop()
                continue
            place.append(part)
            if (onward := self._links.get(tuple(place))) is not None:
                hops += 1
                if hops > _HOPS_MAX:
                    raise _refused(name, f"is a link to {shown(target)}, which leads in circles")
                place.pop()
                pending += onward[1].split("/")[::-1]

    def _path(self, name: str) -> tuple[str, ...]:
        limits = self._limits
        if name.startswith("/"):
            raise _refused(name, "has an absolute path")
        if "\\" in name or _DRIVE.match(name):
            raise _refused(name, "has a path of another system")
        if _CONTROL.search(name):
            raise _refused(name, "has control characters in its name")
        if len(_encoded(name, name)) > limits.path_bytes_max:
            raise _refused(name, f"has a path of more than {limits.path_bytes_max} bytes")
        path = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in path:
            raise _refused(name, "has '..' in its path")
        if len(path) > limits.depth_max:
            raise _refused(name, f"lies more than {limits.depth_max} directories deep")
        if any(len(part.encode()) > limits.name_bytes_max for part in path):
            raise _refused(name, f"has a name of more than {limits.name_bytes_max} bytes")
        return path


def shown(text: str) -> str:
    """Return a name from an archive as errors show it: quoted, on one line and bounded."""
    quoted = ascii(text) if not text.isprintable() else repr(text)
    return quoted if len(quoted) <= _SHOWN_CHARS_MAX else quoted[: _SHOWN_CHARS_MAX - 1] + "…"


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _refused(name, "has a name that is not UTF-8") from None


def _refused(name: str, why: str) -> ArchiveRefused:
    return ArchiveRefused(
        f"member {shown(name)} {why}", hint="pack the directory anew, with plain files and directories"
    )
