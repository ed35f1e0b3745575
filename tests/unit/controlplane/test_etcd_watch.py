"""Grouping etcd's events."""

from __future__ import annotations

from mesh.controlplane.etcd_watch import batches
from mesh.controlplane.etcdrpc.kv_pb2 import Event as WireEvent
from mesh.controlplane.etcdrpc.kv_pb2 import KeyValue
from mesh.controlplane.store import Batch, Event


def wire(key: str, value: bytes | None, revision: int) -> WireEvent:
    pair = KeyValue(key=key.encode(), value=value or b"", mod_revision=revision)
    return WireEvent(type=WireEvent.DELETE if value is None else WireEvent.PUT, kv=pair)


def test_events_of_one_revision_stay_together_and_the_root_goes() -> None:
    events = [wire("/r/b", b"1", 5), wire("/r/ü", None, 5), wire("/r/b", b"", 8)]
    assert list(batches(events, len(b"/r/"))) == [
        Batch(5, (Event("b", b"1", 5), Event("ü", None, 5))),
        Batch(8, (Event("b", b"", 8),)),
    ]
    assert list(batches([], 3)) == []
