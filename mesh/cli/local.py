"""A whole mesh in this process: control plane, worker and gateway, with replicas as child processes.

Owns the assembly and what `run`, `start` and `--reload` do with it. Called by the commands `run` and `start`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TypeVar

from mesh import lifecycle
from mesh.cli import deploying, ports, reload, target, terminal
from mesh.cli.client import Client
from mesh.cli.config_file import GrpcOptions, HttpOptions
from mesh.cli.fail import ExitCode
from mesh.cli.flags import ListenFlags, Output, ProcessFlags
from mesh.cli.follow import Following
from mesh.cli.output import ready
from mesh.cli.process import Host, hosted, unless_stopped
from mesh.cli.target import Asked, Target
from mesh.clock import SYSTEM
from mesh.controlplane.server import ControlPlane
from mesh.credentials import Credentials
from mesh.errors import DeadlineExceeded, MeshError
from mesh.gateway.server import Gateway
from mesh.settings import GRPC_PORT, HTTP_PORT, LOOPBACK, ControlPlaneSettings, GatewaySettings, WorkerSettings
from mesh.telemetry import configure_logs
from mesh.v1.deployment_service_pb2 import ApplyRequest
from mesh.worker.ahead import Ahead
from mesh.worker.server import Worker

ROLES = ("control plane", "worker", "gateway")
WORKER_ID = "local"
"""The same after each restart, so that the control plane knows at once that this worker's old replicas are gone."""
DEPLOY_SECONDS = 3600.0
"""Bound of the wait for the first deploy; the control plane's own time limits end it long before."""
ROUTED_SECONDS = 30.0
"""Bound of the wait for the gateway once replicas are ready."""
_ROUTE_LOOK_SECONDS = 0.005
_T = TypeVar("_T")

log = logging.getLogger("mesh.cli")


@dataclass(frozen=True, slots=True)
class Local:
    """What to start here. Without a target nothing is deployed."""

    store: ControlPlaneSettings
    listen: ListenFlags
    process: ProcessFlags
    worker: WorkerSettings
    ahead: Ahead
    asked: Asked | None = None
    reload: bool = False


@dataclass(frozen=True, slots=True)
class _Mesh:
    """The parts that run."""

    host: Host
    control: ControlPlane
    gateway: Gateway
    credentials: Credentials

    @property
    def addresses(self) -> dict[str, str]:
        return {
            "http": f"http://{self.gateway.http_address}",
            "grpc": self.gateway.grpc_address,
            "control": self.control.address,
            "admin": self.host.admin_url,
        }


def serve(local: Local) -> int:
    """Serve until the process is asked to end; return the exit code. Raises MeshError when it cannot start."""
    goal = target.read(local.asked) if local.asked is not None else None
    configure_logs("mesh", local.process.logs())
    return lifecycle.run(lambda stop: _serve(local, goal, stop))


async def _serve(local: Local, goal: Target | None, stop: lifecycle.Stop) -> int:
    async with _started(local, goal) as mesh:
        seen = ""
        if goal is not None:
            if local.reload:
                seen = await asyncio.to_thread(reload.fingerprint, goal.directories)
                goal = goal.marked(seen)
            await unless_stopped(_deployed(mesh, goal), stop)
            local.ahead.close()
        if not stop.is_set():
            _say_ready(mesh, goal, local.process.output)
        if goal is not None and local.reload:
            await unless_stopped(_reloading(mesh, local, goal, seen), stop)
        await stop.wait()
    return ExitCode.OK


@contextlib.asynccontextmanager
async def _started(local: Local, goal: Target | None) -> AsyncIterator[_Mesh]:
    ports.check(_listeners(local, goal))
    async with hosted(ROLES, local.process.admin_host, local.process.admin_port) as host:
        security = local.store.security
        control = ControlPlane(replace(local.store, port=local.listen.control_port), SYSTEM)
        await host.start("control plane", control)
        at = (_here(control.address),)
        worker = replace(local.worker, worker_id=WORKER_ID, control=at, drain_timeout_s=0.0, security=security)
        await host.start("worker", Worker(worker, SYSTEM, local.ahead))
        gateway = Gateway(replace(_gateway_settings(local.listen, goal, at), security=security), SYSTEM)
        await host.start("gateway", gateway)
        yield _Mesh(host, control, gateway, Credentials(security))


def _listeners(local: Local, goal: Target | None) -> tuple[ports.Listener, ...]:
    gateway, process = _gateway_settings(local.listen, goal, ()), local.process
    return (
        ports.Listener("HTTP", gateway.host, gateway.port, "--port"),
        ports.Listener("gRPC", gateway.host, gateway.grpc_port, "--grpc-port"),
        ports.Listener("the control plane", local.store.host, local.listen.control_port, "--control-port"),
        ports.Listener("metrics and probes", process.admin_host, process.admin_port, "--admin-port"),
    )


def _gateway_settings(listen: ListenFlags, goal: Target | None, control: tuple[str, ...]) -> GatewaySettings:
    """A flag holds before the config file, the file before the default."""
    http = (goal.config.http_options if goal is not None else None) or HttpOptions()
    grpc = (goal.config.grpc_options if goal is not None else None) or GrpcOptions()
    return GatewaySettings(
        host=_first(listen.host, http.host, LOOPBACK),
        port=_first(listen.port, http.port, HTTP_PORT),
        grpc_port=_first(listen.grpc_port, grpc.port, GRPC_PORT),
        control=control,
        opens_with=tuple(application.name for application in goal.config.applications) if goal is not None else (),
        message_bytes_max=listen.message_bytes_max,
    )


async def _deployed(mesh: _Mesh, goal: Target) -> None:
    """Deploy and wait until requests reach it. Raises what `deploying.follow` raises."""
    async with Client((_here(mesh.control.address),), mesh.credentials) as client:
        response = await deploying.apply(client, goal.config, goal.file, ApplyRequest(supersede=True))
        following = Following.of(response.applications)
        await deploying.follow(client, following, goal.file, timeout_s=DEPLOY_SECONDS, say=log.info)
    try:
        async with asyncio.timeout(ROUTED_SECONDS):
            for application in goal.config.applications:
                while not mesh.gateway.serving(application.name):  # noqa: ASYNC110 - the gateway has no event for it
                    await asyncio.sleep(_ROUTE_LOOK_SECONDS)
    except TimeoutError:
        hint = "its log may tell why; then try again"
        raise DeadlineExceeded("the gateway has no route to what was deployed", hint=hint) from None


async def _reloading(mesh: _Mesh, local: Local, goal: Target, seen: str) -> None:
    """Deploy again after each change of the code. A change during a deploy ends the wait for that one."""
    tasks = lifecycle.Tasks()
    try:
        async with contextlib.aclosing(reload.changes(goal.directories, seen)) as changes:
            async for mark in changes:
                await tasks.cancel()
                tasks.spawn(_redeployed(mesh, local, mark), name="reload")
    finally:
        await tasks.cancel()


async def _redeployed(mesh: _Mesh, local: Local, mark: str) -> None:
    assert local.asked is not None
    log.info("code changed, reloading")
    try:
        goal = await asyncio.to_thread(target.read, local.asked)
        await _deployed(mesh, goal.marked(mark))
    except MeshError as error:
        terminal.complain(error)
        log.error("not reloaded; what served before serves on")
    else:
        log.info("reloaded")


def _say_ready(mesh: _Mesh, goal: Target | None, output: Output) -> None:
    applications = goal.config.applications if goal is not None else ()
    names = [application.name for application in applications] or list(ROLES)
    route = applications[0].route_prefix if len(applications) == 1 else ""
    terminal.write(ready(names, mesh.addresses, terminal.style(output), route=route or "/"))


def _here(address: str) -> str:
    """Return where this process itself reaches a listener."""
    host, _, port = address.rpartition(":")
    return {"0.0.0.0": f"{LOOPBACK}:{port}", "[::]": f"[::1]:{port}"}.get(host, address)


def _first(*values: _T | None) -> _T:
    return next(value for value in values if value is not None)
