"""`logs`: what replicas print, from all workers.

Owns the words of the command. Loads nothing heavy before it is called.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.flags import ClientFlags, LogLineFlags, Output

if TYPE_CHECKING:
    from mesh.v1.log_service_pb2 import ReadLogsRequest

TAIL_LINES, FOLLOWED_TAIL_LINES = 100, 10


def logs(
    name: Annotated[str, typer.Argument(help="Name of an application.", metavar="NAME")],
    deployment: Annotated[str, typer.Argument(help="One of its deployments; all without it.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is printed from now on.")] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="table, or json: an object a line.")] = Output.TABLE,
    *,
    lines: LogLineFlags,
    client: ClientFlags,
) -> None:
    """Show what replicas print, merged from all workers, also of replicas that are gone.

    \b
    Examples:
      meshctl logs default
      meshctl logs default SlowDeployment -f --since 10m
      meshctl logs default --previous --tail 1000
      meshctl logs default --request-id 4b1f… -o json
    """
    if output is Output.YAML:
        raise typer.BadParameter("is table or json here", param_hint="--output")
    if follow and lines.previous:
        raise typer.BadParameter("cannot be followed: the process has ended", param_hint="--previous")
    request = _request(name, deployment, follow, lines)
    _write_all(client, request, as_json=output is Output.JSON)


def _request(name: str, deployment: str, follow: bool, lines: LogLineFlags) -> ReadLogsRequest:
    from mesh.cli.log_lines import since
    from mesh.clock import SYSTEM
    from mesh.v1.log_service_pb2 import ReadLogsRequest

    try:
        since_s = since(lines.since, SYSTEM.wall()) if lines.since else 0.0
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from error
    usual = FOLLOWED_TAIL_LINES if follow else TAIL_LINES
    return ReadLogsRequest(
        application=name,
        deployment=deployment,
        replica=lines.replica,
        tail_lines=lines.tail if lines.tail is not None else usual,
        since=since_s,
        follow=follow,
        previous=lines.previous,
        request_id=lines.request_id,
    )


def _write_all(flags: ClientFlags, request: ReadLogsRequest, *, as_json: bool) -> None:
    """Write what is answered until it ends, Ctrl-C, or nobody reads any more."""
    import asyncio
    import contextlib

    from mesh.cli.client import Client
    from mesh.cli.interrupts import raise_it
    from mesh.cli.log_lines import rendered
    from mesh.cli.log_stream import read
    from mesh.cli.terminal import say, wants_colour
    from mesh.credentials import Credentials
    from mesh.settings import environment

    colour = wants_colour(sys.stdout, environment())
    addresses, credentials = flags.addresses(), Credentials(flags.security())

    async def main() -> None:
        async with (
            Client(addresses, credentials) as client,
            contextlib.aclosing(read(client, request, _warn)) as responses,
        ):
            async for response in responses:
                for notice in response.notices:
                    say(f"warning: {notice}")
                sys.stdout.write(rendered(response.entries, as_json=as_json, colour=colour))
                sys.stdout.flush()

    raise_it()
    try:
        asyncio.run(main())
    except BrokenPipeError:
        # Whoever read has enough, as `head` does. Python would complain when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn(why: str) -> None:
    from mesh.cli.terminal import say

    say(f"warning: {why}; trying again")
