"""`status`, `events`, `describe`: commands that look, and change nothing.

Owns their words. Loads nothing heavy before one of them is called.
"""

from __future__ import annotations

import contextlib
import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.applications import WATCH_PATIENCE_S, Name, call_control
from mesh.cli.flags import ClientFlags, EventFlags, Output, OutputFlags

if TYPE_CHECKING:
    from mesh.cli.client import Client
    from mesh.v1 import deployment_service_pb2 as api

KINDS = ("application", "replica", "worker")
_OUTAGE = "warning: {}; what is shown may be out of date; trying again"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?")
_UNIT_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def status(
    name: Name = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it; on a terminal, live.")] = False,
    *,
    client: ClientFlags,
    output: OutputFlags,
    context: typer.Context,
) -> None:
    """Show how applications are doing; with a name, each of its replicas too.

    \b
    Examples:
      meshctl status
      meshctl status default -o json
      meshctl status default --watch
    """
    from mesh.cli.live import Live
    from mesh.cli.output_status import status as rendered
    from mesh.cli.output_status import without_details
    from mesh.cli.terminal import say, style, warn_of, write

    form = output.output
    details = bool(name) or form is not Output.TABLE

    def text(message: api.Status, *, one_line: bool = False) -> str:
        if not context.obj.debug:
            without_details(message)
        return rendered(message, style(form, one_line=one_line), detailed=bool(name))

    async def once(client: Client) -> None:
        message = await client.status(name, details=details)
        warn_of(message.stale)
        write(text(message))

    async def again(client: Client) -> None:
        watched = partial(client.watch, name, details=details, patience_s=WATCH_PATIENCE_S)
        if form is Output.TABLE and sys.stdout.isatty():
            live = Live(text, write)
            async with contextlib.aclosing(watched(lost=lambda why: live.note(_OUTAGE.format(why)))) as messages:
                await live.run(messages)
            return
        async with contextlib.aclosing(watched(lost=lambda why: say(_OUTAGE.format(why)))) as messages:
            async for message in messages:
                write(text(message, one_line=True))

    call_control(client, again if watch else once)


def events(
    name: Name = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens from now on.")] = False,
    *,
    chosen: EventFlags,
    client: ClientFlags,
    output: OutputFlags,
) -> None:
    """Show what happened of late.

    Deploys, crashes, failed health checks, workers and gateways that come and go, and who leads. About a hundred
    events are kept of each application, as many of the rest, and those of a deleted one for an hour.

    \b
    Examples:
      meshctl events
      meshctl events default --since 10m
      meshctl events -f --warnings -o json
    """
    from mesh.cli import events as reading
    from mesh.cli.output_events import event, events
    from mesh.cli.terminal import say, style, warn_of, write
    from mesh.clock import SYSTEM

    since = SYSTEM.wall() - _seconds(chosen.since) if chosen.since else 0.0
    wanted = reading.wanted(name, chosen.replica, chosen.worker, warnings=chosen.warnings, since=since)

    async def once(client: Client) -> None:
        answer = await reading.listed(client, wanted)
        warn_of(answer.stale)
        write(events(answer.events, style(output.output)))

    async def on(client: Client) -> None:
        def lost(why: str) -> None:
            say(f"warning: {why}; trying again")

        async for told in reading.followed(client, wanted, patience_s=WATCH_PATIENCE_S, lost=lost):
            write(event(told, style(output.output, one_line=True)))

    call_control(client, on if follow else once)


def describe(
    what: Annotated[str, typer.Argument(help="Name of an application; or one of the words above.", metavar="[KIND]")],
    name: Annotated[str, typer.Argument(help="Name of the application, or id.", metavar="NAME")] = "",
    *,
    client: ClientFlags,
    output: OutputFlags,
) -> None:
    """Show all there is to know of one application, replica or worker.

    Settings, replicas, failures with their tracebacks, events. Of each setting it says where it comes from: the
    config, the code, or a default.

    \b
    Examples:
      meshctl describe default
      meshctl describe replica default-Slow-1f2e3d4c1
      meshctl describe worker gpu-1 -o yaml
    """
    kind, wanted = (what, name) if name else ("application", what)
    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(KINDS)}", param_hint="KIND")

    async def main(client: Client) -> None:
        from mesh.cli import describing
        from mesh.cli.terminal import style, write

        look: dict[str, Any] = {
            "application": describing.application,
            "replica": describing.replica,
            "worker": describing.worker,
        }
        write(await look[kind](client, wanted, style(output.output)))

    call_control(client, main)


def _seconds(text: str) -> float:
    """Return a duration such as 90s, 10m, 2h or 1d in seconds. Raises typer.BadParameter."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 10m, 2h or 1d", param_hint="--since")
    return float(found[1]) * _UNIT_SECONDS[found[2]]
