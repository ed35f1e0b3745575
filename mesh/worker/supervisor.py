"""Runs the replicas that the roster wants: starts, watches, configures, drains and kills their processes.

Owns which processes run. What to do next is decided in `session`; one process and what goes on around it is `running`.
Never talks to the control plane. Called by the agent (assignments, statuses) and the server (drain, stop).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable

from mesh import lifecycle
from mesh.clock import Clock
from mesh.credentials import Credentials
from mesh.errors import DeployFailed, EnvironmentFailed, InvalidConfig
from mesh.lifecycle import Tasks
from mesh.model import DeploymentSettings, Failure, Generation, ReplicaSpec, ReplicaState, ReplicaStatus
from mesh.telemetry import REPLICA_CRASHES, REPLICA_STARTS
from mesh.worker.environments.environment import in_place
from mesh.worker.environments.listener import Listener
from mesh.worker.environments.prepare import Prepared
from mesh.worker.failures import failure_of
from mesh.worker.output import KEPT_PER_SECOND_MAX, Output
from mesh.worker.running import Running, Shared, bounded
from mesh.worker.session import Abandon, Action, Configure, Kill, Prepare, Roster, Start, Terminate

log = logging.getLogger("mesh.worker")

_STOP_TIMEOUT_S = 5.0


class Supervisor:
    """All replicas of one worker. `changed` is called, often, when a status may have changed."""

    def __init__(
        self,
        host: str,
        credentials: Credentials,
        clock: Clock,
        shared: Shared,
        changed: Callable[[], None],
    ) -> None:
        self._host = host
        self._credentials = credentials
        self._clock = clock
        self._shared = shared
        self._changed = changed
        self._environments = shared.environments
        self._roster = Roster(clock.random, shared.environments.timeout_s)
        self._epoch = clock.wall() - clock.monotonic()
        self._running: dict[str, Running] = {}
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._prepared: dict[str, Prepared] = {}
        """What replicas run in, or are about to start in again."""
        self._ended: dict[str, asyncio.Task[None]] = {}
        self._outputs: dict[str, Output] = {}
        self._tasks = Tasks()
        self._wake = asyncio.Event()

    def start(self) -> None:
        """Begin to keep time."""
        self._tasks.spawn(self._keep_time(), name="replica-deadlines")

    def assign(self, generation: Generation, specs: Iterable[ReplicaSpec], withdrawn: Collection[str] = ()) -> bool:
        """Run exactly these replicas from now on, and leave those with the ids in `withdrawn` as they are.

        Returns False, and changes nothing, if that is old news.
        """
        actions = self._roster.assign(generation, specs, self._clock.monotonic(), withdrawn)
        if actions is None:
            return False
        self._do(actions)
        return True

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        """Return how each replica is doing."""
        return self._roster.statuses(self._epoch)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to run."""
        return all(status.state is ReplicaState.STOPPED for status in self.statuses())

    @property
    def drain_s(self) -> float:
        """The longest time that a replica may take to finish what it runs."""
        return self._roster.drain_s

    def output(self, replica_id: str) -> tuple[str, ...]:
        """Return the last lines that a replica printed, those of its earlier processes included."""
        output = self._outputs.get(replica_id)
        return tuple(output.lines) if output else ()

    async def drain(self) -> None:
        """Stop all replicas gracefully; each has the time that its settings give."""
        self._do(self._roster.drain(self._clock.monotonic()))
        while self._ended:
            await asyncio.wait(self._ended.values())

    async def stop(self) -> None:
        """Kill all replicas at once and wait until they are gone."""
        self._roster.drain(self._clock.monotonic())
        for running in self._running.values():
            running.kill()
        async with lifecycle.deadline(_STOP_TIMEOUT_S, "killed replicas"):
            while self._ended:
                await asyncio.wait(self._ended.values())
        await self._tasks.cancel()
        for prepared in self._prepared.values():
            prepared.release()
        self._prepared.clear()

    # What running replicas tell (`running.Events`).

    def ready(self, replica_id: str, address: str, admin_address: str) -> None:
        """It listens."""
        log.info("replica is ready", extra={**self._running[replica_id].labels, "address": address})
        self._do(self._roster.ready(replica_id, address, admin_address, self._clock.monotonic()))

    def draining(self, replica_id: str) -> None:
        """Somebody told its process to end: it is asked no more how it is, and may take its time."""
        if self._roster.draining(replica_id, self._clock.monotonic()):
            log.info("replica was told to end", extra=self._running[replica_id].labels)
            self._running[replica_id].rest()
            self._wake.set()
            self._changed()

    def loaded(self, replica_id: str, ongoing_requests: int) -> None:
        """It says how much it runs; that goes with the next report or heartbeat."""
        self._roster.loaded(replica_id, ongoing_requests)

    def failed(self, replica_id: str, failure: Failure) -> None:
        """It says why it is going to exit."""
        told = {"traceback": failure.details} if failure.details else {}
        log.error("replica failed: %s", failure.message, extra={**self._running[replica_id].labels, **told})
        self._roster.failed(replica_id, failure, self._clock.monotonic())
        self._wake.set()

    def probed(self, replica_id: str, failure: Failure | None) -> None:
        """A health check ended."""
        if failure is not None:
            told = {"traceback": failure.details} if failure.details else {}
            labels = self._running[replica_id].labels
            log.warning("replica failed a health check: %s", failure.message, extra={**labels, **told})
        self._do(self._roster.probed(replica_id, failure))

    def configured(self, replica_id: str, settings: DeploymentSettings) -> None:
        """It took new settings."""
        log.info("replica took new settings", extra=self._running[replica_id].labels)
        self._do(self._roster.configured(replica_id, settings))

    def not_configured(self, replica_id: str, message: str) -> None:
        """It did not answer to new settings."""
        log.warning("%s", message, extra=self._running[replica_id].labels)
        self._roster.not_configured(replica_id, message)
        self._changed()

    def refused(self, replica_id: str, settings: DeploymentSettings, failure: Failure) -> None:
        """Its code refused new settings."""
        log.warning("replica refused new settings: %s", failure.message, extra=self._running[replica_id].labels)
        self._roster.refused(replica_id, settings, failure)
        self._changed()

    def settings(self, replica_id: str) -> DeploymentSettings:
        """Return the settings last assigned to a replica that runs."""
        return self._roster.settings(replica_id)

    async def _keep_time(self) -> None:
        while True:
            due = self._roster.next_at()
            self._wake.clear()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                self._do(self._roster.tick(self._clock.monotonic()))

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Prepare(spec):
                    name = f"prepare-{spec.replica_id}"
                    self._preparing[spec.replica_id] = self._tasks.spawn(self._prepare(spec), name=name)
                case Abandon(replica_id):
                    self._preparing.pop(replica_id).cancel()
                case Start(spec):
                    self._start(spec)
                case Terminate(replica_id):
                    self._running[replica_id].terminate()
                case Kill(replica_id, reason):
                    running = self._running[replica_id]
                    log.warning("killing a replica: %s", reason, extra=running.labels)
                    running.kill()
                case Configure(replica_id, settings):
                    self._running[replica_id].configure(settings)
        self._release_environments()
        self._wake.set()
        self._changed()

    async def _prepare(self, spec: ReplicaSpec) -> None:
        """Make a replica's environment ready, then start it. Ends early when the replica is not wanted any more."""
        replica_id = spec.replica_id
        labels = {"application": spec.application, "deployment": spec.deployment, "replica": replica_id}

        def say(message: str) -> None:
            self._roster.preparing(replica_id, message)
            self._changed()

        try:
            prepared = await self._environments.prepare(spec.config.runtime_env, Listener(labels, say))
        except EnvironmentFailed as error:
            log.error("environment is not ready: %s", error.message, extra=labels)
            self._preparing.pop(replica_id, None)
            self._do(self._roster.not_prepared(replica_id, bounded(failure_of(error)), self._clock.monotonic()))
            return
        self._preparing.pop(replica_id, None)
        before, self._prepared[replica_id] = self._prepared.get(replica_id), prepared
        if before is not None:
            before.release()
        self._do(self._roster.prepared(replica_id, self._clock.monotonic()))

    def _release_environments(self) -> None:
        for replica_id in list(self._prepared):
            if self._roster.state(replica_id) in (ReplicaState.STOPPED, ReplicaState.UNSPECIFIED):
                self._prepared.pop(replica_id).release()

    def _start(self, spec: ReplicaSpec) -> None:
        REPLICA_STARTS.labels(spec.application, spec.deployment).inc()
        known = {status.replica_id for status in self.statuses()}
        self._outputs = {replica_id: output for replica_id, output in self._outputs.items() if replica_id in known}
        output = self._outputs.setdefault(spec.replica_id, Output(KEPT_PER_SECOND_MAX))
        running = Running(spec, output, self, self._credentials, self._clock)
        prepared = self._prepared.get(spec.replica_id)
        environment = prepared.environment if prepared is not None else in_place(spec.config.runtime_env)
        assert environment is not None
        try:
            pid = running.start(environment, self._host, self._shared)
        except (DeployFailed, InvalidConfig) as error:
            self._exited(running, spec, failure_of(error))
            return
        self._running[spec.replica_id] = running
        self._roster.started(spec.replica_id, pid)
        self._ended[spec.replica_id] = self._tasks.spawn(self._follow(running, spec), name=f"replica-{spec.replica_id}")
        log.info("replica started", extra={**running.labels, "pid": pid})

    async def _follow(self, running: Running, spec: ReplicaSpec) -> None:
        ending = Failure("lost")
        try:
            ending = await running.wait()
        finally:
            del self._running[spec.replica_id], self._ended[spec.replica_id]
            self._exited(running, spec, ending)

    def _exited(self, running: Running, spec: ReplicaSpec, ending: Failure) -> None:
        asked = self._roster.state(spec.replica_id) is ReplicaState.DRAINING
        actions = self._roster.exited(spec.replica_id, ending, self._clock.monotonic())
        reason = next(status.message for status in self.statuses() if status.replica_id == spec.replica_id)
        if asked:
            log.info("replica stopped: %s", reason, extra=running.labels)
        else:
            REPLICA_CRASHES.labels(spec.application, spec.deployment).inc()
            log.warning("replica crashed: %s", reason, extra=running.labels)
        self._do(actions)
