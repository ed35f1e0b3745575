"""What is wrong with .proto files, told so that it can be mended: FILE:LINE:COLUMN, what, and a fix.

Owns the rule that a file's package is its directory, the names that Python cannot import, and how protoc's words are
told again. Pure: never reads a file. Called by `proto_build`.
"""

from __future__ import annotations

import difflib
import keyword
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from google.protobuf.descriptor_pb2 import FileDescriptorProto

FAULTS_MAX = 20

_PLACED = re.compile(r"^(?P<file>.+?):(?P<line>\d+):(?P<column>\d+): (?P<warning>warning: )?(?P<message>.*)$")
_UNPLACED = re.compile(r"^(?P<file>[^:]+\.proto): (?P<message>.*)$")
_NO_SYNTAX = re.compile(r"No (?:edition or )?syntax specified for the proto file: (?P<file>.+?\.proto)\.")
_NOT_FOUND = re.compile(r'^Import "(?P<name>.+)" was not found or had errors\.$')
_UNDEFINED = re.compile(r'^"(?P<name>[\w.]+)" (?:is not defined|seems to be defined in)')
_UNKNOWN_OPTION = re.compile(r'^Option "(?P<name>.+?)" unknown')
_DECLARES = re.compile(r"^[ \t]*(?:message|enum)[ \t]+(\w+)", re.MULTILINE)
_PACKAGE, _SYNTAX = (
    re.compile(r"^[ \t]*package[ \t]+([\w.]+)[ \t]*;", re.MULTILINE),
    re.compile(r"\b(syntax|edition)\b"),
)
_PACKAGE_FIELD = 2
_ANNOTATIONS = "google/api/annotations.proto"
_SCALARS = {"double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64"}
_SCALARS |= {"sfixed32", "sfixed64", "bool", "string", "bytes"}
_HINTS: tuple[tuple[str, str], ...] = (
    ("has already been used", "give one of the two another number"),
    ("uses reserved number", "use another number: this one is reserved"),
    ("is already defined", "rename one of the two"),
    ("recursively imports", "move what both need into a file of its own, and import that"),
    ('Expected ";"', 'end what stands before with ";"'),
    ('Expected "required"', 'write syntax = "proto3"; at the top of the file, or optional before the field'),
    ("first enum value must be zero", "let the enum begin with a value 0, such as NAME_UNSPECIFIED = 0;"),
    ("same file twice", "rename one of the two files: both give this module"),
)
_ANY_HINT = "see this line, and what stands before it"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `line` and `column` count from 1; 0: the whole file."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""

    def text(self, directory: Path) -> str:
        """Return what and where; `directory` is what file names are relative to."""
        place = str(directory / self.file) + (f":{self.line}:{self.column}" if self.line else "")
        return f"{place}: {self.message}"


@dataclass(frozen=True, slots=True)
class Known:
    """The texts of all files that there are, by name: the user's and those that come along."""

    texts: Mapping[str, str]

    def declaring(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return the files that declare a message or enum of this simple name, each with the full name."""
        found = []
        for file, text in self.texts.items():
            if name in _DECLARES.findall(text):
                package = _PACKAGE.search(text)
                found.append((file, f"{package[1]}.{name}" if package else name))
        return tuple(found)

    def types(self) -> set[str]:
        """Return the simple names of all messages and enums, and of what needs no declaration."""
        return _SCALARS | {name for text in self.texts.values() for name in _DECLARES.findall(text)}


def retold(said: str, known: Callable[[], Known]) -> tuple[list[Fault], list[Fault]]:
    """Return the faults and the warnings in what protoc said. `known` is called if a hint needs it."""
    faults: list[Fault] = []
    warnings: list[Fault] = []
    for line in said.splitlines():
        if placed := _PLACED.match(line):
            fault = Fault(placed["file"], int(placed["line"]), int(placed["column"]), placed["message"])
            (warnings if placed["warning"] else faults).append(fault)
        elif untold := _NO_SYNTAX.search(line):
            hint = 'write syntax = "proto3"; at its top'
            warnings.append(Fault(untold["file"], 1, 1, "no syntax is declared, so it is read as proto2", hint))
        elif unplaced := _UNPLACED.match(line):
            faults.append(Fault(unplaced["file"], 0, 0, unplaced["message"]))
    kept = _causes(faults)
    hinted = [Fault(f.file, f.line, f.column, f.message, _hint(f, known)) for f in kept]
    return hinted, [w if w.hint else Fault(w.file, w.line, w.column, w.message, "delete the line") for w in warnings]


def faulty(said: str) -> set[str]:
    """Return the files that protoc refused, for whatever reason."""
    placed = filter(None, map(_PLACED.match, said.splitlines()))
    return {found["file"] for found in placed if not found["warning"]}


def misplaced(files: Iterable[FileDescriptorProto], directory: Path) -> list[Fault]:
    """Return the files whose package is not their directory, or whose modules Python could not import.

    The files have source info. `directory` is what their names are relative to, absolute.
    """
    found = []
    for file in files:
        line, column = _package_place(file)
        at = PurePosixPath(file.name)
        expected = ".".join(at.parent.parts)
        if file.package != expected:
            what = f"the package is {file.package!r}" if file.package else "no package is declared"
            where = (
                f"the directory is {str(at.parent)!r}" if expected else f"the file is at the top of {directory.name}/"
            )
            found.append(Fault(file.name, line, column, f"{what}, but {where}", _move(file, at, directory)))
        elif reason := _unimportable(file.package, at.stem):
            found.append(Fault(file.name, line, column, *reason))
    return found


def module(name: str) -> str:
    """Return the module, without its ending _pb2, that protoc makes of a .proto file."""
    return name.removesuffix(".proto").replace("-", "_").replace("/", ".")


def _causes(faults: Sequence[Fault]) -> list[Fault]:
    """Leave out what only follows from another fault."""
    imported = {found["name"] for fault in faults if (found := _NOT_FOUND.match(fault.message))}
    lacking = {fault.file for fault in faults if _NOT_FOUND.match(fault.message)}
    broken = {fault.file for fault in faults if fault.line and fault.file not in lacking}
    kept = []
    for fault in faults:
        missing = _NOT_FOUND.match(fault.message)
        if missing and missing["name"] in broken | lacking:
            continue
        if fault.message == "File not found." and fault.file in imported:
            continue
        if fault.file in lacking and _UNDEFINED.match(fault.message):
            continue
        if fault not in kept:
            kept.append(fault)
    return kept


def _hint(fault: Fault, known: Callable[[], Known]) -> str:
    if missing := _NOT_FOUND.match(fault.message):
        return _import_hint(missing["name"], known())
    if undefined := _UNDEFINED.match(fault.message):
        return _type_hint(undefined["name"], known())
    if option := _UNKNOWN_OPTION.match(fault.message):
        if option["name"].startswith("(google.api.http)"):
            return f'write import "{_ANNOTATIONS}";'
        return "import the file that declares the option"
    return next((hint for part, hint in _HINTS if part in fault.message), _ANY_HINT)


def _import_hint(name: str, known: Known) -> str:
    same = sorted(file for file in known.texts if PurePosixPath(file).name == PurePosixPath(name).name)
    near = same or difflib.get_close_matches(name, known.texts, n=1, cutoff=0.7)
    if near:
        return f'write import "{near[0]}"; imports are relative to the directory that is compiled'
    return f"put the file at {name} in the directory that is compiled"


def _type_hint(name: str, known: Known) -> str:
    simple = name.rpartition(".")[2]
    declaring = known.declaring(simple)
    exact = [found for found in declaring if found[1] == name]
    if found := exact or declaring:
        file, full_name = found[0]
        return f'write import "{file}"; and the type as {full_name}'
    if near := difflib.get_close_matches(simple, known.types(), n=1, cutoff=0.7):
        return f"did you mean {near[0]}?"
    return "declare it, or import the file that does"


def _package_place(file: FileDescriptorProto) -> tuple[int, int]:
    for location in file.source_code_info.location:
        if list(location.path) == [_PACKAGE_FIELD]:
            return location.span[0] + 1, location.span[1] + 1
    return 1, 1


def _move(file: FileDescriptorProto, at: PurePosixPath, directory: Path) -> str:
    """Say how to make package and directory one."""
    package, here = tuple(file.package.split(".")) if file.package else (), at.parent.parts
    if package and here[-len(package) :] == package:
        inner = "/".join(here[: -len(package)])
        return f"compile the directory in it: meshctl proto compile {directory.name}/{inner}"
    above = (*directory.parts, *here)
    if package and len(package) > len(here) and above[-len(package) :] == package:
        root = Path(*above[: -len(package)])
        return f"compile the directory that holds {package[0]}/: meshctl proto compile {root}"
    ways = []
    if package:
        ways.append(f"move the file to {'/'.join((*package, at.name))}")
    if here and all(part.isidentifier() for part in here):
        ways.append(f"write package {'.'.join(here)};")
    return ", or ".join(ways) or f"move the file to a directory such as {module(at.name)}/v1, and write its package"


def _unimportable(package: str, stem: str) -> tuple[str, str] | None:
    """Return what keeps Python from importing the modules of a file, and how to mend it."""
    parts = package.split(".") if package else []
    for part in parts:
        if keyword.iskeyword(part):
            return (
                f"{part!r} is a keyword of Python: nothing in package {package} can be imported",
                "rename the package",
            )
    if parts and (parts[0] in sys.stdlib_module_names or parts[0] in ("grpc", "mesh")):
        text = f"Python has a module {parts[0]!r} already: one of the two would hide the other"
        return text, f"put it under a name of your own, such as acme.{package}"
    if not f"{module(stem)}_pb2".isidentifier():
        return f"Python cannot import a module called {stem}_pb2", "name the file with letters, digits and underscores"
    return None
