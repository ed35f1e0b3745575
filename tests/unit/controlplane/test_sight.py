from __future__ import annotations

from dataclasses import replace

from mesh.controlplane.reconcile import seen
from mesh.controlplane.sight import Groups, Sight
from mesh.model import ReplicaState
from tests.support.control_world import World, config


def running(*names: str) -> World:
    world = World("w1", "w2")
    world.apply(*(config(name, num_replicas=2) for name in names))
    world.settle()
    return world


def test_a_replica_of_which_nothing_new_is_said_is_the_same_object() -> None:
    world = running("a", "b")
    before = seen(world.observed)
    changed = min(world.replicas)
    world.set_state(changed, ReplicaState.DRAINING)
    after = seen(world.observed)
    assert {i for i in before if after[i] is not before[i]} == {changed}
    assert after == seen(replace(world.observed, sight=Sight()))


def test_a_report_that_says_the_same_again_changes_nothing() -> None:
    world = running("a")
    before = seen(world.observed)
    for replica_id in world.replicas:
        world.set_state(replica_id, ReplicaState.READY)
    assert all(after is before[i] for i, after in seen(world.observed).items())


def test_what_is_worth_a_write_is_told_until_it_is_stored() -> None:
    world = running("a")
    replica_id = min(world.replicas)
    world.crash(replica_id)
    for _ in range(2):
        observed = world.observed
        assert list(observed.sight.unsaved(observed.replicas, observed.workers)) == [replica_id]
    world.step()
    observed = world.observed
    assert not observed.sight.unsaved(observed.replicas, observed.workers)


def test_groups_are_the_same_while_their_replicas_are() -> None:
    world = running("a", "b")
    groups = Groups()
    before = groups.of(seen(world.observed))
    world.set_state(next(i for i in world.replicas if i.startswith("a-")), ReplicaState.DRAINING)
    after = groups.of(seen(world.observed))
    assert after["b"] is before["b"] and after["a"] != before["a"]
    assert {name: len(group) for name, group in after.items()} == {"a": 2, "b": 2}
