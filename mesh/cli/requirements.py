"""Requirements of `runtime_env.pip`: a requirements file as plain lines, and what such a line may be.

Owns which of pip's syntax is taken: requirements, comments and further files by -r. Whatever else decides from where or
how packages are installed is not the config's affair and is refused with the reason. Pure: files are read by the
caller's function. Called by the reader of the config file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator

from mesh.errors import MeshError

LINES_MAX = 1000
"""Requirements in all."""
FILES_MAX = 20
"""Files read, each as often as it is named."""
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_NESTED = re.compile(r"(?:-r|--requirement)(?:\s*=\s*|\s+|(?<=-r))(?P<path>\S.*)")
_OPTION = re.compile(r"(?:^|\s)(?P<name>--?[A-Za-z][A-Za-z-]*)")
_PATH = re.compile(r"[./~\\]|file:|[A-Za-z]:\\", re.IGNORECASE)
_ARCHIVE = re.compile(r"\.(?:whl|zip|tar|tgz|tar\.\w+)$")
_URL = re.compile(r"(?:[a-z]+\+)?[a-z]+://", re.IGNORECASE)
_NAMED = re.compile(r"[A-Za-z0-9]")
_INDEX = (
    "chooses where packages come from",
    "set it where the workers are started, as UV_DEFAULT_INDEX",
)
_LOCAL = ("installs from a directory, which workers do not have", "list the directory under py_modules")
_CONSTRAINT = ("constrains what other lines ask for", "write the versions into the requirements")
_WHY = {
    **dict.fromkeys(("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index"), _INDEX),
    "--trusted-host": _INDEX,
    **dict.fromkeys(("-e", "--editable"), _LOCAL),
    **dict.fromkeys(("-c", "--constraint"), _CONSTRAINT),
    "--hash": ("pins one line by its digest, all others not", "leave it out; whole versions (==) pin a package"),
}


class RequirementsError(MeshError):
    """A requirements file cannot be taken. The message begins with file and line where there is one."""


def inlined(path: str, read: Callable[[str], str]) -> tuple[str, ...]:
    """Return the requirements of a file, those of the files that it names included. Raises RequirementsError.

    `read` returns the text of the file at a path, or raises RequirementsError.
    """
    found: list[str] = []
    pending, count = [iter(_lines(path, read(path)))], 1
    while pending:
        try:
            file, line, text = next(pending[-1])
        except StopIteration:
            pending.pop()
            continue
        at = f"{file}:{line}"
        nested = _NESTED.fullmatch(text)
        if nested is not None:
            count += 1
            if count > FILES_MAX:
                raise RequirementsError(f"{at}: more than {FILES_MAX} files are named", hint="does a file name itself?")
            inner = posixpath.normpath(posixpath.join(posixpath.dirname(file), nested["path"].strip()))
            pending.append(iter(_lines(inner, _named(at, inner, read))))
            continue
        if wrong := problem(text):
            raise RequirementsError(f"{at}: {wrong[0]}", hint=wrong[1])
        found.append(text)
        if len(found) > LINES_MAX:
            raise RequirementsError(f"{at}: more than {LINES_MAX} requirements", hint="list what is needed only")
    return tuple(found)


def problem(text: str) -> tuple[str, str] | None:
    """Return what is wrong with a requirement, and what mends it; None if it is one as far as can be seen."""
    option = _OPTION.search(text)
    if option is not None and (text.startswith("-") or option["name"] in _WHY):
        name = option["name"]
        why, hint = _WHY.get(name, ("says how to install, and not what", "leave it out"))
        return f"{name[:40]} {why}", hint
    if _PATH.match(text) or (_ARCHIVE.search(text.partition(";")[0].strip()) and "@" not in text):
        return "names a file or directory, which workers do not have", "list it under py_modules"
    if _URL.match(text):
        return "is a URL without the name of what is there", "write NAME @ URL"
    if not _NAMED.match(text):
        return "is no requirement", "write a name and versions, such as numpy>=2"
    return None


def _named(at: str, path: str, read: Callable[[str], str]) -> str:
    try:
        return read(path)
    except RequirementsError as error:
        raise RequirementsError(f"{at}: {error.message}", hint=error.hint) from None


def _lines(path: str, text: str) -> Iterator[tuple[str, int, str]]:
    """Yield each line that says something: file, number and text, lines that go on joined."""
    joined, first = "", 0
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        first = first or number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            joined += line[:-1] + " "
            continue
        whole = _COMMENT.sub("", joined + line).strip()
        if whole:
            yield path, first, whole
        joined, first = "", 0
