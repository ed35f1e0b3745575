"""Makes packages: one zip archive out of a local directory, the same bytes for the same content.

Owns the form of the archive: entries sorted by name, one fixed time, modes 644 and 755, no links. A directory is packed
as its contents. As an item of py_modules one that is a Python package itself (it has an __init__.py) keeps its name as
the top of the archive, so that it can be imported by it. A wheel or zip file is packed as it is. Never uploads.
Called by `deploy` and `diff`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mesh.packages.tree import BYTES_MAX, Entry, PackError, entries, heaviest, megabytes

PACKAGE_BYTES_MAX = 64 * 1024 * 1024
"""Of one package, compressed."""
FILE_SUFFIXES = (".whl", ".zip")
"""Of files that are packages already."""
_CHUNK_BYTES = 1024 * 1024
_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest that the format knows."""
_UNIX = 3
_DIRECTORY_FLAG = 0x10


@dataclass(frozen=True, slots=True)
class Packed:
    """A package. `file` is at its start, has no name in any directory, and is gone when it is closed."""

    digest: str
    """"sha256:" and 64 hex digits."""
    size: int
    """Bytes."""
    file: IO[bytes]

    def close(self) -> None:
        """Free the disk space."""
        self.file.close()


def pack(source: Path, *, module: bool = False, without: Path | None = None) -> Packed:
    """Make a package of a directory, or of a file that is one already. Blocks.

    `module`: it is an item of py_modules. `without` names a file that is left out: the config file, for a new number of
    replicas in it is not new code. Raises PackError.
    """
    if source.is_dir():
        found = entries(source, without=without)
        if not found:
            text = f"{source} has nothing to pack: it is empty, or all of it is left out"
            raise PackError(text, hint="name the directory of the code; see its .gitignore and .meshignore")
        named = module and (source / "__init__.py").is_file()
        prefix = os.path.basename(os.path.abspath(source)) + "/" if named else ""
        return _finished(lambda file: _zip(source, found, prefix, file))
    if not source.exists():
        raise PackError(
            f"{source} does not exist", hint="check the path; relative ones start in the directory of the file"
        )
    if source.suffix.lower() not in FILE_SUFFIXES or not source.is_file():
        text = f"{source} is neither a directory nor a wheel nor a zip file"
        raise PackError(text, hint="name the directory that has the code")
    return _finished(lambda file: _copy(source, file))


def _finished(write: Callable[[IO[bytes]], None]) -> Packed:
    try:
        file = tempfile.TemporaryFile(prefix="mesh-package-")  # noqa: SIM115 - it is what is returned
        try:
            write(file)
            size = file.tell()
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        text = f"no package can be made in {tempfile.gettempdir()}: {error.strerror or error}"
        raise PackError(text, hint="make room there, or name another directory by TMPDIR") from error
    return Packed(f"sha256:{digest}", size, file)


def _zip(top: Path, found: Sequence[Entry], prefix: str, file: IO[bytes]) -> None:
    left = BYTES_MAX
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for entry in found:
            info = zipfile.ZipInfo(prefix + entry.name, _TIME)
            info.create_system = _UNIX
            if entry.name.endswith("/"):
                info.external_attr = ((stat.S_IFDIR | 0o755) << 16) | _DIRECTORY_FLAG
                archive.writestr(info, b"")
                continue
            info.external_attr = (stat.S_IFREG | (0o755 if entry.executable else 0o644)) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            left -= _add(archive, info, entry, left)
            if file.tell() > PACKAGE_BYTES_MAX:
                raise _too_large(f"the package of {top}", heaviest(found))


def _add(archive: zipfile.ZipFile, info: zipfile.ZipInfo, entry: Entry, left: int) -> int:
    """Add one file as it is now. Returns its bytes. Raises PackError if it changes meanwhile: half of it may be old."""
    with _opened(entry.source, entry.name) as source:
        before = os.fstat(source.fileno())
        if not stat.S_ISREG(before.st_mode) or before.st_size > left:
            raise _changed(entry.name)
        info.file_size = before.st_size
        size = 0
        with archive.open(info, "w") as target:
            while chunk := _read(source, entry.name):
                size += len(chunk)
                if size > before.st_size:
                    break
                target.write(chunk)
        after = os.fstat(source.fileno())
        if (size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != before.st_size:
            raise _changed(entry.name)
    return size


def _copy(source: Path, file: IO[bytes]) -> None:
    size = 0
    with _opened(str(source), str(source)) as opened:
        while chunk := _read(opened, str(source)):
            size += len(chunk)
            if size > PACKAGE_BYTES_MAX:
                raise _too_large(str(source), f"it has {megabytes(os.fstat(opened.fileno()).st_size)}")
            file.write(chunk)
    if not zipfile.is_zipfile(file):
        raise PackError(f"{source} is no wheel or zip archive, though its name says so", hint="build it again")
    file.seek(size)


def _opened(source: str, name: str) -> IO[bytes]:
    # What was a plain file may have become a pipe or a link meanwhile.
    try:
        return open(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)
    except FileNotFoundError:
        raise _changed(name) from None
    except OSError as error:
        hint = f"make it readable, or name it in .meshignore: /{name}"
        raise PackError(f"{name} cannot be read: {error.strerror or error}", hint=hint) from error


def _read(source: IO[bytes], name: str) -> bytes:
    try:
        return source.read(_CHUNK_BYTES)
    except OSError as error:
        raise PackError(f"{name} cannot be read: {error.strerror or error}", hint="check the disk it is on") from error


def _changed(name: str) -> PackError:
    hint = f"deploy again when nothing writes to it, or name it in .meshignore: /{name}"
    return PackError(f"{name} changed while it was packed", hint=hint)


def _too_large(what: str, most: str) -> PackError:
    return PackError(
        f"{what} is too large: {megabytes(PACKAGE_BYTES_MAX)} are allowed; {most}",
        hint="name what the code does not need in .meshignore, in the form of .gitignore; fetch large data elsewhere",
    )
