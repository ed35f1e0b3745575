"""One of several gateway processes that share their ports: `python -m mesh.cli.gateway_process --parent PID`.

Started by `gateway_processes`, which sends what to run on stdin and keeps that open as the lifeline. Says on stdout, in
one line of JSON, where it listens or why it cannot. Owns nothing else: the gateway is that of `mesh.gateway`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from mesh import lifecycle
from mesh.cli.process import hosted
from mesh.clock import SYSTEM
from mesh.errors import Conflict, MeshError
from mesh.gateway.server import Gateway
from mesh.security import Security
from mesh.settings import LOOPBACK, GatewaySettings, LogSettings
from mesh.telemetry import configure_logs
from mesh.worker.launch import read_message, take_stdin


def message(settings: GatewaySettings, logs: LogSettings) -> bytes:
    """Return what tells such a process what to run. It has no secret in it: it names files."""
    return json.dumps({"settings": dataclasses.asdict(settings), "logs": dataclasses.asdict(logs)}).encode()


def parsed(text: bytes) -> tuple[GatewaySettings, LogSettings]:
    """Return what `message` was made of."""
    found = json.loads(text)
    fields: dict[str, Any] = found["settings"]
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    settings = GatewaySettings(**{**fields, **lists, "security": Security(**fields["security"])})
    return settings, LogSettings(**found["logs"])


async def serve(settings: GatewaySettings, stop: lifecycle.Stop) -> int:
    """Run the gateway until told to stop. Returns the exit code."""
    async with hosted(("gateway",), LOOPBACK, 0) as host:
        server = Gateway(settings, SYSTEM)
        await host.start("gateway", server)
        _say({"http": server.http_address, "grpc": server.grpc_address, "admin": host.admin_url})
        await stop.wait()
    return 0


def main() -> int:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="mesh.cli.gateway_process")
    parser.add_argument("--parent", type=int, required=True)
    parent: int = parser.parse_args().parent
    lifeline = take_stdin()
    settings, logs = parsed(read_message(lifeline))
    lifecycle.bind_to_parent(parent, lifeline)
    configure_logs("gateway", logs)
    try:
        return lifecycle.run(lambda stop: serve(settings, stop))
    except MeshError as error:
        _say({"error": error.message, "hint": error.hint, "conflict": isinstance(error, Conflict)})
        return 1


def _say(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
