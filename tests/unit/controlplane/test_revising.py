"""Rollouts that stand still, fail after they began well, or are held: `reconcile` in a world without processes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.controlplane import rollout
from mesh.controlplane.actions import BuildApplication, PlaceReplica, StopReplica
from mesh.controlplane.apply import goal, scaled
from mesh.controlplane.handover import is_under_way
from mesh.model import Application, ReplicaSpec, ReplicaState
from tests.support.control_world import World, built, config


def running(num_replicas: int = 1, code: str = "m:app", **world: float) -> World:
    result = World("w1", "w2", **world)  # type: ignore[arg-type]
    result.apply(config(code=code, num_replicas=num_replicas))
    result.settle()
    return result


def app(world: World) -> Application:
    return world.applications["app"]


def serving_revision(world: World) -> int:
    serving = app(world).serving
    return serving.revision if serving is not None else 0


def versions(world: World) -> set[str]:
    return {replica.version for replica in world.ready("app")}


def is_bad(spec: ReplicaSpec) -> bool:
    return spec.config.import_path == "m:bad"


# A version that does not stay up.


@pytest.mark.parametrize("num_replicas", [1, 4])
def test_a_version_that_ends_after_it_was_ready_is_rolled_back(num_replicas: int) -> None:
    world = running(num_replicas, min_ready_s=1.0)
    before = versions(world)
    world.apply(config(code="m:new", num_replicas=num_replicas))
    world.step()
    world.step()
    for _ in range(rollout.CRASHES_MAX):
        assert app(world).failure is None
        world.start_all()
        world.step()
        new = next(r for r in world.live("app") if r.version not in before)
        world.crash(new.replica_id)
        assert len([r for r in world.ready("app") if r.version in before]) >= num_replicas - 1
        world.step()
    failed = app(world).failure
    assert failed is not None and "ended 3 times after it was ready: exited with code 1" in failed.message
    assert failed.details == "Traceback"
    world.settle()
    assert versions(world) == before and len(world.live("app")) == num_replicas
    assert goal(app(world)) == config(num_replicas=num_replicas)


def test_a_new_replica_must_stay_ready_before_an_old_one_goes() -> None:
    world = running(min_ready_s=1.0)
    world.apply(config(code="m:new"))
    for _ in range(4):
        world.step()
        world.start_all()
    assert len(world.ready("app")) == 2 and len(world.endpoints("app")) == 2
    assert world.decide() == () and app(world).serving != app(world).plan
    world.now += 1.0
    world.settle()
    assert len(world.live("app")) == 1 and app(world).serving == app(world).plan


def test_the_first_revision_need_not_prove_itself() -> None:
    world = World("w1", min_ready_s=60.0)
    world.apply(config())
    for _ in range(3):
        world.step()
        world.start_all()
    world.step()
    assert app(world).serving == app(world).plan and world.now == 1000.0


def test_more_replicas_of_what_serves_need_not_either() -> None:
    world = running(min_ready_s=60.0)
    world.apply(config(num_replicas=3))
    for _ in range(3):
        world.step()
        world.start_all()
    world.step()
    assert app(world).serving == app(world).plan and world.now == 1000.0


def test_what_serves_may_end_as_often_as_it_likes() -> None:
    world = running()
    for _ in range(5):
        world.crash(world.live("app")[0].replica_id)
        world.step()
        world.start_all()
    world.settle()
    assert app(world).failure is None


def test_a_revision_after_a_failed_one_starts_afresh() -> None:
    world = running()
    world.apply(config(code="m:bad"))
    for _ in range(3):
        world.step()
        world.start_all(broken=is_bad)
    assert any(r.status.failed_starts for r in world.live("app"))
    failed = {r.replica_id for r in world.live("app") if not rollout.is_ready(r)}
    world.apply(config(code="m:bad", max_ongoing_requests=7))  # the same version, and its code was mended
    world.settle(start=False)
    world.settle()
    assert app(world).failure is None and app(world).serving == app(world).plan
    assert failed.isdisjoint(r.replica_id for r in world.live("app"))


# Held.


def test_a_revision_that_failed_is_held_beside_what_serves() -> None:
    world = running(2)
    serving = {r.replica_id for r in world.live("app")}
    world.apply(config(code="m:bad", num_replicas=2), hold=True)
    world.settle(broken=is_bad)
    assert app(world).failure is not None and rollout.is_held(app(world)) and not is_under_way(app(world))
    held = {r.replica_id for r in world.live("app")} - serving
    assert held and serving == {r.replica_id for r in world.ready("app")}
    assert goal(app(world)) == config(num_replicas=2)
    assert held < {replica_id for worker in world.workers.values() for replica_id in worker.running}
    for replica_id in held:
        world.set_state(replica_id, ReplicaState.READY)
    world.settle()
    assert set(world.endpoints("app")) == serving, "it gets no calls while what serves is all there"
    world.apply(config(num_replicas=2))
    world.settle()
    assert {r.replica_id for r in world.live("app")} == serving and app(world).failure is None


def test_what_a_held_rollout_had_taken_is_restored() -> None:
    world = running(4)
    world.apply(config(code="m:new", num_replicas=4), hold=True)
    for _ in range(20):
        world.step()
        if len({r.version for r in world.ready("app")}) == 2 and len(world.ready("app")) == 4:
            break
        world.start_all()
    old = app(world).serving
    assert old is not None
    version = old.deployments[0].version
    assert sum(r.version == version for r in world.ready("app")) < 4
    new = next(r for r in world.ready("app") if r.version != version)
    world.set_state(new.replica_id, ReplicaState.BACKOFF, crashes=3, address="")
    world.settle(start=False)
    assert app(world).failure is not None
    world.start_all(broken=lambda spec: spec.version != version)
    world.settle(start=False)
    assert sum(r.version == version for r in world.ready("app")) == 4
    assert new.replica_id in world.replicas


def test_a_first_revision_that_failed_can_be_held() -> None:
    world = World("w1")
    world.apply(config(code="m:bad"), hold=True)
    world.settle(broken=is_bad)
    assert app(world).failure is not None and len(world.live("app")) == 1
    world.apply(config(code="m:good"))
    world.settle()
    assert app(world).failure is None and len(world.live("app")) == len(world.ready("app")) == 1


def test_the_same_again_replaces_what_was_held() -> None:
    world = running()
    world.apply(config(code="m:bad"), hold=True)
    world.settle(broken=is_bad)
    held = {r.replica_id for r in world.live("app") if not rollout.is_ready(r)}
    world.apply(config(code="m:bad"))
    world.settle(start=False)
    world.settle()
    assert app(world).failure is None and app(world).serving == app(world).plan
    assert held.isdisjoint(world.replicas)


# Paused.


def test_a_paused_rollout_stands_still_and_goes_on() -> None:
    world = running(4)
    old = versions(world)
    world.apply(config(code="m:new", num_replicas=4))
    while len(versions(world)) < 2:
        world.step()
        world.start_all()
    world.step()
    world.pause("app")
    mix = sorted(r.replica_id for r in world.live("app"))
    world.settle()
    assert sorted(r.replica_id for r in world.live("app")) == mix
    lost = next(r for r in world.live("app") if r.version in old)
    world.replicas.pop(lost.replica_id)
    world.settle()
    assert len(world.ready("app")) >= 4, "what was lost is restored"
    world.pause("app", False)
    world.settle()
    assert len(world.live("app")) == 4 and versions(world).isdisjoint(old)


def test_a_deploy_while_paused_waits() -> None:
    world = running()
    world.pause("app")
    world.apply(config(code="m:new"))
    assert not is_under_way(app(world))
    world.settle()
    assert not any(isinstance(action, BuildApplication) for action in world.decide())
    assert (app(world).revision, serving_revision(world)) == (2, 1)
    world.pause("app", False)
    assert is_under_way(app(world))
    world.settle()
    assert app(world).serving == app(world).plan and serving_revision(world) == 2


def test_no_time_limit_ends_while_paused() -> None:
    world = running()
    world.apply(config(code="m:new"))
    for _ in range(3):
        world.step()
    world.pause("app")
    world.now += 1e4
    world.registry.restart_limits(set(world.replicas), now=world.now)
    world.settle(start=False)
    world.pause("app", False)
    world.settle(start=False)
    assert app(world).failure is None
    world.settle()
    assert app(world).serving == app(world).plan


def test_a_paused_application_can_be_deleted() -> None:
    world = running()
    world.pause("app")
    world.delete("app")
    world.settle()
    assert world.applications == {} and world.replicas == {}


# Restart and scale.


def test_restart_replaces_what_is_named_and_nothing_else() -> None:
    world = World("w1")
    world.code = lambda _: built("Echo", "Other")
    world.apply(config())
    world.settle()
    echo, other = world.live("app")[0].replica_id, world.live("app", "Other")[0].replica_id
    world.restart("app", "Echo")
    assert is_under_way(app(world)) and goal(app(world)) == config()
    world.settle()
    assert [r.replica_id for r in world.live("app", "Other")] == [other]
    assert [r.replica_id for r in world.live("app")] != [echo]
    before = dict(world.replicas)
    world.apply(config())
    assert app(world).revision == 2, "the same file again changes nothing"
    world.apply(config(num_replicas=2))
    world.settle()
    assert before.keys() < world.replicas.keys(), "what was restarted once is not restarted again"


def test_a_restart_that_failed_is_not_asked_for_any_more() -> None:
    world = running()
    (before,) = world.live("app")
    world.restart("app", "Echo")
    world.settle(broken=lambda spec: spec.replica_id != before.replica_id)
    assert app(world).failure is not None
    world.apply(scaled(config(), {"Echo": 2}))
    world.settle()
    assert app(world).failure is None and before.replica_id in world.replicas and len(world.ready("app")) == 2


def test_scaled_sets_what_is_named_and_adds_what_is_missing() -> None:
    some = config(num_replicas=1, max_ongoing_requests=3)
    changed = scaled(some, {"Echo": 4, "Other": 2})
    assert [(d.name, d.num_replicas, d.max_ongoing_requests) for d in changed.deployments] == [
        ("Echo", 4, 3),
        ("Other", 2, None),
    ]
    assert replace(changed, deployments=some.deployments) == some


# Whatever happens.

CHANGES = st.one_of(
    st.tuples(st.just("apply"), st.sampled_from(["m:a", "m:b"]), st.integers(0, 6), st.sampled_from([0.2, 0.5, 1.0])),
    st.tuples(st.just("restart")),
    st.tuples(st.just("scale"), st.integers(1, 6)),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("crash"), st.integers(0, 9)),
    st.tuples(st.just("fail"), st.integers(0, 9)),
    st.tuples(st.just("start"), st.integers(0, 9)),
    st.tuples(st.just("start_all")),
    st.tuples(st.just("wait"), st.floats(0.1, 2.0)),
)


def _change(world: World, change: tuple[object, ...]) -> None:
    match change:
        case ("apply", str(code), int(count), float(share)):
            world.apply(config(code=code, num_replicas=count, rolling_update_percentage=share))
        case ("restart",) if goal(app(world)) is not None:
            world.restart("app", "Echo")
        case ("scale", int(count)) if (present := goal(app(world))) is not None:
            world.apply(scaled(present, {"Echo": count}))
        case ("pause", bool(paused)):
            world.pause("app", paused)
        case ("crash" | "fail" | "start", int(index)):
            _happen(world, str(change[0]), index)
        case ("start_all",):
            world.start_all()
        case ("wait", float(seconds)):
            world.now += seconds


def _happen(world: World, what: str, index: int) -> None:
    live = world.live("app")
    if not live:
        return
    replica = live[index % len(live)]
    ready = rollout.is_ready(replica)
    if what == "crash" and ready:
        world.crash(replica.replica_id)
    elif what == "fail" and not ready:
        starts = replica.status.failed_starts + 1
        world.set_state(replica.replica_id, ReplicaState.BACKOFF, failed_starts=starts, message="no")
    elif what == "start" and not ready:
        world.set_state(replica.replica_id, ReplicaState.READY)


def _checked_step(world: World) -> None:
    """A step whose decision is within the bounds of a rollout; that capacity stays is checked by the world."""
    before = [r.replica_id for r in world.live("app")]
    actions = world.step()
    placed = [a for a in actions if isinstance(a, PlaceReplica)]
    stopped = {a.replica_id for a in actions if isinstance(a, StopReplica)}
    spec = rollout.goals(app(world)).get("Echo")
    if placed and spec is not None:
        count = len([r for r in before if r not in stopped]) + len(placed)
        most = max(
            s.settings.num_replicas + rollout.surge(s.settings.num_replicas, s.settings.rolling_update_percentage)
            for plan in rollout.plans(app(world))
            for s in plan.deployments
        )
        assert count <= most, "no more than the goal and its surge"


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CHANGES, max_size=30), st.sampled_from([0.0, 1.0]))
def test_whatever_is_asked_it_ends_with_what_was_asked_last(
    changes: list[tuple[object, ...]], min_ready_s: float
) -> None:
    world = running(3, code="m:a", min_ready_s=min_ready_s)
    for change in changes:
        _change(world, change)
        _checked_step(world)
    world.pause("app", False)
    world.settle()
    asked = goal(app(world))
    assert asked is not None
    assert len(world.ready("app")) == len(world.live("app")) == asked.deployments[0].num_replicas
    assert len(versions(world)) <= 1
    assert not is_under_way(app(world))
    if app(world).failure is None:
        assert app(world).serving == app(world).plan
