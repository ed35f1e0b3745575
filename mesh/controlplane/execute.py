"""Carries out what reconcile decided.

Owns the writes of the leader's loop: each is fenced with the leadership and compares the revision of every key it
changes, so that a leader that lost its office, or looked at old state, changes nothing. Makes no choices. Called
by `loop`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mesh import wire
from mesh.controlplane.actions import (
    Action,
    BuildApplication,
    CancelBuild,
    ForgetReplica,
    ForgetWorker,
    HandOver,
    MarkFailed,
    MarkPlanned,
    MarkServing,
    PlaceReplica,
    RecordStatus,
    RemoveApplication,
    Stay,
    StopReplica,
    changes,
)
from mesh.controlplane.builds import Build
from mesh.controlplane.pins import known
from mesh.controlplane.records import (
    application_key,
    encode_application,
    encode_replica,
    history_key,
    replica_key,
    worker_key,
)
from mesh.controlplane.store import COMMIT_BYTES_MAX, OPERATIONS_MAX, Compare, OutcomeUnknown, Put, Remove, Store
from mesh.controlplane.term import Term
from mesh.packages.place import is_in_place
from mesh.v1 import deployment_pb2, worker_service_pb2
from mesh.v1.worker_service_pb2 import SessionResponse

KEYS_PER_COMMIT_MAX = OPERATIONS_MAX - 10
"""Leaves room for the fence."""
BYTES_PER_COMMIT_MAX = COMMIT_BYTES_MAX - 64 * 1024

log = logging.getLogger("mesh.controlplane")


class Executor:
    """Carries out actions for one term."""

    def __init__(self, store: Store, fence: Compare, term: Term, build_timeout_s: float) -> None:
        self._store = store
        self._fence = fence
        self._term = term
        self._build_timeout_s = build_timeout_s

    async def execute(self, actions: Sequence[Action], *, now: float) -> None:
        """Do all of `actions`. `now` is monotonic.

        Raises Conflict if what they were decided on is no longer so, or leadership is gone; OutcomeUnknown and
        Unreachable as the store does. What was not done is decided anew by the next pass.
        """
        mirror = self._term.mirror
        changed = changes(mirror.applications, mirror.replicas, actions)
        values: dict[str, bytes | None] = {
            application_key(name): encode_application(application) if application else None
            for name, application in changed.applications.items()
        }
        for name in (name for name, application in changed.applications.items() if application is None):
            values[history_key(name)] = None
        for replica_id, replica in changed.replicas.items():
            values[replica_key(replica_id)] = encode_replica(replica) if replica else None
        values |= {worker_key(worker_id): None for worker_id in changed.workers}
        # Now: what others store while a part is on its way was not decided on.
        revisions = {key: mirror.revision_of(key) for key in values}
        for part in parts(values):
            await self._commit(part, revisions)
        for action in actions:
            _log(action)
            if isinstance(action, BuildApplication):
                self._build(action, now)
            elif isinstance(action, CancelBuild):
                self._cancel(action)

    async def _commit(self, values: Mapping[str, bytes | None], revisions: Mapping[str, int]) -> None:
        """Store new values (None removes), if each key still has the revision that it was decided on."""
        mirror = self._term.mirror
        compares = [self._fence, *(Compare(key, revisions[key]) for key in values)]
        operations = [Remove(key) if value is None else Put(key, value) for key, value in values.items()]
        try:
            revision = await self._store.commit(compares, operations)
        except OutcomeUnknown:
            mirror.unknown_outcomes += 1
            raise
        mirror.committed(values, revision)
        self._term.changed.ring()

    def _cancel(self, action: CancelBuild) -> None:
        self._term.builds.cancelled(action.build_id)
        if (outbox := self._term.outboxes.get(action.session)) is not None:
            outbox.put(SessionResponse(cancel_build=worker_service_pb2.CancelBuild(build_id=action.build_id)))

    def _build(self, action: BuildApplication, now: float) -> None:
        worker = self._term.registry.get(action.worker_id)
        application = self._term.mirror.applications.get(action.application)
        outbox = self._term.outboxes.get(worker.session) if worker else None
        if worker is None or application is None or outbox is None or application.revision != action.revision:
            return  # what changed meanwhile has rung the bell: the next pass decides anew
        resolved = known(application)
        self._term.builds.started(
            Build(
                build_id=action.build_id,
                application=action.application,
                revision=action.revision,
                worker_id=action.worker_id,
                session=worker.session,
                started=now,
                timeout_s=self._build_timeout_s,
                prepares=not is_in_place(application.config.runtime_env),
                resolved_env=resolved,
            )
        )
        wanted = application.config if resolved is None else replace(application.config, runtime_env=resolved)
        config = wire.to_proto(wanted, deployment_pb2.ApplicationConfig)
        message = worker_service_pb2.Build(build_id=action.build_id, config=config, timeout_s=self._build_timeout_s)
        outbox.put(SessionResponse(build=message))


def parts(values: Mapping[str, bytes | None]) -> Iterator[dict[str, bytes | None]]:
    """Cut values into parts that each fit one commit."""
    part: dict[str, bytes | None] = {}
    size = 0
    for key, value in values.items():
        # A key stands in a compare and in an operation.
        added = 2 * len(key.encode()) + len(value or b"")
        if part and (len(part) == KEYS_PER_COMMIT_MAX or size + added > BYTES_PER_COMMIT_MAX):
            yield part
            part, size = {}, 0
        part[key] = value
        size += added
    if part:
        yield part


def _log(action: Action) -> None:
    match action:
        case BuildApplication(_, application, revision, worker_id):
            log.info("building", extra={"application": application, "revision": revision, "worker": worker_id})
        case CancelBuild(build_id, application):
            log.info("build is not wanted any more", extra={"application": application, "build": build_id})
        case MarkPlanned(application, plan):
            log.info("built", extra={"application": application, "revision": plan.revision})
        case MarkServing(application, revision):
            log.info("serving", extra={"application": application, "revision": revision})
        case MarkFailed(application, revision, failure):
            log.warning("failed: %s", failure.message, extra={"application": application, "revision": revision})
        case HandOver(application):
            log.info("all that it waited for is ready", extra={"application": application})
        case Stay(application, reason):
            log.warning("it is not deleted: %s", reason, extra={"application": application})
        case RemoveApplication(application):
            log.info("removed", extra={"application": application})
        case PlaceReplica(replica):
            extra = {"replica": replica.replica_id, "worker": replica.worker_id, "revision": replica.revision}
            log.info("placing replica", extra=extra)
        case StopReplica(replica_id, reason) | ForgetReplica(replica_id, reason):
            what = "stopping" if isinstance(action, StopReplica) else "forgetting"
            log.info("%s replica: %s", what, reason, extra={"replica": replica_id})
        case ForgetWorker(worker_id):
            log.info("its drain is forgotten: it has been gone for long", extra={"worker": worker_id})
        case RecordStatus(replica_id, status):
            log.debug("replica %s", status.state.name.lower(), extra={"replica": replica_id})
