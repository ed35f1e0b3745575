"""The config file: text in, a Config or located problems out.

Owns how a file comes to be read. Its fields are those of `config_fields`, `config_reader` reads them, `config_data`
writes them. Never talks to a control plane. Pure except `read`, `read_bytes` and `here`. Called by the commands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mesh import settings
from mesh.cli import config_reader, strict_yaml
from mesh.cli.config_data import as_data, render
from mesh.cli.config_reader import Surroundings
from mesh.cli.config_values import Config, GrpcOptions, HttpOptions
from mesh.cli.requirements import RequirementsError
from mesh.cli.strict_yaml import Document, Fault, Place
from mesh.errors import InvalidConfig, NotFound, Problem

__all__ = [
    "Config",
    "ConfigFile",
    "GrpcOptions",
    "HttpOptions",
    "InvalidFile",
    "Surroundings",
    "as_data",
    "decode",
    "here",
    "parse",
    "read",
    "render",
]

BYTES_MAX = 1024 * 1024
REQUIREMENTS_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that was read without a problem."""

    path: str
    config: Config
    document: Document

    def located(self, error: InvalidConfig) -> InvalidFile:
        """Return a problem that somebody else found, with the places of its fields in this file."""
        return InvalidFile(self.path, [self.fault(problem) for problem in error.problems])

    def fault(self, problem: Problem) -> Fault:
        """Return a problem with the place of its field in this file."""
        return Fault(self.document.place(problem.field), problem)


class InvalidFile(InvalidConfig):
    """A config file is wrong; `faults` has the place of each problem, in the order of the file."""

    def __init__(self, path: str, faults: Iterable[Fault]) -> None:
        self.path = path
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.place.line, fault.place.column)))
        super().__init__(tuple(fault.problem for fault in self.faults))


def read(path: Path) -> ConfigFile:
    """Read a config file. Raises NotFound where there is none, InvalidFile on problems."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"no config file {path}", hint="check the path") from error
    except OSError as error:
        hint = "name a file that you may read"
        raise InvalidConfig((Problem("", f"cannot read {path}: {error.strerror}", hint),)) from error
    return decode(data, path=str(path), surroundings=here(path.resolve().parent))


def here(directory: Path) -> Surroundings:
    """Return what a config file in `directory` may name: this process's environment, and files."""
    return Surroundings(str(directory), settings.environment(), _text)


def decode(data: bytes, *, path: str, surroundings: Surroundings) -> ConfigFile:
    """Parse the bytes of a config file. Raises InvalidFile."""
    if len(data) > BYTES_MAX:
        problem = Problem("", f"is larger than {BYTES_MAX // 1024} KiB", "move data out of the config")
        raise InvalidFile(path, [Fault(Place(), problem)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise InvalidFile(path, [Fault(place, Problem("", "is not UTF-8 text", "save it as UTF-8"))]) from error
    return parse(text, path=path, surroundings=surroundings)


def parse(text: str, *, path: str, surroundings: Surroundings) -> ConfigFile:
    """Parse a config file's text. Raises InvalidFile."""
    document = strict_yaml.parse(text, surroundings.environment)
    if document.faults:
        raise InvalidFile(path, document.faults)
    config, faults = config_reader.read(document, surroundings)
    if faults:
        raise InvalidFile(path, faults)
    return ConfigFile(path, config, document)


def _text(path: str) -> str:
    """Return the text of a requirements file. Raises RequirementsError."""
    try:
        with open(path, "rb") as file:
            data = file.read(REQUIREMENTS_BYTES_MAX + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise RequirementsError(f"cannot read {path}: {error.strerror}", hint="check the path") from None
    except (UnicodeDecodeError, ValueError):
        raise RequirementsError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from None
    if len(data) > REQUIREMENTS_BYTES_MAX:
        raise RequirementsError(
            f"{path} is larger than {REQUIREMENTS_BYTES_MAX // 1024} KiB", hint="list what is needed"
        )
    return text
