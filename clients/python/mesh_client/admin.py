"""The control plane's services, for threads.

Owns how each is called: what may be repeated, and how a change is waited for. `aio_admin` is the same for event loops.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Self

from mesh_client.admin_config import config_of
from mesh_client.connecting import Connection
from mesh_client.credentials import OPEN, Credentials
from mesh_client.errors import DeadlineExceeded, NotFound, Unavailable
from mesh_client.following import Following
from mesh_client.grpc_channel import channel
from mesh_client.policy import Backoff, Budget, Policy
from mesh_client.v1 import deployment_pb2 as pb
from mesh_client.v1 import deployment_service_pb2 as api
from mesh_client.v1 import event_pb2 as events
from mesh_client.v1 import event_service_pb2 as event_api
from mesh_client.v1 import revision_service_pb2 as revisions
from mesh_client.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from mesh_client.v1.event_service_pb2_grpc import EventServiceStub
from mesh_client.v1.revision_service_pb2_grpc import RevisionServiceStub

ADDRESS = "127.0.0.1:7070"
"""Where a control plane listens unless it is told otherwise."""
WAIT_S = 300.0
"""Seconds for a change to come true."""
POLICY = Policy(
    timeout_s=20.0,
    attempts_max=12,
    backoff=Backoff(initial_s=0.1, max_s=2.0),
    budget=Budget(burst=20),
    # The goal state twice is the goal state; changes of one application carry an id by which a repeat is known.
    idempotent=frozenset({"mesh.v1.DeploymentService", "mesh.v1.RevisionService", "mesh.v1.EventService"}),
)
"""A new leader is there within seconds, so that patience is worth more here than for requests of applications."""


class Admin:
    """A client of the control plane: any instance of it answers. Use as a context manager, or close it.

    Raises MeshClientError everywhere: NotFound, InvalidRequest with `problems`, Conflict, Unavailable and the like.
    """

    def __init__(
        self, addresses: str | Sequence[str] = ADDRESS, *, credentials: Credentials = OPEN, policy: Policy = POLICY
    ) -> None:
        self._channel = channel(addresses, policy=policy, connection=Connection(credentials=credentials))
        self._clock = self._channel.target.clock
        self.deployments = self._channel.stub(DeploymentServiceStub)
        """The generated stub, for all that has no method here."""
        self.revisions = self._channel.stub(RevisionServiceStub)
        self.events_service = self._channel.stub(EventServiceStub)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all calls and connections."""
        self._channel.close()

    def deploy(
        self,
        config: Mapping[str, Any] | pb.Config,
        *,
        keep_others: bool = False,
        supersede: bool = False,
        hold_on_failure: bool = False,
        wait_s: float | None = WAIT_S,
    ) -> tuple[api.AppliedApplication, ...]:
        """Make the goal state equal to `config`, a mapping with the keys of a config file; wait until it serves.

        Applications that it does not name are deleted, unless `keep_others`. With `wait_s` None it returns when the
        goal state is stored. Raises InvalidRequest, RolloutUnderWay, DeployFailed, DeadlineExceeded.
        """
        request = api.ApplyRequest(
            config=config_of(config), keep_others=keep_others, supersede=supersede, hold_on_failure=hold_on_failure
        )
        applied = tuple(self.deployments.Apply(request).applications)
        self._wait(Following(applied), wait_s)
        return applied

    def validate(self, config: Mapping[str, Any] | pb.Config) -> tuple[api.AppliedApplication, ...]:
        """Return what a deploy would change. Raises InvalidRequest."""
        request = api.ApplyRequest(config=config_of(config), validate_only=True)
        return tuple(self.deployments.Apply(request).applications)

    def config(self, application: str = "") -> pb.Config:
        """Return the goal state, of one application or of all."""
        return self.deployments.GetConfig(api.GetConfigRequest(application=application)).config

    def status(self, application: str = "", *, details: bool = False) -> api.Status:
        """Return the status, of one application or of all."""
        return self.deployments.GetStatus(api.GetStatusRequest(application=application, details=details)).status

    def watch(self, application: str = "", *, timeout_s: float | None = None) -> Generator[api.Status]:
        """Yield the status now and after each change, until `timeout_s` or the connection ends."""
        answers = self.deployments.WatchStatus(api.WatchStatusRequest(application=application), timeout_s)
        try:
            for answer in answers:
                yield answer.status
        finally:
            answers.cancel()

    def delete(self, application: str, *, wait_s: float | None = WAIT_S) -> None:
        """Delete an application and wait until it is gone."""
        try:
            self.deployments.Delete(api.DeleteRequest(application=application))
        except NotFound as error:
            if error.attempts == 1:
                raise
            # A repeat that finds nothing follows a call that deleted it and whose answer was lost.
        gone = api.AppliedApplication(name=application, change=api.CHANGE_DELETED)
        self._wait(Following([gone]), wait_s)

    def shutdown(self) -> None:
        """Delete all applications and the stored options. Does not wait."""
        self.deployments.Shutdown(api.ShutdownRequest())

    def workers(self) -> tuple[pb.WorkerStatus, ...]:
        """Return the workers."""
        return tuple(self.deployments.ListWorkers(api.ListWorkersRequest()).workers)

    def drain_worker(self, worker_id: str, *, undo: bool = False) -> None:
        """Empty a worker, or take that back. Does not wait."""
        self.deployments.DrainWorker(api.DrainWorkerRequest(worker_id=worker_id, undo=undo))

    def history(self, application: str) -> tuple[revisions.Revision, ...]:
        """Return the revisions of an application that are still known, the newest first."""
        request = revisions.ListRevisionsRequest(application=application)
        return tuple(self.revisions.ListRevisions(request).revisions)

    def rollback(
        self, application: str, *, to_revision: int = 0, supersede: bool = False, wait_s: float | None = WAIT_S
    ) -> api.AppliedApplication:
        """Make a new revision with the config of an older one, by default the last that served with another."""
        options = self._options(supersede)
        request = revisions.RollbackRequest(application=application, to_revision=to_revision, options=options)
        return self._followed(self.revisions.Rollback(request).application, wait_s)

    def scale(
        self,
        application: str,
        num_replicas: Mapping[str, int],
        *,
        supersede: bool = False,
        wait_s: float | None = WAIT_S,
    ) -> api.AppliedApplication:
        """Set how many replicas deployments have, each by name."""
        options = self._options(supersede)
        request = revisions.ScaleRequest(application=application, num_replicas=num_replicas, options=options)
        return self._followed(self.revisions.Scale(request).application, wait_s)

    def restart(
        self, application: str, *deployments: str, supersede: bool = False, wait_s: float | None = WAIT_S
    ) -> api.AppliedApplication:
        """Replace the replicas of deployments, by default of all, by new ones of the same config."""
        options = self._options(supersede)
        request = revisions.RestartRequest(application=application, deployments=deployments, options=options)
        return self._followed(self.revisions.Restart(request).application, wait_s)

    def pause(self, application: str, *, paused: bool = True) -> None:
        """Make the rollouts of an application stand still, or let them go on."""
        self.revisions.SetPaused(revisions.SetPausedRequest(application=application, paused=paused))

    def events(self, application: str = "", *, since: float = 0.0) -> tuple[events.Event, ...]:
        """Return what happened of late, oldest first; `since` is Unix time in seconds."""
        event_filter = event_api.EventFilter(application=application, since=since)
        return tuple(self.events_service.ListEvents(event_api.ListEventsRequest(filter=event_filter)).events)

    def _options(self, supersede: bool) -> revisions.ChangeOptions:
        return revisions.ChangeOptions(supersede=supersede, request_id=self._clock.token())

    def _followed(self, applied: api.AppliedApplication, wait_s: float | None) -> api.AppliedApplication:
        self._wait(Following([applied]), wait_s)
        return applied

    def _wait(self, following: Following, wait_s: float | None) -> None:
        if wait_s is None:
            return
        ends = self._clock.monotonic() + wait_s
        while (left_s := ends - self._clock.monotonic()) > 0:
            try:
                with contextlib.closing(self.watch(timeout_s=left_s)) as statuses:
                    if any(map(following.take, statuses)):
                        return
            except DeadlineExceeded:
                break
            except Unavailable:
                pass  # the instance that was watched is gone; another one, or a new leader, goes on
            self._clock.sleep(POLICY.backoff.initial_s)
        raise following.too_late(wait_s)
