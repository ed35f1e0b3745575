"""`deploy`, `config`, `delete`, `shutdown`, `workers`: commands that talk to a control plane.

Owns the words of the commands. Loads nothing heavy before one of them is called.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from mesh.cli.change_flags import DeployFlags
from mesh.cli.files import File, read_file, warn_of_secrets
from mesh.cli.flags import ClientFlags, Output, OutputFlags, WaitFlags

if TYPE_CHECKING:
    from mesh.cli.client import Client
    from mesh.cli.config_file import ConfigFile
    from mesh.cli.follow import Following

WATCH_PATIENCE_S = 300.0
_T = TypeVar("_T")

Name = Annotated[str, typer.Argument(help="Name of an application; all without it.", metavar="NAME")]


def deploy(file: File, *, change: DeployFlags, wait: WaitFlags, client: ClientFlags, output: OutputFlags) -> None:
    """Make what runs equal to a config file, and wait until it is.

    Applications that the file does not name are deleted. Directories of code are packed and uploaded, without what
    their .gitignore and .meshignore name; local:///DIRECTORY is one on the workers, used in place. The same file and
    code twice change nothing. A revision that fails is rolled back: what served before serves on, and the exit code
    is 7.

    \b
    Examples:
      meshctl deploy mesh.yaml
      meshctl deploy mesh.yaml --dry-run
      meshctl deploy mesh.yaml --timeout 60 -o json
    """
    from mesh.cli import deploying, uploading
    from mesh.cli import output as rendering
    from mesh.cli.follow import Following
    from mesh.cli.terminal import say, style, write
    from mesh.v1.deployment_service_pb2 import ApplyRequest

    read = read_file(file)
    warn_of_secrets(read)
    request = ApplyRequest(
        validate_only=change.dry_run, supersede=change.supersede, hold_on_failure=not change.rollback
    )

    async def main(client: Client) -> None:
        if not change.dry_run:
            async with client.within(wait.timeout, "not stored"):
                await packages.upload(client, say)
        turn = deploying.Turn(wait.timeout, say, wait.wait)
        response = await deploying.apply(client, packages.config, read, request, turn)
        following = Following.of(response.applications)
        if change.dry_run:
            say("dry run: nothing was changed")
        elif wait.wait:
            await followed(client, following, wait.timeout, what="the deploy goes on", file=read)
        write(rendering.applied(response, following.states, style(output.output)))

    with uploading.packages(read) as packages:
        call_control(client, main)


def config(
    name: Name = "",
    output: Annotated[Output, typer.Option("--output", "-o", help="yaml or json.")] = Output.YAML,
    *,
    client: ClientFlags,
) -> None:
    """Write the goal state as a config file that deploy takes again.

    \b
    Examples:
      meshctl config > mesh.yaml
      meshctl config default -o json
    """
    from mesh import wire
    from mesh.cli import config_file
    from mesh.cli.output import data
    from mesh.cli.terminal import style, warn_of, write

    form = Output.YAML if output is Output.TABLE else output

    async def main(client: Client) -> None:
        answer = await client.config(name)
        warn_of(answer.stale)
        value = wire.from_proto(answer.config, config_file.Config)
        write(data(config_file.as_data(value), style(form)))

    call_control(client, main)


def delete(
    name: Annotated[str, typer.Argument(help="Name of an application.", metavar="NAME")],
    *,
    wait: WaitFlags,
    client: ClientFlags,
    output: OutputFlags,
) -> None:
    """Delete an application. Its running requests are finished first.

    \b
    Examples:
      meshctl delete default
    """

    async def main(client: Client) -> None:
        async with client.within(wait.timeout, "not deleted"):
            await client.delete(name)
        await _deleted(client, {name}, wait, output)

    call_control(client, main)


def shutdown(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    *,
    wait: WaitFlags,
    client: ClientFlags,
    output: OutputFlags,
) -> None:
    """Delete all applications and stored options. The processes of mesh stay.

    \b
    Examples:
      meshctl shutdown -y
    """
    from mesh.cli.interrupts import raise_it

    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody is there to be asked; add -y", param_hint="--yes")
        raise_it()
        if not typer.confirm("Delete all applications?", err=True):
            raise typer.Exit(1)

    async def main(client: Client) -> None:
        async with client.within(wait.timeout, "not deleted"):
            leaving = {application.name for application in (await client.status()).applications}
            await client.shutdown()
        await _deleted(client, leaving, wait, output)

    call_control(client, main)


def workers(*, client: ClientFlags, output: OutputFlags) -> None:
    """List the workers.

    \b
    Examples:
      meshctl workers
      meshctl workers -o json
    """
    from mesh.cli.output_workers import workers as rendered
    from mesh.cli.terminal import style, write

    async def main(client: Client) -> None:
        write(rendered(await client.workers(), style(output.output)))

    call_control(client, main)


def call_control(flags: ClientFlags, main: Callable[[Any], Awaitable[_T]]) -> _T:
    """Run `main` with a client of the control plane. For the commands of other nouns as well."""
    import asyncio

    from mesh.cli.client import Client
    from mesh.cli.interrupts import raise_it
    from mesh.credentials import Credentials

    addresses, credentials = flags.addresses(), Credentials(flags.security())

    async def connected() -> _T:
        async with Client(addresses, credentials) as client:
            return await main(client)

    raise_it()
    return asyncio.run(connected())


async def _deleted(client: Client, names: set[str], wait: WaitFlags, output: OutputFlags) -> None:
    """Follow a deletion and say what came of it."""
    from mesh.cli.follow import Following
    from mesh.cli.output import deleted
    from mesh.cli.terminal import style, write

    following = Following(leaving=set(names))
    if wait.wait:
        await followed(client, following, wait.timeout, what="the deletion goes on")
    write(deleted(names, following.states, style(output.output)))


async def followed(
    client: Client, following: Following, timeout_s: float, *, what: str, file: ConfigFile | None = None
) -> None:
    """Wait until all that is followed has come true; `what` goes on without who waits. Raises as `deploying.follow`."""
    import asyncio

    from mesh.cli import deploying
    from mesh.cli.terminal import say

    try:
        await deploying.follow(client, following, file, timeout_s=timeout_s, say=say)
    except asyncio.CancelledError:
        say(f"no longer waiting; {what}")
        raise
