"""`diff`: what deploying a config file would change.

Owns the words of the command. Loads nothing heavy before it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from mesh.cli.files import File, read_file, warn_of_secrets
from mesh.cli.flags import ClientFlags, Output, OutputFlags

if TYPE_CHECKING:
    from mesh.cli.client import Client


def diff(file: File, *, client: ClientFlags, output: OutputFlags) -> None:
    """Show what deploying a config file would change. Exit code 0: nothing, 1: something.

    Compared is the goal state, as meshctl config shows it. Directories of code are packed as for a deploy, so that
    changed code is another package. Whether code changed in a directory that workers use in place cannot be seen.

    \b
    Examples:
      meshctl diff mesh.yaml
      meshctl diff mesh.yaml -o json
      meshctl diff mesh.yaml || meshctl deploy mesh.yaml
    """
    from mesh import wire
    from mesh.cli import config_diff, uploading
    from mesh.cli.applications import call_control
    from mesh.cli.config_values import Config
    from mesh.cli.fail import ExitCode
    from mesh.cli.output import data
    from mesh.cli.terminal import style, warn_of, write
    from mesh.v1 import deployment_pb2

    read = read_file(file)
    warn_of_secrets(read)
    # As a message, so that numbers have the types that they have in the goal state.
    new = wire.from_proto(wire.to_proto(uploading.with_packages(read), deployment_pb2.Config), Config)

    async def main(client: Client) -> bool:
        answer = await client.config("")
        warn_of(answer.stale)
        old = wire.from_proto(answer.config, Config)
        found = config_diff.changes(old, new)
        how = style(output.output)
        if output.output is Output.TABLE:
            write(config_diff.unified(old, new, file=read.path, colour=how.colour))
        else:
            write(data(config_diff.as_data(found), how))
        return bool(found)

    if call_control(client, main):
        raise typer.Exit(ExitCode.FAILED)
