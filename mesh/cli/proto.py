"""`proto compile`: Python from .proto files.

Owns the words of the command. Loads the compiler only when it is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mesh.cli.proto_build import Compiled


def compile(
    directory: Annotated[Path, typer.Argument(help="Where the packages of the .proto files begin.", metavar="DIR")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; beside the .proto files without it.", metavar="DIR")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if anything would change.")] = False,
) -> None:
    """Make messages, gRPC stubs and types of all .proto files in a directory.

    A file's package must be its directory: library.v1 is in library/v1.
    google/api/annotations.proto and its like come along with mesh.
    descriptors.binpb brings the comments to the API's docs; --check lets it be missing.

    \b
    Examples:
      meshctl proto compile protos
      meshctl proto compile protos --out gen
      meshctl proto compile protos --out gen --check
    """
    from mesh.cli import proto_build
    from mesh.cli.interrupts import raise_it
    from mesh.cli.output import counted
    from mesh.cli.terminal import say, write
    from mesh.errors import MeshError

    target = directory if out is None else out
    raise_it()
    made = proto_build.compiled(directory)
    for line in _remarks(made, directory):
        say(line)
    changed = proto_build.differences(made, target)
    if check:
        if changed := proto_build.wrong(changed):
            write("".join(f"{difference.kind:<9}{target / difference.path}\n" for difference in changed))
            words = f"meshctl proto compile {directory}" + (f" --out {out}" if out else "")
            stale = ", and delete what is stale" if any(each.kind == "stale" for each in changed) else ""
            text = f"{target} is not what {directory} gives: {counted(len(changed), 'file')} would change"
            raise MeshError(text, hint=words + stale)
        say(f"{target} is what {directory} gives")
        return
    proto_build.write(made, changed, target)
    for difference in changed:
        if difference.kind == "stale":
            say(f"warning: {target / difference.path}: its .proto file is gone\n  fix: delete it")
        else:
            write(f"wrote {target / difference.path}\n")
    written = sum(difference.kind != "stale" for difference in changed)
    say(f"{counted(len(made.sources), '.proto file')}: {written} written, {len(made.files) - written} as they were")
    say(_import_lines(made, target))


def _remarks(made: Compiled, directory: Path) -> Iterator[str]:
    """Yield what is worth saying of the .proto files."""
    for warning in made.warnings:
        yield f"warning: {warning.text(directory)}\n  fix: {warning.hint}"
    for name in made.skipped:
        yield f"{directory / name}: skipped, its module is installed with mesh"


def _import_lines(made: Compiled, target: Path) -> str:
    """Say how to import what was made."""
    from mesh.cli.proto_faults import module

    package, _, name = module(made.sources[0]).rpartition(".")
    words = f"{name}_pb2, {name}_pb2_grpc"
    line = f"from {package} import {words}" if package else f"import {words}"
    return (
        f"import it:  {line}\n  with {target} in runtime_env.py_modules or as its working_dir; elsewhere on PYTHONPATH"
    )
