"""Unpacks zip and tar archives that nobody vouches for into a fresh directory.

Owns the reading of both formats and the writing of files; which members may be written is decided by `members`. Trusts
no header: bytes are counted as they are written, and no read of metadata is larger than a bound. Files come first,
symbolic links when all files are written, so that none is ever written through. On failure the directory is removed.
Blocks: call it in a thread. Called by the worker's environments.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

from mesh.packages.members import ArchiveRefused, Kind, Limits, Members, shown

_CHUNK_BYTES = 256 * 1024
_LIST_BYTES_MAX = 8 * 1024 * 1024
"""Of a zip's list of members, which is read at once."""
_HEADER_BYTES_MAX = 1024 * 1024
"""Of an extended header of a tar, which is read at once."""
_HEADERS_BYTES_MAX = 96 * 1024 * 1024
"""Of all headers of a tar."""
_XZ_MEMORY_BYTES = 128 * 1024 * 1024
"""xz -9 needs 65 MiB."""
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    IndexError,
    KeyError,
)
"""What the readers of the standard library raise on damaged archives."""
_LINK_TARGET_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was written."""

    files: int
    bytes_written: int


class _Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def extract(
    archive: Path, target: Path, limits: Limits | None = None, *, stopped: Callable[[], bool] = lambda: False
) -> Extracted:
    """Unpack `archive` into the directory `target`, which must not exist yet.

    `stopped` is asked again and again; once it says so, unpacking ends as if refused. Raises ArchiveRefused, or OSError
    if the disk does not take it; nothing is left in either case.
    """
    writer = _Writer(target, Members(archive.stat().st_size, limits or Limits()), stopped)
    target.mkdir(mode=0o755)
    try:
        with archive.open("rb") as file:
            _unpack(file, writer)
        writer.link()
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return Extracted(writer.members.files, writer.members.bytes_written)


def _unpack(file: IO[bytes], writer: _Writer) -> None:
    start = file.read(512)
    file.seek(0)
    try:
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            _unpack_zip(file, writer)
        elif start.startswith(b"\x1f\x8b"):
            with gzip.open(file) as plain:
                _unpack_tar(cast(_Source, plain), writer)
        elif start.startswith(b"\xfd7zXZ\x00"):
            _unpack_tar(_Xz(file), writer)
        elif start.startswith(b"BZh"):
            with bz2.open(file) as plain:
                _unpack_tar(plain, writer)
        elif start[257:262] == b"ustar":
            _unpack_tar(file, writer)
        else:
            raise ArchiveRefused("it is no archive of a known kind", hint="make a .zip, .whl, .tar, .tar.gz or .tar.xz")
    except OSError as error:
        if error.errno is None:  # what gzip and bz2 say of damage
            raise _damaged(error) from error
        raise
    except _DAMAGE as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> ArchiveRefused:
    return ArchiveRefused(f"the archive is damaged: {shown(str(error) or type(error).__name__)}", hint="pack it anew")


class _Writer:
    """Writes what `members` lets pass below a directory of its own."""

    def __init__(self, target: Path, members: Members, stopped: Callable[[], bool]) -> None:
        self.members = members
        self._target = target
        self._stopped = stopped
        self._directories: set[tuple[str, ...]] = set()

    def directory(self, name: str) -> None:
        """Make a directory."""
        self._made(self.members.add(name, Kind.DIRECTORY))

    def file(self, name: str, source: _Source, *, executable: bool) -> None:
        """Write a file. It gets no bits of its mode but that its owner may execute it."""
        path = self.members.add(name, Kind.FILE)
        self._made(path[:-1])
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        place = self._target.joinpath(*path)
        with os.fdopen(os.open(place, flags, 0o755 if executable else 0o644), "wb", 0) as written:
            while data := source.read(_CHUNK_BYTES):
                self.members.write(name, len(data))
                self._check_stopped()
                written.write(data)

    def note_link(self, name: str, target: str) -> None:
        """Note a symbolic link, to be made at the end."""
        self.members.link(self.members.add(name, Kind.LINK), target)
        self._check_stopped()

    def link(self) -> None:
        """Make the symbolic links: everything else is written."""
        for path, target in self.members.resolve_links().items():
            self._made(path[:-1])
            self._target.joinpath(*path).symlink_to(target)

    def _made(self, path: tuple[str, ...]) -> None:
        self._check_stopped()
        if path not in self._directories:
            self._target.joinpath(*path).mkdir(mode=0o755, parents=True, exist_ok=True)
            self._directories.add(path)

    def _check_stopped(self) -> None:
        if self._stopped():
            raise ArchiveRefused("unpacking was stopped")


def _unpack_zip(file: IO[bytes], writer: _Writer) -> None:
    with zipfile.ZipFile(cast(IO[bytes], _Bounded(file))) as archive:
        infos = archive.infolist()
        _refuse_overlaps(infos)
        for info in infos:
            _unpack_zip_member(archive, info, writer)


def _unpack_zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, writer: _Writer) -> None:
    # zipfile cuts a name at its first NUL, and turns the system's separators around.
    name, mode = info.orig_filename, info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if info.flag_bits & 0x2041:
        raise ArchiveRefused(f"member {shown(name)} is encrypted", hint="pack it without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveRefused(
            f"member {shown(name)} is compressed by a method that is not supported", hint="use deflate"
        )
    if name.endswith("/") and kind in (0, stat.S_IFDIR):
        writer.directory(name)
    elif kind == stat.S_IFLNK and not name.endswith("/"):
        with archive.open(info) as content:
            target = content.read(_LINK_TARGET_BYTES_MAX + 1)
        writer.note_link(name, os.fsdecode(target))
    elif kind in (0, stat.S_IFREG) and not name.endswith("/"):
        with archive.open(info) as content:
            writer.file(name, content, executable=bool(mode & stat.S_IXUSR))
    else:
        raise _no_file(name)


def _refuse_overlaps(infos: list[zipfile.ZipInfo]) -> None:
    """Refuse members that share bytes: a small archive could hold any number of them."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ArchiveRefused(f"member {shown(info.orig_filename)} overlaps another one")
        end = info.header_offset + 30 + len(info.orig_filename) + info.compress_size


def _unpack_tar(source: _Source, writer: _Writer) -> None:
    stream = _Forward(source, writer.members.stream_bytes_max)
    opened = tarfile.TarFile(fileobj=cast(IO[bytes], stream), mode="r", errors="surrogateescape")
    with contextlib.closing(opened) as archive:
        for info in _infos(archive, stream):
            name = info.name
            if info.size < 0:
                raise tarfile.ReadError("a member has a size below zero")
            if info.isdir():
                writer.directory(name)
            elif info.issym():
                writer.note_link(name, info.linkname)
            elif info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) and info.sparse is None:
                content = archive.extractfile(info)
                assert content is not None
                writer.file(name, content, executable=bool(info.mode & stat.S_IXUSR))
            else:
                raise _no_file(name)
    # tarfile takes a header that is cut or garbled for the end.
    if stream.last != bytes(tarfile.BLOCKSIZE):
        raise EOFError("it ends too early")
    while stream.read(_CHUNK_BYTES):
        pass  # the checksum of what was compressed comes last


def _infos(archive: tarfile.TarFile, stream: _Forward) -> Iterator[tarfile.TarInfo]:
    while True:
        with stream.headers():
            info = archive.next()
        archive.members.clear()  # type: ignore[attr-defined]  # it would remember each, headers included
        if info is None:
            return
        yield info


def _no_file(name: str) -> ArchiveRefused:
    text = f"member {shown(name)} is neither a file nor a directory nor a symbolic link"
    return ArchiveRefused(text, hint="hard links, devices and pipes cannot be deployed")


class _Bounded:
    """A file from which no more than a bound is read at once: zipfile reads the list of members in one go."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        """It is a file."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes; all that is left for -1."""
        if size > _LIST_BYTES_MAX:
            raise ArchiveRefused("the archive's list of members is too long")
        data = self._file.read(_LIST_BYTES_MAX if size < 0 else size)
        if size < 0 and len(data) == _LIST_BYTES_MAX:
            raise ArchiveRefused("the archive's list of members is too long")
        return data


class _Forward:
    """What tarfile reads: it never goes back, and no more than a bound is read at once.

    tarfile reads an extended header as a whole, however long it says it is.
    """

    def __init__(self, source: _Source, bytes_max: int) -> None:
        self._source = source
        self._bytes_max = bytes_max
        self._position = 0
        self._headers = False
        self._header_bytes = 0
        self.last = b""
        """What was read last."""

    @contextlib.contextmanager
    def headers(self) -> Iterator[None]:
        """What is read within the block are headers; tarfile keeps much of them."""
        self._headers = True
        yield
        self._headers = False

    def tell(self) -> int:
        """Return how much was read."""
        return self._position

    def seek(self, position: int, _whence: int = 0, /) -> int:
        """Read on to `position`."""
        if position < self._position:
            raise tarfile.ReadError("a member has a size below zero")
        while self._position < position:
            if not self.read(min(_CHUNK_BYTES, position - self._position)):
                break
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Read exactly `size` bytes, fewer at the end."""
        self._header_bytes += size if self._headers else 0
        if not 0 <= size <= _HEADER_BYTES_MAX or self._header_bytes > _HEADERS_BYTES_MAX:
            raise ArchiveRefused("the archive has a header that is too long")
        parts = []
        while size:
            if not (part := self._source.read(size)):
                break
            parts.append(part)
            size -= len(part)
        self.last = b"".join(parts)
        self._position += len(self.last)
        if self._position > self._bytes_max:
            limit = f"{self._bytes_max // (1024 * 1024)} MiB"
            raise ArchiveRefused(f"the archive grows beyond {limit} when it is decompressed")
        return self.last


class _Xz:
    """Decompresses xz within a bound of memory, which `lzma.open` does not know."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes; none at the end."""
        while True:
            if self._decompressor.eof:
                return b""
            data = self._file.read(_CHUNK_BYTES) if self._decompressor.needs_input else b""
            if not data and self._decompressor.needs_input:
                raise EOFError("it ends too early")
            if plain := self._decompressor.decompress(data, size):
                return plain
