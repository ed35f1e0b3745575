from __future__ import annotations

import pytest

from mesh import wire
from mesh.controlplane.withdrawal import CONFIRM_S, Withdrawals, called
from mesh.model import Generation, Replica, ReplicaState, ReplicaStatus
from mesh.v1 import deployment_pb2

READY, DRAINING, STARTING, STOPPED = (
    ReplicaState.READY,
    ReplicaState.DRAINING,
    ReplicaState.STARTING,
    ReplicaState.STOPPED,
)
OLD, NEW, NEWER = Generation(5, 1), Generation(5, 2), Generation(5, 3)


def test_a_replica_is_held_until_every_gateway_routes_without_it() -> None:
    withdrawals = Withdrawals()
    withdrawals.note(["r1"], NEW, 100.0)
    assert withdrawals.held([OLD, NEW], 100.0) == {"r1"}
    assert withdrawals.held([NEW, NEWER], 100.0) == frozenset()


def test_a_gateway_without_a_snapshot_of_this_leader_is_waited_for() -> None:
    withdrawals = Withdrawals()
    withdrawals.note(["r1"], NEW, 100.0)
    assert withdrawals.held([Generation()], 100.0) == {"r1"}
    assert withdrawals.held([Generation(4, 99)], 100.0) == {"r1"}


def test_who_is_gone_does_not_count() -> None:
    withdrawals = Withdrawals()
    withdrawals.note(["r1"], NEW, 100.0)
    assert withdrawals.held([], 100.0) == frozenset()


def test_a_gateway_that_hangs_is_waited_for_a_short_time() -> None:
    withdrawals = Withdrawals()
    withdrawals.note(["r1"], NEW, 100.0)
    assert withdrawals.due(100.0) == 100.0 + CONFIRM_S
    withdrawals.note(["r1", "r2"], NEWER, 102.0)
    assert withdrawals.held([OLD], 100.0 + CONFIRM_S) == {"r2"}, "the time counts from when it left"
    assert withdrawals.held([NEW], 102.0) == {"r2"}, "and the generation is that which was the first without it"
    withdrawals.note(["r2"], NEWER, 100.0 + CONFIRM_S)
    assert withdrawals.due(100.0 + CONFIRM_S) == 102.0 + CONFIRM_S
    assert len(withdrawals) == 1
    withdrawals.note([], NEWER, 103.0)
    assert withdrawals.due(103.0) is None


def test_a_new_leader_waits_for_gateways_to_come() -> None:
    withdrawals = Withdrawals(settled_at=100.0 + CONFIRM_S)
    withdrawals.note(["r1"], NEW, 100.5)
    assert withdrawals.held([], 101.0) == {"r1"}
    assert withdrawals.held([NEW], 101.0) == {"r1"}, "there may be another"
    assert withdrawals.due(101.0) == 100.0 + CONFIRM_S
    assert withdrawals.held([NEW], 100.0 + CONFIRM_S) == frozenset()


def one(
    replica_id: str, deployment: str, depth: int, state: ReplicaState = READY, *, stopping: bool = True, of: str = "app"
) -> Replica:
    status = ReplicaStatus(replica_id, state, address="h:1")
    return Replica(replica_id, of, deployment, stopping=stopping, status=status, depth=depth)


def test_those_called_wait_for_their_callers_depth_by_depth() -> None:
    graph = [one("a1", "A", 0), one("a2", "A", 0), one("b", "B", 1), one("c", "C", 2), one("d", "D", 2)]
    assert called(graph) == {"b", "c", "d"}
    graph[:2] = one("a1", "A", 0, DRAINING), one("a2", "A", 0, STOPPED)
    assert called(graph) == {"b", "c", "d"}, "one of them still finishes what it runs"
    assert called(graph[1:]) == {"c", "d"}
    assert called(graph[3:]) == frozenset()


@pytest.mark.parametrize("state", set(ReplicaState) - {READY, DRAINING})
def test_a_caller_that_serves_nothing_is_not_waited_for(state: ReplicaState) -> None:
    assert called([one("a", "A", 0, state), one("b", "B", 1)]) == frozenset()


def test_only_what_serves_runs_on() -> None:
    assert called([one("a", "A", 0), one("b", "B", 1, STARTING), one("c", "C", 1, DRAINING)]) == frozenset()


def test_callers_that_stay_are_not_waited_for() -> None:
    assert called([one("a", "A", 0, stopping=False), one("b", "B", 1)]) == frozenset()


def test_where_others_of_the_deployment_stay_calls_go_to_these() -> None:
    going = [one("a", "A", 0), one("b1", "B", 1), one("c", "C", 1)]
    assert called([*going, one("b2", "B", 1, stopping=False)]) == {"c"}
    assert called([*going, one("b2", "B", 1, STARTING, stopping=False)]) == {"b1", "c"}, "once they are ready"


def test_applications_do_not_wait_for_one_another() -> None:
    assert called([one("a", "A", 0), one("b", "B", 1, of="other")]) == frozenset()


def test_replicas_placed_before_their_depth_was_known_wait_for_nobody() -> None:
    assert called([one("a", "A", 0), one("b", "B", 0)]) == frozenset()
    assert wire.from_proto(deployment_pb2.Replica(replica_id="b"), Replica).depth == 0
