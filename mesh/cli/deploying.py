"""Applying a config and waiting for what comes of it: one way for `deploy`, `run` and `start`.

Owns the wait's time limit and turning the control plane's field problems into places of the file. Called by the
commands.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from mesh import wire
from mesh.cli.client import Client
from mesh.cli.config_file import Config, ConfigFile
from mesh.cli.follow import ApplicationsFailed, Following
from mesh.errors import DeadlineExceeded, InvalidConfig, Problem
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api

Say = Callable[[str], None]
"""Takes a line of progress."""


async def apply(
    client: Client, config: Config, file: ConfigFile | None, *, validate_only: bool = False
) -> api.ApplyResponse:
    """Make the goal state equal to `config`. Raises InvalidConfig, with the places in `file` if there is one."""
    try:
        return await client.apply(wire.to_proto(config, pb.Config), validate_only=validate_only)
    except InvalidConfig as error:
        if file is None:
            raise
        raise file.located(error) from error


async def follow(
    client: Client, following: Following, file: ConfigFile | None = None, *, timeout_s: float, say: Say
) -> None:
    """Wait until all that is followed has come true.

    Raises ApplicationsFailed, with the places in `file` if there is one, Conflict when somebody else changed it
    meanwhile, DeadlineExceeded after `timeout_s` seconds, Unreachable when the control plane stayed away that long.
    """
    try:
        left_s = max(0.0, timeout_s - client.age_s)
        watch = client.watch(patience_s=timeout_s, lost=lambda why: say(f"warning: {why}; trying again"))
        async with asyncio.timeout(left_s), contextlib.aclosing(watch) as statuses:
            async for status in statuses:
                for line in following.take(status):
                    say(line)
                if not following.awaited:
                    break
    except TimeoutError:
        names = ", ".join(f"{name} ({following.states.get(name, 'not seen yet')})" for name in following.awaited)
        why = f"\n{client.trouble}" if client.trouble else ""
        hint = "it goes on; follow it with meshctl status --watch, or allow more with --timeout"
        raise DeadlineExceeded(f"not done within {timeout_s:g} s: {names}{why}", hint=hint) from None
    if (error := following.error()) is not None:
        if isinstance(error, ApplicationsFailed) and file is not None:
            error.places = _places(error, file)
        raise error


def _places(error: ApplicationsFailed, file: ConfigFile) -> dict[str, str]:
    """Return where in the file the field stands that is to blame for each failure."""
    places = {}
    for i, application in enumerate(file.config.applications):
        if (failure := error.failures.get(application.name)) is not None:
            field = f"applications[{i}].{failure.field}".rstrip(".")
            fault = file.fault(Problem(field, failure.message))
            places[application.name] = f"{file.path}:{fault.place.line}:{fault.place.column}: {field}"
    return places
