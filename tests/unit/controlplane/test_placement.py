from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mesh.controlplane.placement import Placement
from mesh.controlplane.registry import Worker
from mesh.model import Replica, Resources


def worker(worker_id: str, max_replicas: int = 10, session: int = 1, *, leaving: bool = False) -> Worker:
    resources = Resources(max_replicas=max_replicas)
    return Worker(worker_id, 0.0, resources=resources, session=session, leaving=leaving)


def on(worker_id: str, number: int, deployment: str = "Echo", **fields: object) -> Replica:
    return Replica(f"{worker_id}-{number}", "app", deployment, worker_id=worker_id, **fields)  # type: ignore[arg-type]


def test_replicas_of_a_deployment_spread_first() -> None:
    placement = Placement([worker("b"), worker("a")], [on("a", 0), on("b", 0, "Other"), on("b", 1, "Other")])
    assert [placement.choose("app", "Echo") for _ in range(4)] == ["b", "a", "b", "a"]


def test_then_the_emptier_worker_then_the_id() -> None:
    placement = Placement([worker("b", 10), worker("a", 10), worker("c", 100)], [on("a", 0, "Other")])
    assert placement.choose("app", "Echo") == "b"
    assert Placement([worker("b"), worker("a")], []).choose("app", "Echo") == "a"


def test_who_is_away_leaving_or_full_gets_nothing() -> None:
    workers = [worker("away", session=0), worker("leaving", leaving=True), worker("full", 1), worker("none", 0)]
    placement = Placement(workers, [on("full", 0, stopping=True)])
    assert placement.choose("app", "Echo") is None
    assert placement.shortage() == "no worker has room: full runs 1, none runs 0 and may run no more"


def test_a_worker_that_drains_gets_nothing() -> None:
    placement = Placement([worker("a"), worker("b", 1)], [], {"a"})
    assert placement.has_room
    assert placement.choose("app", "Echo") == "b"
    assert not placement.has_room
    assert placement.is_full
    assert placement.choose("app", "Echo") is None
    assert placement.shortage() == "no worker has room: b runs 1 and may run no more"
    alone = Placement([worker("a")], [], {"a"})
    assert alone.choose("app", "Echo") is None
    assert not alone.has_room
    assert alone.shortage() == "no worker has room: all 1 are draining"


def test_shortage_says_when_nobody_is_there() -> None:
    assert Placement([], []).shortage() == "no worker has room: no worker is connected"
    assert Placement([worker("a")], []).shortage() == ""


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 40))
def test_limits_hold_and_room_is_used_up(limits: list[int], count: int) -> None:
    placement = Placement([worker(f"w{i}", limit) for i, limit in enumerate(limits)], [])
    chosen = [placement.choose("app", "Echo") for _ in range(count)]
    taken = Counter(worker_id for worker_id in chosen if worker_id)
    assert all(taken[f"w{i}"] <= limit for i, limit in enumerate(limits))
    assert sum(taken.values()) == min(count, sum(limits))
    if None not in chosen:
        low, high = min(taken[f"w{i}"] for i in range(len(limits))), max(taken.values(), default=0)
        assert high - low <= 1 or low in limits, "even, but for workers that are full"
