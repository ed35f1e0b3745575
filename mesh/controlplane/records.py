"""How goal state is written to the store: keys, and values as messages.

Owns the names of the keys ("applications/NAME", "replicas/ID", "workers/ID", "events/NAME", "history/NAME", "options")
and the encoding. Never talks to the store. Called by `mirror`, `execute` and `api`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from mesh import model, wire
from mesh.controlplane.store import VALUE_BYTES_MAX, Item
from mesh.errors import Unreachable
from mesh.revision import RevisionHistory
from mesh.v1 import deployment_pb2, event_pb2, revision_service_pb2

APPLICATIONS = "applications/"
REPLICAS = "replicas/"
WORKERS = "workers/"
EVENTS = "events/"
HISTORY = "history/"
OPTIONS = "options"
HISTORY_BYTES_MAX = 256 * 1024
"""Of the revisions of one application; the oldest go."""

_M = TypeVar("_M", bound=Message)


def application_key(name: str) -> str:
    """Return the key of an application's goal state."""
    return APPLICATIONS + name


def replica_key(replica_id: str) -> str:
    """Return the key of a replica's placement."""
    return REPLICAS + replica_id


def worker_key(worker_id: str) -> str:
    """Return the key of what was asked of a worker."""
    return WORKERS + worker_id


def events_key(name: str) -> str:
    """Return the key of the log of an application's events, or of the cluster's."""
    return EVENTS + name


def encode_events(events: Iterable[model.Event]) -> bytes:
    """Return a log of events as it is stored."""
    log = event_pb2.EventLog(events=[wire.to_proto(event, event_pb2.Event) for event in events])
    return log.SerializeToString(deterministic=True)


def decode_events(value: bytes) -> tuple[model.Event, ...]:
    """Return a stored log of events; nothing of one that cannot be read: what happened decides nothing."""
    try:
        log = event_pb2.EventLog.FromString(value)
        return tuple(wire.from_proto(event, model.Event) for event in log.events)
    except (DecodeError, ValueError):
        return ()


def history_key(name: str) -> str:
    """Return the key of an application's revisions."""
    return HISTORY + name


def encode_history(history: RevisionHistory) -> bytes:
    """Return revisions as they are stored: as many of them, the newest, as there is room for."""
    message = wire.to_proto(history, revision_service_pb2.RevisionHistory)
    while len(message.revisions) > 1 and message.ByteSize() > HISTORY_BYTES_MAX:
        del message.revisions[0]
    return message.SerializeToString(deterministic=True)


def decode_history(key: str, value: bytes) -> RevisionHistory:
    """Return stored revisions. Raises Unreachable if the value cannot be read."""
    return _mapped(key, _decoded(key, value, revision_service_pb2.RevisionHistory), RevisionHistory)


def encode_application(application: model.Application) -> bytes:
    """Return an application as it is stored: with as many of its superseded plans, the newest first, as there is room.

    What is left out loses its replicas early; for the rest there is room in any case (`builds.PLAN_BYTES_MAX`).
    """
    message = wire.to_proto(application, deployment_pb2.Application)
    while message.superseded and message.ByteSize() > VALUE_BYTES_MAX:
        del message.superseded[-1]
    return message.SerializeToString(deterministic=True)


def encode_replica(replica: model.Replica) -> bytes:
    """Return a replica as it is stored."""
    return wire.to_proto(replica, deployment_pb2.Replica).SerializeToString(deterministic=True)


def encode_worker(goal: model.WorkerGoal) -> bytes:
    """Return what was asked of a worker as it is stored."""
    return wire.to_proto(goal, deployment_pb2.WorkerGoal).SerializeToString(deterministic=True)


def decode_application(key: str, value: bytes) -> model.Application:
    """Return a stored application. Raises Unreachable if the value cannot be read."""
    application = _mapped(key, _decoded(key, value, deployment_pb2.Application), model.Application)
    # One object where both are the same: whoever compares the two, as all do, finds that at once.
    return replace(application, serving=application.plan) if application.serving == application.plan else application


def decode_replica(key: str, value: bytes) -> model.Replica:
    """Return a stored replica. Raises Unreachable if the value cannot be read."""
    return _mapped(key, _decoded(key, value, deployment_pb2.Replica), model.Replica)


def decode_worker(key: str, value: bytes) -> model.WorkerGoal:
    """Return what was asked of a worker. Raises Unreachable if the value cannot be read."""
    return _mapped(key, _decoded(key, value, deployment_pb2.WorkerGoal), model.WorkerGoal)


def decode_options(value: bytes) -> deployment_pb2.Config:
    """Return the stored options. Raises Unreachable if the value cannot be read."""
    return _decoded(OPTIONS, value, deployment_pb2.Config)


def applications_of(items: tuple[Item, ...]) -> dict[str, model.Application]:
    """Return the applications among stored items, by name. Raises Unreachable if one cannot be read."""
    return {
        item.key.removeprefix(APPLICATIONS): decode_application(item.key, item.value)
        for item in items
        if item.key.startswith(APPLICATIONS)
    }


_T = TypeVar("_T")


def _mapped(key: str, message: Message, value_type: type[_T]) -> _T:
    try:
        return wire.from_proto(message, value_type)
    except ValueError as error:
        raise _unreadable(key) from error


def _decoded(key: str, value: bytes, message_type: type[_M]) -> _M:
    try:
        return message_type.FromString(value)
    except DecodeError as error:
        raise _unreadable(key) from error


def _unreadable(key: str) -> Unreachable:
    # Not skipped: to go on without it would stop its replicas.
    return Unreachable(f"the stored value of {key!r} cannot be read", hint="was it written by a newer version?")
