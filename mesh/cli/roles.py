"""`controlplane`, `worker` and `gateway`: one role in this process, for many hosts.

Owns the words of the three commands. Loads nothing heavy before one of them is called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli.flags import (
    ControlFlags,
    ControlPlaneFlags,
    ProcessFlags,
    TrustFlags,
    WorkerFlags,
    WorkerIdentityFlags,
)
from mesh.cli.gateway_flags import GatewayFlags
from mesh.cli.run import log_directory, state_directory
from mesh.settings import (
    CONTROL_PORT,
    GRPC_PORT,
    HTTP_PORT,
    LOOPBACK,
    ControlPlaneSettings,
    GatewaySettings,
    WorkerSettings,
    environment,
)

if TYPE_CHECKING:
    from mesh.lifecycle import Server, Stop


def controlplane(
    store: Annotated[
        str,
        typer.Option(help="etcd://HOST:PORT[,HOST:PORT…]/PREFIX, or sqlite:///FILE for a single one.", metavar="URL"),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[
        int, typer.Option("--port", "--control-port", min=0, max=65535, help="Port. 0: a free one.", metavar="PORT")
    ] = CONTROL_PORT,
    *,
    plane: ControlPlaneFlags,
    process: ProcessFlags,
    trust: TrustFlags,
) -> None:
    """Run a control plane. Several on one etcd elect a leader; any of them answers.

    \b
    Examples:
      meshctl controlplane --store etcd://10.0.0.5:2379,10.0.0.6:2379/mesh
      meshctl controlplane --store sqlite:////var/lib/mesh/mesh.db
      meshctl controlplane --store etcd://10.0.0.5:2379/mesh --host 10.0.0.7 --token-file token
    """
    wanted = ControlPlaneSettings(host=host, port=port, advertise=plane.advertise, store=store)
    settings = plane.applied(trust.applied(wanted))

    def made() -> tuple[Server, Callable[[], dict[str, str]]]:
        from mesh.clock import SYSTEM
        from mesh.controlplane.server import ControlPlane

        server = ControlPlane(settings, SYSTEM)
        return server, lambda: {"control": server.address}

    _serve("control plane", made, process, ("the control plane", host, port, "--port"))


def worker(
    host: Annotated[str, typer.Option(help="Address that replicas listen on and gateways reach.")] = LOOPBACK,
    max_replicas: Annotated[int, typer.Option(min=1, help="Replicas it runs at most.", metavar="COUNT")] = 100,
    drain_timeout: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Time for its replicas to be replaced on other workers when it ends; 0: they are drained at once.",
            metavar="SECONDS",
            show_default="longest graceful_shutdown_timeout_s of them + 30",
        ),
    ] = None,
    *,
    identity: WorkerIdentityFlags,
    control: WorkerFlags,
    process: ProcessFlags,
) -> None:
    """Run a worker, which runs replicas on this host.

    \b
    Examples:
      meshctl worker --control 10.0.0.7:7070 --host 10.0.0.20 --token-file token
      MESH_ADDRESS=10.0.0.7:7070 meshctl worker --id gpu-1
    """
    data_dir = identity.data_dir or (state_directory(environment()) if identity.worker_id else None)
    base = WorkerSettings(
        identity.worker_id,
        host,
        control.addresses(),
        max_replicas,
        control.security(),
        drain_timeout,
        log_dir=log_directory(data_dir, identity.worker_id),
    )
    settings = control.applied(base)

    def made() -> tuple[Server, Callable[[], dict[str, str]]]:
        from mesh.clock import SYSTEM
        from mesh.worker.server import Worker

        return Worker(settings, SYSTEM), dict

    _check_name(identity.worker_id)
    _serve("worker", made, process)


def gateway(
    host: Annotated[str, typer.Option(help="Address for HTTP and gRPC.")] = LOOPBACK,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for HTTP. 0: a free one.", metavar="PORT")
    ] = HTTP_PORT,
    grpc_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for gRPC. 0: a free one.", metavar="PORT")
    ] = GRPC_PORT,
    *,
    limits: GatewayFlags,
    control: ControlFlags,
    process: ProcessFlags,
) -> None:
    """Run a gateway: HTTP and gRPC in front of the replicas.

    \b
    Examples:
      meshctl gateway --control 10.0.0.7:7070,10.0.0.8:7070 --host 0.0.0.0
      meshctl gateway --port 0 --grpc-port 0 --admin-port 0
      meshctl gateway --processes 4
    """
    base = GatewaySettings(host=host, port=port, grpc_port=grpc_port, control=control.addresses())
    settings = limits.applied(dataclasses.replace(base, security=control.security()))

    def made() -> tuple[Server, Callable[[], dict[str, str]]]:
        from mesh.cli.gateway_processes import GatewayProcesses
        from mesh.clock import SYSTEM
        from mesh.gateway.server import Gateway

        server: Gateway | GatewayProcesses = Gateway(settings, SYSTEM)
        if limits.processes > 1:
            server = GatewayProcesses(settings, process.logs(), limits.processes, SYSTEM)
        return server, lambda: {"http": f"http://{server.http_address}", "grpc": server.grpc_address}

    http, grpc = ("HTTP", host, port, "--port"), ("gRPC", host, grpc_port, "--grpc-port")
    _serve("gateway", made, process, http, grpc)


def _check_name(worker_id: str) -> None:
    from mesh.serving.options import name_problem

    if worker_id and (wrong := name_problem(worker_id)):
        raise typer.BadParameter(wrong, param_hint="--id")


def _serve(
    role: str,
    made: Callable[[], tuple[Any, Callable[[], dict[str, str]]]],
    process: ProcessFlags,
    *listeners: tuple[str, str, int, str],
) -> None:
    """Host one server until the process is asked to end.

    `made` returns it and how to ask for its addresses; `listeners` are the fields of its `ports.Listener`s.
    """
    from mesh import lifecycle
    from mesh.cli.output import ready
    from mesh.cli.ports import Listener, check
    from mesh.cli.process import hosted
    from mesh.cli.terminal import style, write
    from mesh.telemetry import configure_logs

    configure_logs(role.replace(" ", ""), process.logs())

    admin = Listener("metrics and probes", process.admin_host, process.admin_port, "--admin-port")
    check([*(Listener(*fields) for fields in listeners), admin])

    async def main(stop: Stop) -> int:
        async with hosted((role,), process.admin_host, process.admin_port) as host:
            server, addresses = made()
            await host.start(role, server)
            at = {**addresses(), "admin": host.admin_url}
            write(ready((role,), at, style(process.output)))
            await stop.wait()
        return 0

    raise typer.Exit(lifecycle.run(main))
