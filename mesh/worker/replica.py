"""The replica process: one instance of one deployment behind a gRPC listener.

`python -m mesh.worker.replica --status-fd N --parent PID --host HOST`, started by the supervisor, which sends a
length-prefixed ReplicaSpec on stdin, then what is around it, and keeps stdin open as the lifeline. Owns the process's
life: construct, listen, report, drain, exit. Asks control planes for nothing but the snapshots that handles route by.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import faulthandler
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from mesh import connection, lifecycle, wire
from mesh.clock import SYSTEM
from mesh.credentials import Credentials
from mesh.errors import MeshError, Unreachable, UserCodeError
from mesh.liveness import pings_served
from mesh.model import DeploymentSettings, ReplicaSpec
from mesh.pipe.callee import Callee
from mesh.pipe.served_call import ServedCall
from mesh.pipe.service import add_replica_service
from mesh.serving import current_request
from mesh.serving.asgi import AsgiApplication
from mesh.serving.current_request import CurrentRequest, Place
from mesh.serving.threads import Threads
from mesh.settings import MESSAGE_BYTES_MAX, LogSettings
from mesh.telemetry import REPLICA_ONGOING, AdminListener, configure_logs
from mesh.v1 import deployment_pb2, replica_service_pb2, replica_service_pb2_grpc
from mesh.worker import current_call
from mesh.worker.failures import failure_of
from mesh.worker.grpc_calls import GrpcCalls
from mesh.worker.handle_calls import HandleCalls
from mesh.worker.handler import Handler
from mesh.worker.handles import Handles
from mesh.worker.health import Health
from mesh.worker.instance import Instance, construct
from mesh.worker.launch import Surroundings, enter, read_message, take_stdin
from mesh.worker.listening import with_port
from mesh.worker.thread_limit import allow_threads

if TYPE_CHECKING:
    from mesh.worker.asgi_calls import AsgiCalls

log = logging.getLogger("mesh.replica")

LOAD_REPORT_S = 1.0
HEALTH_AGAIN_S_MAX = 1.0
"""Seconds between the checks before it is ready: its callers wait for it."""
SHUTDOWN_S = 1.0
"""Seconds for an application's shutdown after the last request, if the drain took all of its time."""
STOP_S = 1.0
"""Seconds for the last answers to leave when the process ends."""
SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    *pings_served(),
)


class Replica(replica_service_pb2_grpc.ReplicaServiceServicer):
    """`ReplicaService` over one instance of user code."""

    def __init__(self, spec: ReplicaSpec, instance: Instance, place: Place) -> None:
        settings = spec.settings
        self.settings = settings
        self.health = Health(spec.deployment, instance.target)
        self._instance = instance
        self._threads = Threads(settings.max_ongoing_requests, thread_name_prefix=spec.deployment)
        self._methods = GrpcCalls(place, instance.methods, self._threads)
        self._asgi = _hosting(place, instance.asgi) if instance.asgi is not None else None
        self._handler = Handler(place, instance.target, self._threads) if callable(instance.target) else None
        self._by_handles = HandleCalls(place, instance.target, self._threads)
        self.callee = Callee(settings.max_ongoing_requests, self._serve)
        self._models = place.models
        self._models.changed = lambda: self.callee.tell_models(self._models.model_ids)
        self._models.changed()
        gauge = REPLICA_ONGOING.labels(spec.application, spec.deployment)
        gauge.set_function(lambda: self.callee.slots.ongoing)

    async def begin(self) -> None:
        """Get ready to serve. Raises UserCodeError if the application's startup failed."""
        if self._asgi is not None:
            allow_threads(self.settings.max_ongoing_requests)
            await self._asgi.lifespan.start()

    async def end(self) -> None:
        """Run the application's shutdown and unload its models, once nothing is served any more."""
        if self._asgi is not None:
            await self._asgi.lifespan.stop()
        await self._models.unload_all()

    async def Pipe(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: D102
        await self.callee.serve_pipe(context)

    async def Configure(self, request: Any, context: Any) -> Any:  # noqa: D102
        settings = wire.from_proto(request.settings, DeploymentSettings)
        try:
            await self._instance.reconfigure(settings.user_config_json)
        except UserCodeError as error:
            log.error("reconfigure failed: %s", error.message, extra={"traceback": error.traceback})
            failure = wire.to_proto(failure_of(error), deployment_pb2.Failure)
            return replica_service_pb2.ConfigureResponse(failure=failure)
        self.settings = settings
        self._threads.resize(self.settings.max_ongoing_requests)
        if self._asgi is not None:
            allow_threads(self.settings.max_ongoing_requests)
        self.callee.resize(self.settings.max_ongoing_requests)
        return replica_service_pb2.ConfigureResponse()

    async def CheckHealth(self, request: Any, context: Any) -> Any:  # noqa: D102
        failure = await self.health.check()
        told = wire.to_proto(failure, deployment_pb2.Failure) if failure is not None else None
        return replica_service_pb2.CheckHealthResponse(failure=told)

    async def close(self) -> None:
        """Cancel what still runs and end the pipes."""
        await self._methods.close()
        await self._by_handles.close()
        if self._asgi is not None:
            await self._asgi.close()
        if self._handler is not None:
            await self._handler.close()
        self._threads.close()
        self.callee.close()

    def _serve(self, call: ServedCall) -> Callable[[], object]:
        if call.head.handle and not self._methods.has(call.head.method):
            return self._by_handles.serve(call)
        if call.head.grpc or call.head.handle:
            return self._methods.serve(call)
        if self._asgi is not None:
            return self._asgi.serve(call)
        if call.head.websocket:
            call.answer(501, [], b"")
            return _nothing
        if self._handler is not None:
            return self._handler.serve(call)
        # The gateway knows what a deployment serves; it asked by an older snapshot.
        call.answer(404, [b"content-type", b"text/plain"], b"this deployment serves gRPC only\n")
        return _nothing


def _hosting(place: Place, hosted: AsgiApplication) -> AsgiCalls:
    from mesh.worker.asgi_calls import AsgiCalls  # not at the top: replicas that host none need less memory

    return AsgiCalls(place, hosted)


def _nothing() -> None:
    """Cancel a call that is over."""


@dataclasses.dataclass(frozen=True, slots=True)
class Launched:
    """What the worker said: what to run, what is around it, which address to listen on."""

    spec: ReplicaSpec
    surroundings: Surroundings
    host: str


class Status:
    """The line to the supervisor: one JSON object a line."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "w", buffering=1)

    def send(self, **fields: Any) -> None:
        """Send one line. A supervisor that is gone is none of our business: the lifeline ends us."""
        with contextlib.suppress(OSError):
            self._file.write(json.dumps(fields) + "\n")


async def serve(launched: Launched, status: Status, stop: lifecycle.Stop) -> int:
    """Construct the instance, listen until told to stop, drain. Returns the exit code."""
    spec, host = launched.spec, launched.host
    credentials = Credentials(launched.surroundings.security)
    place = Place(spec.application, spec.deployment, asyncio.get_running_loop())
    # Constructors and hooks serve no request, but they run here.
    current_request.enter(CurrentRequest(place))
    handles = Handles(spec.replica_id, launched.surroundings.control, credentials, SYSTEM, spec.application)
    handles.install()
    instance = construct(spec)
    await instance.reconfigure(spec.settings.user_config_json)
    replica = Replica(spec, instance, place)
    await replica.begin()
    server = connection.server(credentials, SERVER_OPTIONS)
    health = health_aio.HealthServicer()
    await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    add_replica_service(replica, server)
    port = connection.bind(server, with_port(host, 0), credentials)
    await server.start()
    admin = AdminListener(host, 0, {"draining": lambda: "draining" if replica.callee.draining else ""})
    tasks = lifecycle.Tasks()

    async def begin() -> None:
        await first_check(replica, status)
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        status.send(state="ready", address=with_port(host, port), admin_address=admin.address)
        tasks.spawn(report_load(replica, status), name="load-report")
        lifecycle.tune_memory()

    tasks.spawn(begin(), name="begin")
    await stop.wait()
    # The worker knows, unless the signal was not its own.
    status.send(state="draining")
    await health.enter_graceful_shutdown()
    clock = asyncio.get_running_loop().time
    ends = clock() + replica.settings.graceful_shutdown_timeout_s
    async with lifecycle.deadline(ends - clock(), "running requests"):
        await replica.callee.drain()
    async with lifecycle.deadline(max(SHUTDOWN_S, ends - clock()), "the application's shutdown"):
        await replica.end()
    await tasks.cancel()
    await replica.close()
    await handles.close()
    await server.stop(STOP_S)
    admin.stop()
    return 0


async def first_check(replica: Replica, status: Status) -> None:
    """Return when a health check has passed for the first time. Its worker ends a replica that takes too long."""
    settings = replica.settings
    while (failure := await replica.health.check_within(settings.health_check_timeout_s)) is not None:
        status.send(state="unwell", **dataclasses.asdict(failure))
        log.warning("not healthy yet: %s", failure.message, extra={"traceback": failure.details})
        await asyncio.sleep(min(settings.health_check_period_s, HEALTH_AGAIN_S_MAX))


async def report_load(replica: Replica, status: Status) -> None:
    """Tell the supervisor how many requests run, at most once a second and only if that changed."""
    told = 0
    while True:
        replica.callee.tick()
        await asyncio.sleep(LOAD_REPORT_S)
        if (ongoing := replica.callee.slots.ongoing) != told:
            told = ongoing
            status.send(state="load", ongoing_requests=ongoing)


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="mesh.worker.replica")
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--log-format", default="auto")
    arguments = parser.parse_args()
    # What native code dies of is printed, with the line of Python that called it.
    faulthandler.enable(all_threads=False)
    os.set_inheritable(arguments.status_fd, False)
    lifeline = take_stdin()
    # Loads what it needs, while there is nothing to do yet.
    lifecycle.loop_factory()
    try:
        spec = wire.from_proto(deployment_pb2.ReplicaSpec.FromString(read_message(lifeline)), ReplicaSpec)
        surroundings = Surroundings.of(read_message(lifeline))
    except Unreachable:
        sys.exit(1)
    lifecycle.bind_to_parent(arguments.parent, lifeline)
    enter(spec.config.runtime_env.working_dir)
    configure_logs("replica", LogSettings(format=arguments.log_format), current_call.fields)
    status = Status(arguments.status_fd)
    try:
        code = lifecycle.run(lambda stop: serve(Launched(spec, surroundings, arguments.host), status, stop))
    except MeshError as error:
        status.send(state="failed", **dataclasses.asdict(failure_of(error)))
        sys.exit(1)
    # Threads of sync handlers that never return must not keep the process.
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
