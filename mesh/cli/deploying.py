"""Changing what runs and waiting for what comes of it: one way for `deploy`, `run`, `start`, `rollback` and the like.

Owns the wait for one's turn while another change is under way, time limits, and turning the control plane's field
problems into places of the file. Called by the commands.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from mesh import wire
from mesh.cli.client import Client
from mesh.cli.config_file import Config, ConfigFile
from mesh.cli.follow import ApplicationsFailed, Following, under_way
from mesh.clock import SYSTEM
from mesh.errors import DeadlineExceeded, InvalidConfig, Problem, RolloutUnderWay
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api

_T = TypeVar("_T")
Say = Callable[[str], None]
"""Takes a line of progress."""


@dataclass(frozen=True, slots=True)
class Turn:
    """How a change gets its turn while another one is under way."""

    timeout_s: float
    say: Say
    wait: bool = True
    """Wait for it; else RolloutUnderWay is raised."""


async def in_turn(client: Client, turn: Turn, work: Callable[[Mapping[str, int]], Awaitable[_T]]) -> _T:
    """Make a change: `work`, again after each rollout that was in its way.

    `work` is given the revisions that it waited for, by application: what it finds must be at these still. Raises what
    `work` raises, and DeadlineExceeded.
    """
    seen: dict[str, int] = {}
    ends = SYSTEM.monotonic() + max(0.0, turn.timeout_s - client.age_s)
    while True:
        try:
            async with client.within(max(0.0, ends - SYSTEM.monotonic()), "not stored"):
                return await work(seen)
        except RolloutUnderWay as error:
            if not turn.wait:
                raise
            for name, revision in sorted(error.revisions.items()):
                turn.say(f"{name}: waiting for revision {revision}, which is on its way (--supersede replaces it)")
            seen |= error.revisions
            await _until_done(client, error.revisions, ends, turn)


async def _until_done(client: Client, revisions: Mapping[str, int], ends: float, turn: Turn) -> None:
    left = dict(revisions)
    watch = client.watch(patience_s=turn.timeout_s, lost=lambda why: turn.say(f"warning: {why}; trying again"))
    try:
        async with asyncio.timeout(max(0.0, ends - SYSTEM.monotonic())), contextlib.aclosing(watch) as statuses:
            async for status in statuses:
                left = under_way(status, revisions)
                if not left:
                    return
    except TimeoutError:
        what = ", ".join(f"revision {revision} of {name!r}" for name, revision in sorted(left.items()))
        hint = "repeat the command later, or replace that rollout with --supersede"
        text = f"not stored within {turn.timeout_s:g} s: {what} is still on its way; nothing was changed"
        raise DeadlineExceeded(text, hint=hint) from None


async def apply(
    client: Client,
    config: Config,
    file: ConfigFile | None,
    request: api.ApplyRequest | None = None,
    turn: Turn | None = None,
) -> api.ApplyResponse:
    """Make the goal state equal to `config`, as the rest of `request` says; at once, or when it is its `turn`.

    Raises InvalidConfig, with the places in `file` if there is one, Conflict, and DeadlineExceeded.
    """
    request = api.ApplyRequest() if request is None else request
    request.config.CopyFrom(wire.to_proto(config, pb.Config))

    async def work(seen: Mapping[str, int]) -> api.ApplyResponse:
        request.expected_revisions.update(seen)
        return await client.apply(request)

    try:
        return await (in_turn(client, turn, work) if turn is not None else work({}))
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
