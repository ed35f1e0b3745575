"""One running process of a replica: what it says on its status pipe, how it answers checks, which settings it took.

Owns the process and the tasks around it, from launch to exit. Decides nothing: what happens is told to the supervisor.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mesh import wire
from mesh.backoff import Backoff
from mesh.clock import Clock
from mesh.credentials import Credentials
from mesh.errors import Unreachable
from mesh.lifecycle import Tasks
from mesh.model import DeploymentSettings, Failure, ReplicaSpec
from mesh.reasons import Reason
from mesh.v1 import deployment_pb2
from mesh.worker import env_vars
from mesh.worker.ahead import Ahead
from mesh.worker.environments.environment import Environment
from mesh.worker.environments.prepare import Environments
from mesh.worker.failures import cut_front, process_failure
from mesh.worker.launch import Surroundings
from mesh.worker.logs.keeper import Keeper, ProcessLog
from mesh.worker.logs.lines import Source
from mesh.worker.output import LINES_KEPT, Output
from mesh.worker.process import EXITED_WELL, Child
from mesh.worker.replica_client import ReplicaClient
from mesh.worker.replica_log import ReplicaLog
from mesh.worker.spawn import REPLICA, Launch, replica_arguments
from mesh.worker.watchdog import Watchdog

_STATUS_BYTES_MAX = 1024 * 1024
_DETAILS_CHARS_MAX = 3000
"""Of a replica's failure: it goes with each report."""
_CONFIGURE_AGAIN = Backoff(initial_s=1.0, max_s=30.0, floor=0.5)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the replicas of one worker have in common."""

    watchdog: Watchdog
    environments: Environments
    keeper: Keeper
    control: tuple[str, ...] = ()
    """host:port of each control plane."""
    ahead: Ahead | None = None
    """Processes launched before they were needed."""


class Events(Protocol):
    """Who is told what happens to a replica."""

    def ready(self, replica_id: str, address: str, admin_address: str) -> None:
        """It listens."""

    def draining(self, replica_id: str) -> None:
        """It takes nothing new and is going to exit: somebody told its process to end."""

    def loaded(self, replica_id: str, ongoing_requests: int) -> None:
        """It says how many requests it runs."""

    def failed(self, replica_id: str, failure: Failure) -> None:
        """It says why it is going to exit."""

    def probed(self, replica_id: str, failure: Failure | None) -> None:
        """A health check ended; `failure` is None if it is well."""

    def configured(self, replica_id: str, settings: DeploymentSettings) -> None:
        """It took these settings."""

    def not_configured(self, replica_id: str, message: str) -> None:
        """It did not answer to new settings."""

    def refused(self, replica_id: str, settings: DeploymentSettings, failure: Failure) -> None:
        """Its code refused these settings."""

    def settings(self, replica_id: str) -> DeploymentSettings:
        """Return the settings last assigned to it."""
        ...


class Running:
    """A replica's process and what goes on around it."""

    def __init__(
        self, spec: ReplicaSpec, output: Output, events: Events, credentials: Credentials, clock: Clock
    ) -> None:
        self.replica_id = spec.replica_id
        self.labels = {"application": spec.application, "deployment": spec.deployment, "replica": spec.replica_id}
        self._spec = spec
        self._output = output
        self._events = events
        self._credentials = credentials
        self._clock = clock
        self._said = bytearray()
        self._terminated = False
        self._log = ReplicaLog(self.labels)
        self._kept: ProcessLog | None = None
        self._child: Child | None = None
        self._client: ReplicaClient | None = None
        self._tasks = Tasks()
        self._probing: asyncio.Task[None] | None = None
        self._configuring: asyncio.Task[None] | None = None

    def start(self, environment: Environment, host: str, shared: Shared) -> int:
        """Start the process in an environment that is ready; return its id. Raises DeployFailed or InvalidConfig."""
        runtime_env = environment.runtime_env
        spec = replace(self._spec, config=replace(self._spec.config, runtime_env=runtime_env))
        launch = Launch(
            module=REPLICA,
            payload=wire.to_proto(spec, deployment_pb2.ReplicaSpec).SerializeToString(),
            arguments=replica_arguments(host),
            python=environment.python,
            working_dir=runtime_env.working_dir,
            env_vars=env_vars.resolved(runtime_env),
            surroundings=Surroundings(self._credentials.security, shared.control),
        )
        self._child = Child(launch, shared.watchdog, shared.ahead, on_output=self._printed, on_status=self._hear)
        self._kept = shared.keeper.open(Source(self._spec.application, self._spec.deployment, self.replica_id))
        return self._child.pid

    def terminate(self) -> None:
        """Ask it to drain and exit."""
        self.rest()
        if self._child is not None:
            self._child.terminate()

    def rest(self) -> None:
        """It drains: how well it is does not matter from here on, nor what it prints last."""
        self._terminated = True
        if self._probing is not None:
            self._probing.cancel()

    def kill(self) -> None:
        """Kill it and its group now."""
        if self._child is not None:
            self._child.kill()

    async def wait(self) -> Failure:
        """Wait until it and all around it are gone. Returns how it ended, unasked with its last lines."""
        assert self._child is not None
        try:
            ending = await self._child.wait()
        finally:
            await self._child.close()
        await self._tasks.cancel()
        if self._client is not None:
            await self._client.close()
        self._take(self._output.end())
        if self._kept is not None:
            words = ending if ending.startswith("exited") else f"was {ending}"
            self._kept.end(words, "INFO" if self._terminated or ending == EXITED_WELL else "ERROR")
        return bounded(process_failure(ending, "" if self._terminated else self._output.tail(LINES_KEPT)))

    def configure(self, settings: DeploymentSettings) -> None:
        """Put settings in force, again and again until it takes them or others are given."""
        if self._configuring is not None:
            self._configuring.cancel()
        self._configuring = self._tasks.spawn(self._configure(settings), name=f"configure-{self.replica_id}")

    async def _configure(self, settings: DeploymentSettings) -> None:
        assert self._client is not None
        attempt = 0
        while True:
            try:
                refusal = await self._client.configure(settings)
            except Unreachable as error:
                self._events.not_configured(self.replica_id, error.message)
            else:
                if refusal is None:
                    self._events.configured(self.replica_id, settings)
                    return
                self._events.refused(self.replica_id, settings, bounded(refusal))
            await asyncio.sleep(_CONFIGURE_AGAIN.pause_s(attempt, self._clock.random))
            attempt += 1

    async def _probe(self) -> None:
        assert self._client is not None
        # Replicas that became ready together are not probed together.
        pause_s = self._events.settings(self.replica_id).health_check_period_s * self._clock.random()
        while True:
            await asyncio.sleep(pause_s)
            settings = self._events.settings(self.replica_id)
            pause_s = settings.health_check_period_s
            failure = await self._client.check(settings.health_check_timeout_s)
            self._events.probed(self.replica_id, bounded(failure) if failure is not None else None)

    def _printed(self, data: bytes) -> None:
        if data:
            self._take(self._output.feed(data, self._clock.monotonic()))

    def _take(self, lines: list[str]) -> None:
        self._log.log(lines, self._clock.monotonic())
        if lines and self._kept is not None:
            self._kept.write(lines)

    def _hear(self, data: bytes) -> None:
        self._said += data
        *lines, rest = self._said.split(b"\n")
        self._said = rest[:_STATUS_BYTES_MAX]
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict):
                self._told(said)

    def _told(self, said: dict[str, Any]) -> None:
        if said.get("state") == "ready" and self._client is None:
            address = str(said["address"])
            self._client = ReplicaClient(address, self._credentials)
            self._probing = self._tasks.spawn(self._probe(), name=f"probe-{self.replica_id}")
            self._events.ready(self.replica_id, address, str(said.get("admin_address", "")))
        elif said.get("state") == "draining" and self._client is not None:
            self._events.draining(self.replica_id)
        elif said.get("state") == "load":
            self._events.loaded(self.replica_id, int(said["ongoing_requests"]))
        elif said.get("state") == "failed":
            self._events.failed(self.replica_id, _failure_in(said))
        elif said.get("state") == "unwell" and self._client is None:
            self._events.probed(self.replica_id, _failure_in(said))


def _failure_in(said: dict[str, Any]) -> Failure:
    message, field, hint, details = (str(said.get(key, "")) for key in ("message", "field", "hint", "details"))
    reason = said.get("reason")
    return bounded(Failure(message, field, hint, details, Reason(reason if isinstance(reason, int) else 0)))


def bounded(failure: Failure) -> Failure:
    """Return a replica's failure without what is too much of it."""
    return replace(failure, details=cut_front(failure.details, _DETAILS_CHARS_MAX))
