from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.controlplane.registry import Greeting, Presence, Registry, current_status, durable
from mesh.errors import Conflict
from mesh.model import Replica, ReplicaState, ReplicaStatus

GRACE_S = 10.0


def hello(incarnation: str = "i1", started_at: float = 1.0, *replicas: ReplicaStatus) -> Greeting:
    return Greeting("w1", incarnation, started_at, "host", replicas=replicas)


def status(replica_id: str, state: ReplicaState) -> ReplicaStatus:
    return ReplicaStatus(replica_id, state, "host:1")


def presence(registry: Registry, now: float) -> Presence:
    worker = registry.get("w1")
    assert worker is not None
    return worker.presence(now, GRACE_S)


def test_a_session_breaks_and_the_grace_runs() -> None:
    registry = Registry()
    first = registry.hello(hello(), now=0.0)
    assert (first.session, first.replaced) == (1, 0)
    assert presence(registry, 1000.0) is Presence.CONNECTED
    registry.disconnected("w1", first.session, now=50.0)
    assert presence(registry, 59.9) is Presence.AWAY
    assert presence(registry, 60.0) is Presence.LOST


def test_a_session_that_was_replaced_changes_nothing_any_more() -> None:
    registry = Registry()
    first = registry.hello(hello(), now=0.0)
    second = registry.hello(hello(), now=1.0)
    assert second.replaced == first.session
    registry.disconnected("w1", first.session, now=2.0)
    registry.leaving("w1", first.session, now=2.0)
    assert not registry.report("w1", first.session, (status("r", ReplicaState.READY),), now=2.0)
    assert presence(registry, 3.0) is Presence.CONNECTED
    assert registry.workers["w1"].reports == {}


def test_an_older_process_is_refused_until_the_newer_one_is_lost() -> None:
    registry = Registry()
    newer = registry.hello(hello("new", 9.0), now=0.0)
    with pytest.raises(Conflict, match="started later"):
        registry.hello(hello("old", 8.0), now=1.0)
    registry.disconnected("w1", newer.session, now=2.0)
    with pytest.raises(Conflict):
        registry.hello(hello("old", 8.0), now=3.0)
    registry.drop_lost(now=2.0 + GRACE_S, grace_s=GRACE_S, placed=())
    assert registry.hello(hello("old", 8.0), now=20.0).replaced == 0


def test_a_newer_process_replaces_the_older() -> None:
    registry = Registry()
    older = registry.hello(hello("old", 8.0), now=0.0)
    assert registry.hello(hello("new", 9.0), now=1.0).replaced == older.session


def test_workers_that_placements_name_are_expected() -> None:
    registry = Registry()
    registry.expect(["w1"], now=100.0)
    assert presence(registry, 109.0) is Presence.AWAY
    stored = Replica("r", worker_id="w1", status=status("r", ReplicaState.READY))
    assert current_status(stored, registry.get("w1")) == stored.status
    registry.hello(hello(), now=105.0)
    registry.expect(["w1"], now=106.0)
    assert presence(registry, 1e6) is Presence.CONNECTED
    assert current_status(stored, registry.get("w1")).state is ReplicaState.PENDING


def test_leaving_is_lost_at_once() -> None:
    registry = Registry()
    session = registry.hello(hello(), now=0.0).session
    registry.leaving("w1", session, now=1.0)
    assert presence(registry, 1.0) is Presence.LOST
    registry.drop_lost(now=1.0, grace_s=GRACE_S, placed=())
    assert registry.get("w1") is not None, "its session stands"
    registry.disconnected("w1", session, now=2.0)
    registry.drop_lost(now=2.0, grace_s=GRACE_S, placed=["w1"])
    assert registry.get("w1") is not None, "its replicas are not forgotten yet"
    registry.drop_lost(now=2.0, grace_s=GRACE_S, placed=())
    assert registry.get("w1") is None


def test_a_report_of_load_alone_is_no_change() -> None:
    registry = Registry()
    session = registry.hello(hello(), now=0.0).session
    ready = status("r", ReplicaState.READY)
    assert registry.report("w1", session, (ready,), now=1.0)
    busy = ReplicaStatus("r", ReplicaState.READY, "host:1", ongoing_requests=5, since=9.0)
    assert not registry.report("w1", session, (busy,), now=2.0)
    assert registry.workers["w1"].reports["r"].ongoing_requests == 5
    assert registry.workers["w1"].last_seen == 2.0
    registry.heartbeat("w1", session, now=3.0)
    assert registry.workers["w1"].last_seen == 3.0


def test_that_a_replica_took_other_settings_is_a_change_but_not_worth_a_write() -> None:
    registry = Registry()
    before = status("a", ReplicaState.READY)
    session = registry.hello(hello("i1", 1.0, before), now=0.0).session
    after = replace(before, settings_revision=2)
    assert registry.report("w1", session, (after,), now=1.0)
    assert not registry.report("w1", session, (after,), now=2.0)
    assert durable(after) == durable(before)


def test_the_time_in_which_an_environment_is_prepared_does_not_count() -> None:
    registry = Registry()
    session = registry.hello(hello(), now=0.0).session
    registry.report("w1", session, (status("r", ReplicaState.PREPARING),), now=1.0)
    assert registry.workers["w1"].unready_since == {}
    registry.report("w1", session, (status("r", ReplicaState.STARTING),), now=500.0)
    registry.report("w1", session, (status("r", ReplicaState.BACKOFF),), now=510.0)
    assert registry.workers["w1"].unready_since == {"r": 500.0}
    registry.report("w1", session, (status("r", ReplicaState.PREPARING),), now=512.0)
    registry.report("w1", session, (status("r", ReplicaState.PREPARING),), now=600.0)
    registry.report("w1", session, (status("r", ReplicaState.STARTING),), now=1000.0)
    assert registry.workers["w1"].unready_since == {"r": 988.0}, "it had tried for 12 seconds"
    registry.report("w1", session, (status("r", ReplicaState.READY),), now=1001.0)
    assert not registry.workers["w1"].tried_s


def test_the_time_without_being_ready_is_counted_across_restarts_and_reconnects() -> None:
    registry = Registry()
    session = registry.hello(hello(), now=0.0).session
    registry.report("w1", session, (status("r", ReplicaState.STARTING),), now=1.0)
    registry.report("w1", session, (status("r", ReplicaState.BACKOFF),), now=2.0)
    assert registry.workers["w1"].unready_since == {"r": 1.0}
    session = registry.hello(hello("i1", 1.0, status("r", ReplicaState.STARTING)), now=3.0).session
    assert registry.workers["w1"].unready_since == {"r": 1.0}
    registry.report("w1", session, (status("r", ReplicaState.READY),), now=4.0)
    assert registry.workers["w1"].unready_since == {}
    registry.report("w1", session, (status("r", ReplicaState.STARTING),), now=5.0)
    registry.hello(hello("i2", 2.0, status("r", ReplicaState.STARTING)), now=6.0)
    assert registry.workers["w1"].unready_since == {"r": 6.0}, "another process"
