"""Flags of a gateway's limits, and of how it ends.

Owns flag names and help texts. Decides nothing. Imported by `roles`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from mesh.settings import MESSAGE_BYTES_MAX, GatewaySettings

PROCESSES_MAX = 256


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayFlags:
    """Time limits of a gateway."""

    request_timeout_s: Annotated[
        float,
        typer.Option(min=0.001, help="Time limit of a request where nobody sets a lower one.", metavar="SECONDS"),
    ] = 60.0
    drain_delay_s: Annotated[
        float,
        typer.Option(
            "--drain-delay",
            min=0,
            help="Time to serve on, unready, when it ends: until load balancers have noticed.",
            metavar="SECONDS",
        ),
    ] = 0.0
    drain_timeout_s: Annotated[
        float,
        typer.Option(
            "--drain-timeout",
            "--drain-timeout-s",
            min=0,
            help="Time after that for clients to go elsewhere and running requests to end.",
            metavar="SECONDS",
        ),
    ] = 20.0
    grpc_connection_age_s: Annotated[
        float,
        typer.Option(
            "--grpc-connection-age",
            min=0,
            help="Time after which gRPC clients are asked to connect anew, as they are when it ends; 0: never.",
            metavar="SECONDS",
        ),
    ] = 15.0
    keep_alive_timeout_s: Annotated[
        float,
        typer.Option(
            "--keep-alive-timeout",
            min=0.001,
            max=86_400,
            help="Time after which an idle HTTP/1.1 connection is closed; longer than the load balancer keeps its own.",
            metavar="SECONDS",
        ),
    ] = 75.0
    message_bytes_max: Annotated[
        int,
        typer.Option("--message-bytes", min=1024, max=256 * 1024 * 1024, help="Bytes of one gRPC message, at most."),
    ] = MESSAGE_BYTES_MAX
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            max=PROCESSES_MAX,
            help="Processes that share the ports, each with limits and queues of its own.",
            metavar="COUNT",
        ),
    ] = 1

    def applied(self, base: GatewaySettings) -> GatewaySettings:
        """Return the settings with these values in them."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "processes"}
        return dataclasses.replace(base, **own)
