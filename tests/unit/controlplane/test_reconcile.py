from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.controlplane.actions import (
    BuildApplication,
    ForgetReplica,
    MarkFailed,
    MarkServing,
    PlaceReplica,
    RecordStatus,
    StopReplica,
)
from mesh.controlplane.apply import goal
from mesh.controlplane.builds import BUILDS_PER_WORKER_MAX, PREPARING_BUILDS_PER_WORKER_MAX
from mesh.controlplane.reconcile import counted, next_due, reconcile
from mesh.controlplane.rollout import STARTUP_MARGIN_S
from mesh.model import ApplicationConfig, DeploymentConfig, ReplicaSpec, ReplicaState, RuntimeEnv
from mesh.reasons import Reason
from tests.support.control_world import GRACE_S, REFUSAL, SimWorker, World, built, config


def test_from_nothing_to_serving() -> None:
    world = World("w1")
    world.apply(config(num_replicas=2))
    (build,) = world.step()
    assert isinstance(build, BuildApplication)
    world.settle()
    assert len(world.ready("app")) == 2
    assert world.applications["app"].serving == world.applications["app"].plan
    assert world.decide() == ()


def test_the_same_state_gives_the_same_actions() -> None:
    world = World("w1", "w2")
    world.apply(config("a", num_replicas=3), config("b", num_replicas=2))
    world.step()
    world.step()
    assert world.decide() == world.decide() != ()


def test_builds_wait_for_a_worker_and_are_bounded_per_worker() -> None:
    world = World()
    names = [f"a{i}" for i in range(BUILDS_PER_WORKER_MAX + 3)]
    world.apply(*(config(name) for name in names))
    assert world.decide() == ()
    late = World("w1")
    late.applications = world.applications
    assert len(late.decide()) == BUILDS_PER_WORKER_MAX
    late.settle()
    assert all(len(late.ready(name)) == 1 for name in names)


def test_a_build_that_has_to_install_something_takes_its_time_and_holds_up_no_other() -> None:
    world = World("w1")
    slow = [
        replace(config(f"slow{i}"), runtime_env=RuntimeEnv(pip=("numpy",)))
        for i in range(PREPARING_BUILDS_PER_WORKER_MAX + 1)
    ]
    world.apply(*slow)
    builds = world.decide()
    assert len(builds) == PREPARING_BUILDS_PER_WORKER_MAX
    for build in builds:
        assert isinstance(build, BuildApplication)
        world._build(build)
        waiting = replace(world.builds.newest[build.application], ended=False, prepares=True)
        world.builds.started(waiting)
    assert world.decide() == ()
    world.apply(config("quick"), keep_others=True)
    assert [action.application for action in world.decide() if isinstance(action, BuildApplication)] == ["quick"]
    world.now += 2000.0
    assert not any(isinstance(action, MarkFailed) for action in world.decide())


def test_a_build_ends_with_its_session_and_is_sent_again() -> None:
    world = World("w1")
    world.apply(config())
    (build,) = world.decide()
    assert isinstance(build, BuildApplication)
    world._build(replace(build))
    running = world.builds.newest["app"]
    world.builds.started(replace(running, ended=False, deployments=()))
    assert world.decide() == (), "it waits for the answer"
    world.disconnect("w1")
    world.connect("w1")
    assert [type(action) for action in world.decide()] == [BuildApplication]


def test_a_worker_that_never_answers_a_build_fails_the_revision() -> None:
    world = World("w1")
    world.apply(config())
    (build,) = world.decide()
    assert isinstance(build, BuildApplication)
    world._build(build)
    waiting = replace(world.builds.newest["app"], ended=False)
    world.builds.started(waiting)
    assert next_due(world.desired, world.observed, world.now) == waiting.deadline
    world.now = waiting.deadline
    (failed,) = world.decide()
    assert isinstance(failed, MarkFailed)
    assert "did not answer the build within 70 s" in failed.failure.message


def test_a_failed_build_leaves_what_serves_untouched() -> None:
    world = World("w1")
    world.apply(config(num_replicas=2))
    world.settle()
    before = world.replicas
    world.code = lambda _: "ModuleNotFoundError: no module named 'm'"
    world.apply(config(code="m:other", num_replicas=2))
    world.settle()
    application = world.applications["app"]
    assert application.failure is not None
    assert application.failure.message.startswith("ModuleNotFoundError")
    assert application.serving is not None
    assert application.serving.revision == 1
    assert world.replicas == before
    assert not world.stopped


def test_an_override_of_an_unknown_deployment_names_the_nearest() -> None:
    world = World("w1")
    bad = replace(config(), deployments=(DeploymentConfig(name="Ecko", num_replicas=1),))
    world.apply(bad)
    world.settle()
    failure = world.applications["app"].failure
    assert failure is not None
    assert "no deployment 'Ecko'" in failure.message
    assert (failure.field, failure.hint) == ("deployments[0].name", "did you mean 'Echo'?")


@pytest.mark.parametrize(
    "change",
    [
        {"max_ongoing_requests": 7},
        {"max_queued_requests": 0},
        {"user_config_json": '{"a": 1}'},
        {"request_timeout_s": 3.0},
        {"num_replicas": 4},
    ],
)
def test_settings_alone_restart_nothing(change: dict[str, object]) -> None:
    world = World("w1")
    world.apply(config(num_replicas=2))
    world.settle()
    before = {replica.replica_id for replica in world.ready("app")}
    world.apply(config(**({"num_replicas": 2} | change)))  # type: ignore[arg-type]
    world.settle()
    assert before <= {replica.replica_id for replica in world.ready("app")}
    assert not world.stopped
    (spec,) = {spec.settings for spec in world.workers["w1"].specs.values()}
    assert all(getattr(spec, name) == value for name, value in change.items())
    assert world.applications["app"].serving == world.applications["app"].plan


BAD = '{"rate": "fast"}'


def refuses(*replica_ids: str) -> Callable[[ReplicaSpec], bool]:
    """Whether it is one of these replicas (none: any), told the bad user_config."""
    return lambda spec: spec.settings.user_config_json == BAD and spec.replica_id in (replica_ids or (spec.replica_id,))


@pytest.mark.parametrize("all_refuse", [True, False])
def test_settings_that_a_replica_refuses_fail_their_revision_and_the_old_hold_again(all_refuse: bool) -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=3, user_config_json='{"rate": 1}'))
    world.settle()
    before = {replica.replica_id for replica in world.ready("app")}
    for worker in world.workers.values():
        worker.refuses = refuses(*(() if all_refuse else sorted(before)[-1:]))
    world.apply(config(num_replicas=3, user_config_json=BAD))
    world.settle()
    application = world.applications["app"]
    assert application.failure == replace(
        REFUSAL,
        message="deployment 'Echo' did not take its new settings: ValueError: no (m.py:8)",
        reason=Reason.SETTINGS_REFUSED,
    )
    assert goal(application) == config(num_replicas=3, user_config_json='{"rate": 1}')
    assert {replica.replica_id for replica in world.ready("app")} == before
    assert not world.stopped
    specs = [spec for worker in world.workers.values() for spec in worker.specs.values()]
    assert {(spec.settings.user_config_json, spec.settings_revision) for spec in specs} == {('{"rate": 1}', 1)}
    assert all(spec.config == goal(application) for spec in specs), "so a replica that starts anew does well"
    world.apply(config(num_replicas=3, user_config_json='{"rate": 2}'))
    world.settle()
    application = world.applications["app"]
    assert (application.failure, application.serving) == (None, application.plan)


def test_settings_serve_only_once_the_replicas_took_them() -> None:
    world = World("w1")
    world.apply(config(num_replicas=1))
    world.settle()
    world.apply(config(num_replicas=1, user_config_json="1"))
    world.step()
    world.workers["w1"].obey = lambda specs: None  # type: ignore[method-assign]
    world.step()
    (replica,) = world.ready("app")
    assert world.decide() == ()
    world.set_state(replica.replica_id, ReplicaState.READY, settings_revision=2)
    assert [type(action) for action in world.decide()] == [MarkServing]


def test_a_replica_that_cannot_start_with_new_settings_fails_them_though_its_version_served() -> None:
    world = World("w1")
    world.apply(config(num_replicas=1, user_config_json="1"))
    world.settle()
    (replica,) = world.ready("app")
    world.set_state(replica.replica_id, ReplicaState.BACKOFF, crashes=1)
    world.apply(config(num_replicas=1, user_config_json=BAD))
    world.settle(start=False)
    world.settle(broken=refuses())
    application = world.applications["app"]
    assert application.failure is not None
    assert application.failure.message == "deployment 'Echo' failed to start 3 times: it is broken"
    assert [r.replica_id for r in world.ready("app")] == [replica.replica_id]


def test_a_new_version_replaces_the_old_without_a_gap() -> None:
    world = World("w1")
    world.apply(config(num_replicas=5))
    world.settle()
    old = {replica.replica_id for replica in world.ready("app")}
    world.apply(config(code="m:new", num_replicas=5))
    world.step()
    world.step()
    while len(world.live("app")) > 5 or old & {r.replica_id for r in world.live("app")}:
        assert len(world.ready("app")) >= 5
        assert len(world.live("app")) <= 6, "a fifth more, at least one"
        if not world.step():
            world.start_all()
    world.settle()
    assert len(world.ready("app")) == 5


def test_one_replica_is_replaced_without_a_gap() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    (old,) = world.endpoints("app")
    world.apply(config(code="m:new"))
    world.step()
    world.step()
    world.step()
    assert world.endpoints("app") == [old]
    assert len(world.live("app")) == 2
    world.settle()
    (new,) = world.endpoints("app")
    assert new != old


def test_a_neighbour_is_not_touched() -> None:
    world = World("w1")
    world.code = lambda c: built("Front", "Echo")
    world.apply(config(num_replicas=2))
    world.settle()
    front = {replica.replica_id for replica in world.ready("app", "Front")}
    world.apply(config(num_replicas=1, max_ongoing_requests=3))
    world.settle()
    assert {replica.replica_id for replica in world.ready("app", "Front")} == front
    assert len(world.ready("app")) == 1


def test_a_deployment_that_is_gone_stops_when_the_new_plan_is_ready() -> None:
    world = World("w1")
    world.code = lambda c: built("Front", "Echo") if c.import_path == "m:app" else built("Front")
    world.apply(config())
    world.settle()
    world.apply(config(code="m:new"))
    for _ in range(4):
        world.step()
    (gone,) = world.ready("app", "Echo")
    assert gone.replica_id in world.workers["w1"].specs, "the new front is not ready yet"
    world.start_all()
    actions = world.step()
    assert MarkServing("app", 2) in actions
    assert StopReplica(gone.replica_id, "its deployment is not wanted") in actions, "its plan is gone with this pass"
    world.settle()
    assert not world.live("app", "Echo")
    assert len(world.ready("app", "Front")) == 1


def test_a_broken_version_fails_and_the_old_serves_on() -> None:
    world = World("w1")
    world.apply(config(num_replicas=3))
    world.settle()
    before = set(world.endpoints("app"))
    world.apply(config(code="m:bad", num_replicas=3))
    world.settle(broken=lambda spec: spec.config.import_path == "m:bad")
    application = world.applications["app"]
    assert application.failure is not None
    assert application.failure.message == "deployment 'Echo' failed to start 3 times: it is broken"
    assert set(world.endpoints("app")) == before
    assert len(world.replicas) == 3
    world.apply(config(code="m:good", num_replicas=3))
    world.settle()
    assert world.applications["app"].failure is None
    assert len(world.ready("app")) == 3
    assert not before & set(world.endpoints("app"))


def test_a_broken_first_version_leaves_nothing_running() -> None:
    world = World("w1")
    world.apply(config(num_replicas=3))
    world.settle(broken=lambda spec: True)
    assert world.applications["app"].failure
    assert world.applications["app"].serving is None
    assert not world.replicas


def test_the_same_config_after_a_failure_tries_again() -> None:
    world = World("w1")
    world.apply(config())
    world.settle(broken=lambda spec: True)
    world.apply(config())
    assert world.applications["app"].revision == 2
    world.settle()
    assert len(world.ready("app")) == 1


def test_a_version_that_never_gets_ready_fails_after_its_startup_timeout() -> None:
    world = World("w1")
    world.apply(config(startup_timeout_s=7.0))
    world.settle(start=False)
    due = next_due(world.desired, world.observed, world.now)
    assert due == world.now + 7.0 + STARTUP_MARGIN_S
    world.now = due - 0.1
    assert world.decide() == ()
    world.now = due
    world.settle(start=False)
    assert "not ready within 7 s" in str(world.applications["app"].failure)
    assert not world.replicas


def test_crashes_after_ready_never_fail_a_revision() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    (replica,) = world.ready("app")
    world.set_state(replica.replica_id, ReplicaState.BACKOFF, crashes=9, failed_starts=9, message="it crashed")
    world.settle(start=False)
    assert world.applications["app"].failure is None
    assert list(world.replicas) == [replica.replica_id], "its worker starts it again"
    assert world.endpoints("app") == []


def test_one_ready_replica_proves_a_version() -> None:
    world = World("w1")
    world.apply(config(num_replicas=2))
    for _ in range(3):
        world.step()
    first, second = sorted(world.replicas)
    world.set_state(first, ReplicaState.READY)
    world.set_state(second, ReplicaState.BACKOFF, failed_starts=3, message="out of memory")
    world.settle(start=False)
    assert world.applications["app"].failure is None
    assert world.endpoints("app") == [first]


def test_scaling_down_stops_those_that_are_not_ready_first() -> None:
    world = World("w1")
    world.apply(config(num_replicas=3))
    world.settle()
    (weak, *_) = sorted(world.replicas)
    world.set_state(weak, ReplicaState.BACKOFF, crashes=1)
    world.apply(config(num_replicas=2))
    world.settle(start=False)
    assert weak not in world.replicas
    assert len(world.ready("app")) == 2


def test_scaling_to_zero_and_back() -> None:
    world = World("w1")
    world.apply(config(num_replicas=0))
    world.settle()
    assert world.applications["app"].serving is not None
    assert not world.replicas
    world.apply(config(num_replicas=1))
    world.settle()
    assert len(world.ready("app")) == 1


def test_a_version_that_was_never_started_can_still_fail() -> None:
    world = World("w1")
    world.apply(config(num_replicas=0))
    world.settle()
    world.apply(config(num_replicas=1))
    world.settle(broken=lambda spec: True)
    assert "failed to start" in str(world.applications["app"].failure)
    assert not world.replicas


def test_a_worker_that_is_away_keeps_its_replicas_until_the_grace_ends() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=2))
    world.settle()
    before = world.endpoints("app")
    world.disconnect("w1")
    assert world.decide() == ()
    assert world.endpoints("app") == before
    assert next_due(world.desired, world.observed, world.now) == world.now + GRACE_S
    world.now += GRACE_S
    world.settle()
    assert len(world.ready("app")) == 2
    assert {replica.worker_id for replica in world.replicas.values()} == {"w2"}
    world.connect("w1")
    world.settle()
    assert not world.workers["w1"].running, "what it still ran is stopped"


def test_a_worker_that_comes_back_in_time_keeps_everything() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=2))
    world.settle()
    before = dict(world.replicas)
    world.disconnect("w1")
    world.now += GRACE_S / 2
    world.connect("w1")
    world.now += GRACE_S
    world.settle(start=False)
    assert world.replicas == before


def test_a_leaving_worker_is_replaced_at_once() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=2))
    world.settle()
    world.registry.leaving("w1", world.workers["w1"].session, now=world.now)
    forgotten = [action for action in world.decide() if isinstance(action, ForgetReplica)]
    assert len(forgotten) == 1
    assert "leaving" in forgotten[0].reason
    world.settle()
    assert [replica.worker_id for replica in world.ready("app")] == ["w2", "w2"]


def test_replicas_that_drain_unasked_are_replaced_before_they_end() -> None:
    world = World("w1")
    world.apply(config(num_replicas=2))
    world.settle()
    ending, other = [replica.replica_id for replica in world.ready("app")]
    world.set_state(ending, ReplicaState.DRAINING)
    actions = world.decide()
    placed = [action for action in actions if isinstance(action, PlaceReplica)]
    assert [action.replica.worker_id for action in placed] == ["w1"]
    assert StopReplica(ending, "its process was told to end") in actions, "its worker is not to start it again as well"
    world.settle()
    assert len(world.ready("app")) == len(world.replicas) == 2
    assert ending not in world.replicas
    assert other in world.replicas


def test_what_a_worker_drains_at_once_is_replaced_elsewhere() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=2))
    world.settle()
    (ending,) = [replica.replica_id for replica in world.ready("app") if replica.worker_id == "w1"]
    world.registry.draining("w1", world.workers["w1"].session, now=world.now)
    world.set_state(ending, ReplicaState.DRAINING)
    placed = [action for action in world.decide() if isinstance(action, PlaceReplica)]
    assert [action.replica.worker_id for action in placed] == ["w2"]
    world.apply(config(num_replicas=3))
    world.settle(start=False)
    assert [r.worker_id for r in world.live("app") if r.replica_id != ending] == ["w2"] * 3, "w1 is about to leave"
    world.registry.leaving("w1", world.workers["w1"].session, now=world.now)
    world.settle()
    assert len(world.ready("app")) == len(world.replicas) == 3


def test_a_new_leader_changes_nothing() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=4))
    world.settle()
    before, endpoints = dict(world.replicas), world.endpoints("app")
    world.new_leader()
    assert world.decide() == ()
    assert world.endpoints("app") == endpoints
    world.now += GRACE_S / 2
    world.connect("w1")
    assert world.endpoints("app") == endpoints
    world.connect("w2")
    world.now += 2 * GRACE_S
    world.settle(start=False)
    assert world.replicas == before


def test_a_new_leader_gives_up_workers_that_never_come() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=2))
    world.settle()
    world.new_leader()
    world.connect("w2")
    world.now += GRACE_S
    world.settle()
    assert [replica.worker_id for replica in world.ready("app")] == ["w2", "w2"]


def test_a_worker_started_anew_starts_its_replicas_anew() -> None:
    world = World("w1")
    world.apply(config(num_replicas=2))
    world.settle()
    before = set(world.replicas)
    world.restart_worker("w1")
    assert world.endpoints("app") == []
    recorded = [action for action in world.decide() if isinstance(action, RecordStatus)]
    assert len(recorded) == 2, "a next leader must not believe that they are ready"
    world.settle()
    assert set(world.replicas) == before
    assert len(world.ready("app")) == 2


def test_without_room_it_waits_and_goes_on() -> None:
    world = World("w1", max_replicas=2)
    world.apply(config(num_replicas=3))
    world.settle()
    assert len(world.ready("app")) == 2
    assert world.applications["app"].serving is None
    world.workers["w2"] = replace(world.workers["w1"], worker_id="w2", running={}, specs={}, session=0)
    world.connect("w2")
    world.settle()
    assert len(world.ready("app")) == 3


def test_deleting_drains_then_removes() -> None:
    world = World("w1")
    world.apply(config("a"), config("b"))
    world.settle()
    world.apply(config("b"))
    assert world.applications["a"].deleting
    assert world.endpoints("a") == []
    (stop,) = world.decide()
    assert isinstance(stop, StopReplica)
    world.settle()
    assert set(world.applications) == {"b"}
    assert len(world.replicas) == 1


def test_applied_again_while_it_is_deleted() -> None:
    world = World("w1")
    world.apply(config("a"))
    world.settle()
    (old,) = world.replicas
    world.apply()
    world.step()
    world.apply(config("a"))
    world.settle()
    assert world.applications["a"].revision == 2
    assert old not in world.replicas
    assert len(world.ready("a")) == 1


def test_replicas_run_on_while_the_next_revision_is_built() -> None:
    world = World("w1")
    world.apply(config(num_replicas=2))
    for _ in range(3):
        world.step()
    first, second = sorted(world.replicas)
    world.set_state(first, ReplicaState.READY)
    world.apply(config(num_replicas=2, max_ongoing_requests=5))
    world.disconnect("w1")
    world.connect("w1")
    world.settle()
    assert {first, second} == set(world.replicas), "settings alone restart nothing, even before the first is ready"
    assert not world.stopped


def test_a_rollout_that_is_overtaken_keeps_its_capacity() -> None:
    world = World("w1")
    world.apply(config(num_replicas=5))
    world.settle()
    world.apply(config(code="m:two", num_replicas=5))
    while len({replica.version for replica in world.ready("app")}) < 2:
        world.step()
        world.start_all()
    world.step()
    world.apply(config(code="m:three", num_replicas=5))
    actions = world.step()
    assert any(isinstance(action, BuildApplication) for action in actions)
    changed = [action for action in actions if isinstance(action, PlaceReplica | StopReplica)]
    assert changed == [], "what runs may be just what the next revision wants"
    for _ in range(20):
        world.step()
        assert len(world.ready("app")) >= 5
        world.start_all()
    world.settle()
    assert {replica.revision for replica in world.ready("app")} == {3}
    assert len(world.replicas) == 5
    assert world.applications["app"].superseded == ()


def test_what_is_lost_while_a_revision_is_built_is_made_up_for() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=4))
    world.settle()
    world.apply(config(num_replicas=4, max_ongoing_requests=3))
    world.registry.leaving("w1", world.workers["w1"].session, now=world.now)
    placed = [action.replica for action in world.decide() if isinstance(action, PlaceReplica)]
    assert [(replica.worker_id, replica.revision) for replica in placed] == [("w2", 1), ("w2", 1)]


def _lost(*, new_leader: bool = False) -> tuple[World, str]:
    """A world whose only ready replica is on w1, which is lost; its replacement on w2 has not started yet."""
    world = World("w1")
    world.apply(config())
    world.settle()
    (old,) = world.endpoints("app")
    world.workers["w2"] = SimWorker("w2")
    if new_leader:
        world.new_leader()
    else:
        world.disconnect("w1")
    world.connect("w2")
    world.now += GRACE_S
    for _ in range(3):
        world.step()
    return world, old


@pytest.mark.parametrize("new_leader", [False, True])
def test_a_lost_worker_that_comes_back_before_it_is_replaced_serves_on(new_leader: bool) -> None:
    world, old = _lost(new_leader=new_leader)
    assert [replica.worker_id for replica in world.replicas.values() if replica.replica_id != old] == ["w2"]
    assert world.endpoints("app") == [old], "it may still be reached, and there is no other"
    assert [r.replica_id for r in counted(world.observed, world.now).replicas.values()] != [old]
    world.connect("w1")
    assert list(world.workers["w1"].running) == [old], "it was not stopped"
    world.settle(start=False)
    assert world.endpoints("app") == [old]
    assert list(world.replicas) == [old], "the one that had not started is too many"
    assert not world.workers["w2"].running


@pytest.mark.parametrize("new_leader", [False, True])
def test_a_lost_worker_is_forgotten_once_it_is_replaced(new_leader: bool) -> None:
    world, old = _lost(new_leader=new_leader)
    world.settle()
    (new,) = world.endpoints("app")
    assert new != old
    assert list(world.replicas) == [new]
    world.connect("w1")
    world.settle()
    assert not world.workers["w1"].running
    assert world.endpoints("app") == [new]


def test_replicas_of_a_lost_worker_that_nobody_can_replace_are_kept() -> None:
    world = World("w1")
    world.apply(config(num_replicas=2))
    world.settle()
    endpoints = world.endpoints("app")
    world.disconnect("w1")
    world.now += 100 * GRACE_S
    world.settle()
    assert not counted(world.observed, world.now).replicas, "they do not count"
    world.connect("w1")
    world.settle()
    assert world.endpoints("app") == endpoints
    assert len(world.replicas) == 2


def test_replicas_of_a_lost_worker_go_with_their_application_and_version() -> None:
    for wanted in ((), (config(num_replicas=0),)):
        world, _ = _lost()
        world.apply(*wanted)
        world.settle()
        assert not world.replicas


def test_old_replicas_of_a_worker_that_comes_back_during_a_rollout_count() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=2))
    world.settle()
    world.disconnect("w1")
    world.now += GRACE_S
    world.apply(config(num_replicas=2, code="m:new"))
    world.step()
    world.step()
    world.connect("w1")
    assert len(world.ready("app")) == 2
    world.settle()
    assert {replica.revision for replica in world.ready("app")} == {2}


def test_replicas_of_an_application_that_vanished_stop() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    world.applications.clear()
    world.settle()
    assert not world.replicas


def test_reconcile_takes_whole_values_only() -> None:
    world = World("w1")
    world.apply(config())
    assert reconcile(world.desired, world.observed, world.now) == world.decide()


CODES = ("m:one", "m:two", "m:bad")
EVENTS = st.one_of(
    st.tuples(
        st.just("apply"),
        st.lists(
            st.tuples(st.sampled_from(("a", "b")), st.sampled_from(CODES), st.integers(0, 6), st.sampled_from((1, 50))),
            max_size=2,
            unique_by=lambda entry: entry[0],
        ),
    ),
    st.tuples(st.sampled_from(("disconnect", "connect", "restart")), st.sampled_from(("w1", "w2", "w3"))),
    st.tuples(st.just("pass"), st.integers(1, 3)),
    st.tuples(st.just("wait"), st.sampled_from((1.0, GRACE_S / 2, GRACE_S, 100.0))),
    st.tuples(st.just("one"), st.integers(0, 30)),
    st.tuples(st.just("crash"), st.integers(0, 30)),
    st.tuples(st.just("leader"), st.none()),
)


def _is_broken(spec: ReplicaSpec) -> bool:
    return spec.config.import_path == "m:bad"


def _happen(world: World, event: tuple[str, object]) -> None:
    match event:
        case ("apply", list() as entries):
            patient = {"startup_timeout_s": 100_000.0}
            world.apply(
                *(config(n, code, count, max_ongoing_requests=limit, **patient) for n, code, count, limit in entries)
            )
        case ("disconnect", str() as worker_id):
            world.disconnect(worker_id)
        case ("connect", str() as worker_id):
            world.connect(worker_id)
        case ("restart", str() as worker_id):
            world.restart_worker(worker_id)
        case ("pass", int() as times):
            for _ in range(times):
                world.step()
        case ("wait", float() as seconds):
            world.now += seconds
        case ("leader", _):
            world.new_leader()
        case (("one" | "crash") as kind, int() as number):
            replicas = [(i, s) for w in world.workers.values() for i, s in w.specs.items() if i in w.running]
            if not replicas:
                return
            replica_id, spec = replicas[number % len(replicas)]
            if kind == "crash":
                world.set_state(replica_id, ReplicaState.BACKOFF, crashes=1, message="crashed")
            elif _is_broken(spec):
                world.set_state(replica_id, ReplicaState.BACKOFF, failed_starts=3, message="broken")
            else:
                world.set_state(replica_id, ReplicaState.READY)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=25))
def test_whatever_happens_it_converges(events: list[tuple[str, object]]) -> None:
    world = World("w1", "w2", "w3")
    for event in events:
        _happen(world, event)
        world.step()
    for worker_id, worker in world.workers.items():
        if not worker.session:
            world.connect(worker_id)
    world.now += 10 * GRACE_S
    world.settle(broken=_is_broken)
    for name, application in world.applications.items():
        assert not application.deleting
        goal = _goal(application.config)
        if application.config.import_path == "m:bad" and goal:
            # A crash report counts as having been ready; then the version is not failed but mended by its worker.
            assert application.failure or any(r.status.crashes for r in world.live(name))
            continue
        assert application.failure is None
        assert application.serving == application.plan
        ready = world.ready(name)
        assert len(ready) == len(world.live(name)) == goal
        assert len({replica.version for replica in ready}) <= 1
    known = {replica_id for worker in world.workers.values() for replica_id in worker.running}
    assert known == set(world.replicas), "nothing runs that is not known, nothing is known that does not run"


_goal: Callable[[ApplicationConfig], int] = lambda c: c.deployments[0].num_replicas or 0  # noqa: E731
