from __future__ import annotations

from mesh.controlplane.withdrawal import CONFIRM_S, Withdrawals
from mesh.model import Generation

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
