from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.controlplane import drain
from mesh.controlplane.actions import ForgetWorker, PlaceReplica
from mesh.controlplane.placement import Placement
from mesh.controlplane.reconcile import seen
from mesh.controlplane.status import workers_status
from mesh.controlplane.statuses import applications_status
from mesh.model import ReplicaState, WorkerState
from tests.support.control_world import GRACE_S, World, config


def told(world: World, worker_id: str) -> None:
    """The worker's process is told to end."""
    world.registry.draining(worker_id, world.workers[worker_id].session, now=world.now)


def states(world: World) -> dict[str, tuple[WorkerState, str]]:
    found = workers_status(world.desired, world.observed, now=world.now, wall=0.0)
    return {worker.worker_id: (worker.state, worker.message) for worker in found}


def cornered(world: World, withdrawn: tuple[str, ...] = ()) -> frozenset[str]:
    draining = drain.draining(world.goals, world.registry.workers)
    replicas = seen(world.observed).values()
    return drain.cornered(draining, replicas, withdrawn, Placement(world.registry.workers.values(), replicas, draining))


@pytest.mark.parametrize("wish", [World.drain, told])
@pytest.mark.parametrize("count", [1, 4])
def test_replicas_are_replaced_elsewhere_first(wish, count: int) -> None:  # type: ignore[no-untyped-def]
    world = World("w1", "w2")
    world.apply(config(num_replicas=count))
    world.settle()
    (first, *_) = {replica.worker_id for replica in world.ready("app")}
    wish(world, first)
    for _ in range(50):
        world.step()
        assert len(world.ready("app")) >= count, "one is ready elsewhere before another stops"
        assert len(world.live("app")) <= count + 1
        world.start_all()
    world.settle()
    assert {replica.worker_id for replica in world.replicas.values()} == {"w1", "w2"} - {first}
    assert len(world.ready("app")) == count
    assert {stop.reason for stop in world.stopped} == {"its worker is drained"}
    assert states(world)[first] == (WorkerState.DRAINED, "")


def test_while_it_drains_status_says_so() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=4))
    world.settle()
    world.drain("w1")
    world.step()
    assert states(world)["w1"] == (WorkerState.DRAINING, "2 replicas are left")
    assert states(world)["w2"] == (WorkerState.READY, "")


def test_without_room_elsewhere_they_stay_and_status_says_why() -> None:
    world = World("w1", "w2", max_replicas=2)
    world.apply(config(num_replicas=3))
    world.settle()
    world.drain("w1")
    assert cornered(world) == frozenset(), "there is room for one"
    world.step()
    assert cornered(world) == frozenset(), "it is on its way"
    world.settle()
    assert len(world.ready("app")) == 3
    assert cornered(world) == {"w1"}
    why = "no worker has room: w2 runs 2 and may run no more"
    assert states(world)["w1"] == (WorkerState.DRAINING, f"1 replica is left; {why}")
    (application,) = applications_status(world.desired, world.observed)
    assert application.message == f"Echo: {why}; 1 of 3 replicas stay on a worker that drains"
    (left,) = [replica.replica_id for replica in world.ready("app") if replica.worker_id == "w1"]
    assert cornered(world, (left,)) == frozenset(), "it waits for gateways"
    world.drain("w2")
    world.settle()
    assert len(world.ready("app")) == 3
    assert states(world)["w2"] == (
        WorkerState.DRAINING,
        "2 replicas are left; no worker has room: all 2 are draining",
    )
    assert cornered(world) == {"w1", "w2"}


def test_a_worker_that_is_alone_is_cornered_at_once() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    told(world, "w1")
    assert cornered(world) == {"w1"}
    assert world.decide() == ()


def test_nothing_new_goes_there_and_undoing_lets_it() -> None:
    world = World("w1", "w2")
    world.drain("w1")
    world.apply(config(num_replicas=2))
    world.settle()
    assert [replica.worker_id for replica in world.ready("app")] == ["w2", "w2"]
    del world.goals["w1"]
    world.settle()
    world.apply(config(num_replicas=4))
    world.settle()
    assert [replica.worker_id for replica in world.ready("app")].count("w1") == 2


def test_a_drain_outlives_the_leader_and_the_workers_session() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=4))
    world.settle()
    world.drain("w1")
    world.step()
    world.new_leader()
    world.connect("w1")
    world.connect("w2")
    world.settle()
    assert {replica.worker_id for replica in world.ready("app")} == {"w2"}
    world.restart_worker("w1")
    world.apply(config(num_replicas=6))
    world.settle()
    assert {replica.worker_id for replica in world.ready("app")} == {"w2"}


def test_it_goes_on_while_a_revision_is_built() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=2))
    world.settle()
    world.disconnect("w2")
    world.connect("w2")
    world.drain("w1")
    world.apply(config(num_replicas=2, max_ongoing_requests=7))
    actions = world.decide()
    placed = [action.replica for action in actions if isinstance(action, PlaceReplica)]
    assert [replica.worker_id for replica in placed] == ["w2"]
    world.settle()
    assert [replica.worker_id for replica in world.ready("app")] == ["w2", "w2"]


def test_a_replacement_that_fails_takes_nothing_away() -> None:
    world = World("w1", "w2")
    world.apply(config())
    world.settle()
    (old,) = world.ready("app")
    world.drain(old.worker_id)
    world.settle(broken=lambda spec: True)
    assert [replica.replica_id for replica in world.ready("app")] == [old.replica_id]
    assert world.applications["app"].failure is None


def test_what_was_asked_of_a_worker_that_never_came_back_is_forgotten() -> None:
    world = World("w1", "w2")
    world.drain("w1")
    world.disconnect("w1")
    world.now += GRACE_S + 1
    world.settle()
    assert "w1" in world.goals, "it may be at its host's repair"
    world.now += drain.GOAL_KEPT_S
    assert world.decide() == (ForgetWorker("w1"),)
    world.settle()
    assert world.goals == {}
    assert world.decide() == ()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_capacity_holds_whatever_drains_when(data: st.DataObject) -> None:
    world = World("w1", "w2", "w3")
    goal = data.draw(st.integers(1, 5))
    world.apply(config(num_replicas=goal))
    world.settle()
    for _ in range(8):
        match data.draw(st.sampled_from(["drain", "undo", "deploy", "told"])):
            case "drain":
                world.drain(data.draw(st.sampled_from(["w1", "w2"])))
            case "undo":
                world.goals.clear()
            case "told":
                told(world, "w2")
            case _:
                version = data.draw(st.sampled_from(["m:a", "m:b"]))
                world.apply(config(num_replicas=goal, code=version))
        for _ in range(data.draw(st.integers(1, 4))):
            world.step()
            assert len(world.ready("app")) >= goal
            if data.draw(st.booleans()):
                world.start_all()
    world.settle()
    live = world.live("app")
    assert len(live) == len(world.ready("app")) == goal
    assert not {replica.worker_id for replica in live} & (world.goals.keys() | {"w2"} & _told(world))
    assert all(replica.status.state is ReplicaState.READY for replica in live)


def _told(world: World) -> set[str]:
    return {worker_id for worker_id, worker in world.registry.workers.items() if worker.draining}
