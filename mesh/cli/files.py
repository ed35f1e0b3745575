"""`validate` and what other commands that take a config file share: reading it, and warnings of what it holds.

Owns the words of the command. Loads nothing heavy before one of them is called.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.flags import Output, OutputFlags

if TYPE_CHECKING:
    from mesh.cli.config_file import ConfigFile

File = Annotated[str, typer.Argument(help="Config file; - reads stdin.", metavar="FILE")]


def validate(
    file: File = "",
    schema: Annotated[bool, typer.Option("--schema", help="Write the JSON Schema of config files instead.")] = False,
    *,
    output: OutputFlags,
) -> None:
    """Check a config file without a control plane.

    \b
    Examples:
      meshctl validate mesh.yaml
      meshctl validate --schema > mesh.schema.json
    """
    from mesh.cli.output import counted, data
    from mesh.cli.terminal import say, style, write

    if bool(file) is schema:
        raise typer.BadParameter("name a config file, or --schema without one", param_hint="FILE")
    if schema:
        from mesh.cli.config_schema import schema as made

        form = Output.JSON if output.output is Output.TABLE else output.output
        write(data(made(), style(form)))
        return
    read = read_file(file)
    warn_of_secrets(read)
    names = [application.name for application in read.config.applications]
    if output.output is Output.TABLE:
        say(f"{read.path}: valid, {counted(len(names), 'application')}")
    else:
        write(data({"file": read.path, "valid": True, "applications": names}, style(output.output)))


def read_file(file: str) -> ConfigFile:
    """Read the config file that a command was given. Raises NotFound, InvalidFile."""
    from pathlib import Path

    from mesh.cli import config_file

    if file == "-":
        data = sys.stdin.buffer.read(config_file.BYTES_MAX + 1)
        return config_file.decode(data, path="stdin", surroundings=config_file.here(Path.cwd()))
    return config_file.read(Path(file))


def warn_of_secrets(file: ConfigFile) -> None:
    """Say which variables look like secrets and would be stored in plain text."""
    from mesh.cli.terminal import say
    from mesh.serving.env_vars import plain_secrets

    for i, application in enumerate(file.config.applications):
        for name in plain_secrets(application.runtime_env):
            field = f"applications[{i}].runtime_env.env_vars.{name}"
            place = file.document.place(field)
            say(f"warning: {file.path}:{place.line}:{place.column}: {field} looks like a secret; it will be stored in")
            say("         plain text. To keep it on the workers write {from_env: NAME} or {from_file: /PATH}")
