"""Which files of a directory make up a package: a walk that follows ignore rules and never leaves the directory.

Owns what is refused (devices, links out of the directory, names that no archive can hold) and the bounds of a package.
Never reads what is in files other than ignore files. Called by `pack`.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mesh.errors import MeshError
from mesh.packages.ignored import IGNORE_FILES, Ignored

FILES_MAX = 20_000
"""Files and empty directories in one package."""
BYTES_MAX = 512 * 1024 * 1024
"""Of all files together, before they are compressed."""
PATH_BYTES_MAX = 1024
DEPTH_MAX = 64
_COUNTED_MAX = 10 * FILES_MAX
"""Beyond FILES_MAX files are only counted, up to here, to say where they are."""
_IGNORE_FILE_BYTES_MAX = 1024 * 1024
_ENVIRONMENT_MARK = "pyvenv.cfg"
"""What makes a directory a virtual environment."""


class PackError(MeshError):
    """A directory or file cannot be made into a package."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a package, or a directory without any."""

    name: str
    """Its path in the package; that of a directory ends in "/"."""
    source: str
    """Where it really is."""
    size: int
    executable: bool = False


@dataclass(slots=True)
class _Count:
    """What was found so far, and where most of it is."""

    files: int = 0
    size: int = 0
    files_in: Counter[str] = field(default_factory=Counter)
    size_in: Counter[str] = field(default_factory=Counter)
    largest: Entry | None = None

    def add(self, entry: Entry) -> None:
        top, slash, _ = entry.name.partition("/")
        self.files += 1
        self.size += entry.size
        self.files_in[top + slash] += 1
        self.size_in[top + slash] += entry.size
        if self.largest is None or entry.size > self.largest.size:
            self.largest = entry


@dataclass(frozen=True, slots=True)
class _Directory:
    path: str
    """Where it really is."""
    name: str
    """"" at the top, else a path that ends in "/"."""
    rules: Ignored
    inside: frozenset[tuple[int, int]]
    """It and all directories above it, by device and inode: a link to one of them would never end."""


def entries(top: Path, *, without: Path | None = None) -> list[Entry]:
    """Return what of the directory `top` makes up its package, sorted by name. Raises PackError.

    `without` names a file that is left out, wherever it is.
    """
    root = os.path.realpath(top)
    left_out = os.path.realpath(without) if without is not None else ""
    count, found = _Count(), []
    for entry in _walk(root):
        if entry.source == left_out:
            continue
        count.add(entry)
        if count.files <= FILES_MAX:
            found.append(entry)
        if count.files >= _COUNTED_MAX:
            break
    if count.files > FILES_MAX:
        where, most = count.files_in.most_common(1)[0]
        number = f"{count.files:,}" if count.files < _COUNTED_MAX else f"more than {_COUNTED_MAX:,}"
        text = f"{top} has {number} files; {FILES_MAX:,} are allowed; {most:,} of them are in {where}"
        raise PackError(text, hint=_leave_out(top))
    if count.size > BYTES_MAX:
        raise PackError(
            f"{top} has {megabytes(count.size)}; {megabytes(BYTES_MAX)} are allowed; {_most(count)}",
            hint=_leave_out(top),
        )
    return sorted(found, key=lambda entry: entry.name)


def heaviest(found: Iterable[Entry]) -> str:
    """Return, for people, where most of the bytes are."""
    count = _Count()
    for entry in found:
        count.add(entry)
    return _most(count)


def megabytes(size: int) -> str:
    """Return a number of bytes for people."""
    return f"{size / (1024 * 1024):.1f} MiB" if size >= 100 * 1024 else f"{size / 1024:.1f} KiB"


def _most(count: _Count) -> str:
    where, most = count.size_in.most_common(1)[0]
    largest = count.largest
    if largest is None or largest.name == where:
        return f"the largest file is {where} ({megabytes(most)})"
    return f"most is in {where} ({megabytes(most)}); the largest file is {largest.name} ({megabytes(largest.size)})"


def _leave_out(top: Path) -> str:
    return (
        f"name what the code does not need in {top}/.meshignore, in the form of .gitignore; fetch large data elsewhere"
    )


def _walk(root: str) -> Iterator[Entry]:
    pending = [_Directory(root, "", Ignored.at_top(), frozenset({_identity(os.stat(root))}))]
    while pending:
        directory = pending.pop()
        names = _listed(directory)
        here = _with_own_rules(directory, names)
        empty = True
        for name in names:
            path = here.name + name
            if (entry := _entry(root, here, name, path)) is None:
                continue
            empty = False
            if isinstance(entry, Entry):
                yield entry
            else:
                pending.append(entry)
        if empty and here.name:
            yield Entry(here.name, here.path, 0)


def _listed(directory: _Directory) -> list[str]:
    try:
        return sorted(os.listdir(directory.path))
    except OSError as error:
        raise _unreadable(directory.name or directory.path, error) from error


def _entry(root: str, directory: _Directory, name: str, path: str) -> Entry | _Directory | None:
    """Return a file, or a directory to be entered; None for what is left out."""
    source = os.path.join(directory.path, name)
    try:
        found = os.lstat(source)
        if stat.S_ISLNK(found.st_mode):
            # In git a link is no directory, and rules that name it with a slash do not match it.
            if directory.rules.leaves_out(path, directory=False):
                return None
            source, found = _followed(root, source, path)
        if stat.S_ISDIR(found.st_mode):
            if directory.rules.leaves_out(path, directory=True) or os.path.exists(
                os.path.join(source, _ENVIRONMENT_MARK)
            ):
                return None
            return _entered(directory, source, path + "/", found)
    except OSError as error:
        raise _unreadable(path, error) from error
    if directory.rules.leaves_out(path, directory=False):
        return None
    _check_name(path)
    if not stat.S_ISREG(found.st_mode):
        raise PackError(f"{path} is {_kind(found.st_mode)}, which no package can hold", hint=_name_it(path))
    return Entry(path, source, found.st_size, bool(found.st_mode & stat.S_IXUSR))


def _entered(above: _Directory, source: str, path: str, found: os.stat_result) -> _Directory:
    _check_name(path)
    if (identity := _identity(found)) in above.inside:
        raise PackError(f"{path} is a link to a directory that it is in", hint=_name_it(path))
    if len(above.inside) >= DEPTH_MAX:
        raise PackError(f"{path} is more than {DEPTH_MAX} directories deep", hint=_name_it(path))
    return _Directory(source, path, above.rules, above.inside | {identity})


def _followed(root: str, source: str, path: str) -> tuple[str, os.stat_result]:
    """Return what a link leads to. Raises PackError if that is not inside `root`."""
    target = os.path.realpath(source)
    if os.path.commonpath((root, target)) != root:
        hint = f"copy what it leads to into the directory, or {_name_it(path)}"
        raise PackError(f"{path} is a link out of the directory, to {target}", hint=hint)
    try:
        return target, os.stat(target)
    except FileNotFoundError:
        raise PackError(f"{path} is a link to {target}, where there is nothing", hint=_name_it(path)) from None


def _with_own_rules(directory: _Directory, names: list[str]) -> _Directory:
    rules = directory.rules
    lines: list[str] = []
    for name in IGNORE_FILES:
        if name in names:
            lines += _lines(os.path.join(directory.path, name), directory.name + name)
    try:
        rules = rules.within(directory.name, lines)
    except ValueError as error:
        text = f"{directory.name}.gitignore or .meshignore has a line that is no pattern: {error}"
        raise PackError(text, hint="write it as git does") from error
    return _Directory(directory.path, directory.name, rules, directory.inside)


def _lines(source: str, path: str) -> list[str]:
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            return []
        with open(source, "rb") as file:
            data = file.read(_IGNORE_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > _IGNORE_FILE_BYTES_MAX:
        raise PackError(f"{path} has more than {_IGNORE_FILE_BYTES_MAX:,} bytes", hint="write fewer patterns")
    return data.decode("utf-8-sig", "surrogateescape").splitlines()


def _check_name(path: str) -> None:
    if "\\" in path or any(unicodedata.category(c) in ("Cc", "Cs") for c in path):
        text = f"the name {path!r} has a backslash, a control character or bytes that are not UTF-8"
        raise PackError(text, hint="rename it, or name its directory in .meshignore")
    if len(path.encode()) > PATH_BYTES_MAX:
        text = f"the path {path[:80]!r}… has more than {PATH_BYTES_MAX} bytes"
        raise PackError(text, hint="use shorter names, or name its directory in .meshignore")


def _unreadable(path: str, error: OSError) -> PackError:
    return PackError(f"{path} cannot be read: {error.strerror or error}", hint=f"make it readable, or {_name_it(path)}")


def _name_it(path: str) -> str:
    return f"name it in .meshignore: /{path}"


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _kind(mode: int) -> str:
    if stat.S_ISSOCK(mode):
        return "a socket"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a device"
