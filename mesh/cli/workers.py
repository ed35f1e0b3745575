"""`drain`: a command about one worker.

Owns its words. Loads nothing heavy before it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.flags import ClientFlags, OutputFlags, WaitFlags

if TYPE_CHECKING:
    from mesh.cli.client import Client


def drain(
    worker: Annotated[str, typer.Argument(help="Id of a worker; meshctl workers lists them.", metavar="WORKER")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it take replicas again.")] = False,
    *,
    wait: WaitFlags,
    client: ClientFlags,
    output: OutputFlags,
) -> None:
    """Empty a worker: its replicas are replaced on others first, and nothing new is placed on it.

    No request is lost by it. Where there is no room elsewhere, replicas stay and serve on until there is.

    \b
    Examples:
      meshctl drain gpu-1
      meshctl drain gpu-1 --timeout 60 -o json
      meshctl drain gpu-1 --undo
    """
    from mesh.cli import draining
    from mesh.cli.applications import call_control
    from mesh.cli.output_workers import drained
    from mesh.cli.terminal import say, style, write

    async def main(client: Client) -> None:
        async with client.within(wait.timeout, "not stored"):
            await client.drain_worker(worker, undo=undo)
        if undo or not wait.wait:
            found = next((w for w in (await client.workers()).workers if w.worker_id == worker), None)
        else:
            found = await draining.follow(client, worker, timeout_s=wait.timeout, say=say)
        write(drained(worker, found, style(output.output)))

    call_control(client, main)
