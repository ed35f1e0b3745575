"""Waiting until a worker is empty.

Owns the wait's time limit and its progress lines. Called by `workers`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from mesh.cli.client import Client
from mesh.cli.output import enum_name
from mesh.errors import Conflict, DeadlineExceeded
from mesh.v1 import deployment_pb2 as pb


async def follow(
    client: Client, worker_id: str, *, timeout_s: float, say: Callable[[str], None]
) -> pb.WorkerStatus | None:
    """Wait until a worker is drained and return its status; None if it has gone meanwhile.

    Raises Conflict if somebody undid it meanwhile, DeadlineExceeded after `timeout_s` seconds, with what it waits for.
    """
    said = state = ""
    watch = client.watch(patience_s=timeout_s, lost=lambda why: say(f"warning: {why}; trying again"))
    try:
        async with asyncio.timeout(max(0.0, timeout_s - client.age_s)), contextlib.aclosing(watch) as statuses:
            async for status in statuses:
                found = next((worker for worker in status.workers if worker.worker_id == worker_id), None)
                if found is None or found.state == pb.WORKER_STATE_DRAINED:
                    return found
                if found.state == pb.WORKER_STATE_READY:
                    text = f"worker {worker_id!r} is drained no more: somebody undid it meanwhile"
                    raise Conflict(text, hint="see meshctl workers")
                state = found.message or enum_name(pb.WorkerState.DESCRIPTOR, found.state).lower()
                if state != said:
                    said = state
                    say(f"{worker_id}: {said}")
    except TimeoutError:
        why = client.trouble or state or "not seen yet"
        hint = "it goes on; follow it with meshctl workers, or take it back with meshctl drain --undo"
        raise DeadlineExceeded(f"not drained within {timeout_s:g} s: {worker_id} ({why})", hint=hint) from None
    except asyncio.CancelledError:
        say("no longer waiting; the drain goes on")
        raise
    return None
