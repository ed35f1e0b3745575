"""Runs builds: one process per build that imports an application and says what is in it.

Owns their number and their time. A build leaves nothing behind: its process group is killed when it ends, is cancelled
or takes too long. Called by the agent.
"""

from __future__ import annotations

import asyncio
import logging

from google.protobuf.message import DecodeError

from mesh import wire
from mesh.clock import Clock
from mesh.errors import DeployFailed, EnvironmentFailed, InvalidConfig
from mesh.model import Failure, RuntimeEnv
from mesh.v1 import deployment_pb2, worker_service_pb2
from mesh.worker import env_vars
from mesh.worker.ahead import Ahead
from mesh.worker.environments.environment import Environment, in_place
from mesh.worker.environments.listener import Listener
from mesh.worker.environments.prepare import Environments, Prepared
from mesh.worker.failures import IN_WORKER_LOG, failure_of, process_failure
from mesh.worker.launch import LENGTH_BYTES
from mesh.worker.output import LINES_KEPT, Output
from mesh.worker.process import Child
from mesh.worker.replica_log import log_line
from mesh.worker.session import late_environment
from mesh.worker.spawn import BUILD, Launch
from mesh.worker.watchdog import Watchdog

RUNNING_MAX = 2
PENDING_MAX = 64
"""Builds asked for and not answered, the running ones included."""
_RESULT_BYTES_MAX = 4 * 1024 * 1024

log = logging.getLogger("mesh.worker")


class Builds:
    """The builds of one worker."""

    def __init__(
        self, environments: Environments, watchdog: Watchdog, clock: Clock, ahead: Ahead | None = None
    ) -> None:
        self._environments = environments
        self._watchdog = watchdog
        self._ahead = ahead
        self._clock = clock
        # Apart: a build whose environment took its time must not make another one wait longer than it may.
        self._free = {prepared: asyncio.Semaphore(RUNNING_MAX) for prepared in (False, True)}
        self._pending = 0

    async def build(self, request: worker_service_pb2.Build) -> worker_service_pb2.BuildResult:
        """Return the result of one build, good or bad. Cancelling ends its process."""
        if self._pending >= PENDING_MAX:
            text = f"the worker has {PENDING_MAX} builds to do already"
            return _failed(request, Failure(text, hint="try again later"))
        self._pending += 1
        env = wire.from_proto(request.config.runtime_env, RuntimeEnv)
        try:
            prepared = await self._prepared(request, env)
        except EnvironmentFailed as error:
            failure = failure_of(error)
            log.error("environment is not ready: %s", failure.message, extra=_labels(request))
            return _failed(request, failure)
        else:
            try:
                result = await self._import(request, prepared.environment, self._free[in_place(env) is None])
                if prepared.environment.resolved != env and not result.HasField("failure"):
                    pinned = wire.to_proto(prepared.environment.resolved, deployment_pb2.RuntimeEnv)
                    result.runtime_env.CopyFrom(pinned)
                return result
            finally:
                prepared.release()
        finally:
            self._pending -= 1

    async def _prepared(self, request: worker_service_pb2.Build, env: RuntimeEnv) -> Prepared:
        doing = ""

        def say(message: str) -> None:
            nonlocal doing
            doing = message

        try:
            async with asyncio.timeout(self._environments.timeout_s):
                return await self._environments.prepare(env, Listener(_labels(request), say))
        except TimeoutError:
            late = late_environment(self._environments.timeout_s, doing)
            raise EnvironmentFailed(late.message, hint=late.hint, field=late.field) from None

    async def _import(
        self, request: worker_service_pb2.Build, environment: Environment, free: asyncio.Semaphore
    ) -> worker_service_pb2.BuildResult:
        try:
            async with free, asyncio.timeout(request.timeout_s):
                return await self._run(request, environment)
        except TimeoutError:
            path = request.config.import_path
            text = f"importing {path!r} did not end within {request.timeout_s:g} s"
            return _failed(request, Failure(text, "import_path", "move slow work into the constructor"))

    async def _run(self, request: worker_service_pb2.Build, environment: Environment) -> worker_service_pb2.BuildResult:
        labels, runtime_env = _labels(request), environment.runtime_env
        config = deployment_pb2.ApplicationConfig()
        config.CopyFrom(request.config)
        config.runtime_env.CopyFrom(wire.to_proto(runtime_env, deployment_pb2.RuntimeEnv))
        output, said = Output(), bytearray()

        def printed(data: bytes) -> None:
            for line in output.feed(data, self._clock.monotonic()):
                log_line(line, labels)

        def hear(data: bytes) -> None:
            if len(said) + len(data) <= _RESULT_BYTES_MAX:
                said.extend(data)

        try:
            launch = Launch(
                module=BUILD,
                payload=config.SerializeToString(),
                python=environment.python,
                working_dir=runtime_env.working_dir,
                env_vars=env_vars.resolved(runtime_env),
            )
            child = Child(launch, self._watchdog, self._ahead, on_output=printed, on_status=hear)
        except (DeployFailed, InvalidConfig) as error:
            return _failed(request, failure_of(error))
        try:
            ending = await child.wait()
        finally:
            await child.close()
        for line in output.end():
            log_line(line, labels)
        try:
            result = _parsed(bytes(said))
        except DecodeError:
            text = f"importing {request.config.import_path!r} ended the process: it {_past(ending)}"
            return _failed(request, process_failure(text, output.tail(LINES_KEPT), IN_WORKER_LOG))
        result.build_id = request.build_id
        if result.HasField("failure"):
            told = {**labels, **({"traceback": result.failure.details} if result.failure.details else {})}
            log.error("build failed: %s", result.failure.message, extra=told)
        return result


def _labels(request: worker_service_pb2.Build) -> dict[str, str]:
    return {"application": request.config.name, "build": request.build_id}


def _parsed(said: bytes) -> worker_service_pb2.BuildResult:
    length = int.from_bytes(said[:LENGTH_BYTES], "big")
    body = said[LENGTH_BYTES:]
    if len(said) < LENGTH_BYTES or len(body) != length:
        raise DecodeError("the build said nothing, or not all")
    return worker_service_pb2.BuildResult.FromString(body)


def _failed(request: worker_service_pb2.Build, failure: Failure) -> worker_service_pb2.BuildResult:
    message = wire.to_proto(failure, deployment_pb2.Failure)
    return worker_service_pb2.BuildResult(build_id=request.build_id, failure=message)


def _past(ending: str) -> str:
    return f"was {ending}" if ending.startswith("killed") else ending
