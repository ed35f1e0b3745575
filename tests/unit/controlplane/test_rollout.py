from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.controlplane import rollout
from mesh.controlplane.rollout import STARTUP_MARGIN_S, Step, failure, step, surge
from mesh.model import (
    Application,
    ApplicationConfig,
    DeploymentConfig,
    DeploymentSettings,
    DeploymentSpec,
    Failure,
    Plan,
    Replica,
    ReplicaState,
    ReplicaStatus,
)
from mesh.reasons import Reason
from mesh.serving.options import late_start


def replica(name: str, state: ReplicaState = ReplicaState.READY, since: float = 0.0, **status: int | str) -> Replica:
    address = f"host:{name}" if state is ReplicaState.READY else ""
    seen = ReplicaStatus(name, state, address, since=since, **status)  # type: ignore[arg-type]
    return Replica(replica_id=name, deployment="Echo", version=name[0], status=seen)


def several(prefix: str, ready: int, starting: int = 0) -> list[Replica]:
    states = [ReplicaState.READY] * ready + [ReplicaState.STARTING] * starting
    return [replica(f"{prefix}{i}", state) for i, state in enumerate(states)]


@pytest.mark.parametrize(("goal", "extra"), [(0, 1), (1, 1), (4, 1), (9, 1), (10, 2), (100, 20)])
def test_surge_is_a_fifth_and_at_least_one(goal: int, extra: int) -> None:
    assert surge(goal) == extra


@pytest.mark.parametrize(
    ("goal", "current", "old", "expected"),
    [
        (3, [], [], Step(3)),
        (3, several("n", 3), [], Step()),
        (1, [], several("o", 1), Step(1)),
        (1, several("n", 0, 1), several("o", 1), Step()),
        (1, several("n", 1), several("o", 1), Step(0, ("o0",))),
        (10, [], several("o", 10), Step(2)),
        (10, several("n", 1, 1), several("o", 10), Step(1, ("o0",))),
        (3, [], several("o", 5), Step(1, ("o0", "o1"))),
        (3, [], several("o", 3, 2), Step(1, ("o3", "o4"))),
        (0, [], several("o", 2), Step(0, ("o0", "o1"))),
        (2, several("n", 2, 1), [], Step(0, ("n2",))),
        (2, several("n", 3), several("o", 1), Step(0, ("o0", "n0"))),
    ],
)
def test_step(goal: int, current: list[Replica], old: list[Replica], expected: Step) -> None:
    assert step(goal, current, old) == expected


def test_the_newest_stop_first() -> None:
    replicas = [replica("a", since=1.0), replica("b", since=3.0), replica("c", since=2.0)]
    assert step(1, replicas, []).stop == ("b", "c")


def test_a_ready_replica_without_an_address_cannot_be_called() -> None:
    assert not rollout.is_ready(Replica(status=ReplicaStatus(state=ReplicaState.READY)))


CONFIG = ApplicationConfig(deployments=(DeploymentConfig("Echo", startup_timeout_s=30.0),))
SPEC = DeploymentSpec("Echo", True, "n", DeploymentSettings(startup_timeout_s=30.0))


def test_failure_needs_three_starts_or_the_timeout() -> None:
    trying = replica("n0", ReplicaState.BACKOFF, failed_starts=2, message="boom")
    assert failure(CONFIG, SPEC, [trying], {"n0": 0.0}, 30.0) is None
    late = failure(CONFIG, SPEC, [trying], {"n0": 0.0}, 30.0 + STARTUP_MARGIN_S)
    assert late is not None and late.message == "deployment 'Echo' was not ready within 30 s of its start: boom"
    third = replica("n0", ReplicaState.BACKOFF, failed_starts=3, message="boom")
    broken = failure(CONFIG, SPEC, [third], {}, 0.0)
    assert broken is not None and broken.message == "deployment 'Echo' failed to start 3 times: boom"
    assert broken.field == "import_path" and broken.hint
    said = Failure("boom", "deployments[0].user_config", "mend it", "Traceback")
    told = failure(CONFIG, SPEC, [replace(third, status=replace(third.status, failure=said))], {}, 0.0)
    assert told == replace(said, message=broken.message, reason=Reason.START_FAILED), (
        "what the replica said of it is kept"
    )


@pytest.mark.parametrize("said_by_worker", [True, False])
@pytest.mark.parametrize("in_config", [True, False])
def test_a_start_that_takes_too_long_is_told_once_and_located_at_its_limit(
    said_by_worker: bool, in_config: bool
) -> None:
    config = CONFIG if in_config else ApplicationConfig(deployments=(DeploymentConfig("Echo"),))
    trying = replica("n0", ReplicaState.STARTING)
    if said_by_worker:
        said = late_start(config, "Echo", 30.0)
        trying = replace(trying, status=replace(trying.status, message=said.message, failure=said))
    late = failure(config, SPEC, [trying], {"n0": 0.0}, 30.0 + STARTUP_MARGIN_S)
    assert late is not None
    assert late.message == "deployment 'Echo' was not ready within 30 s of its start"
    assert late.field == ("deployments[0].startup_timeout_s" if in_config else "import_path")
    assert "startup_timeout_s" in late.hint


def test_one_that_is_ready_gives_the_others_time_up_to_their_limit() -> None:
    third = replica("n0", ReplicaState.BACKOFF, failed_starts=3, message="boom")
    limit_s = 30.0 + STARTUP_MARGIN_S
    assert failure(CONFIG, SPEC, [third, replica("n1")], {"n0": 0.0}, limit_s - 1) is None
    late = failure(CONFIG, SPEC, [third, replica("n1")], {"n0": 0.0}, limit_s)
    assert late is not None and late.message.endswith("was not ready within 30 s of its start: boom")
    gone = replica("n1", ReplicaState.BACKOFF, crashes=1)
    assert failure(CONFIG, SPEC, [third, gone], {}, 0.0) is not None, "nobody is ready now"


def test_a_version_whose_replicas_end_again_and_again_has_failed() -> None:
    said = Failure("exited with code 3", details="Traceback")
    often = replica("n0", ReplicaState.BACKOFF, crashes=2)
    often = replace(often, status=replace(often.status, last_failure=said))
    assert failure(CONFIG, SPEC, [often, replica("n1")], {}, 0.0) is None
    found = failure(CONFIG, SPEC, [replica("n1", crashes=1), often], {}, 0.0)
    assert found is not None
    assert found.message == "deployment 'Echo' ended 3 times after it was ready: exited with code 3"
    assert (found.field, found.details) == ("import_path", "Traceback")


def test_what_failed_before_a_revision_is_spent_for_it() -> None:
    newest = Application(revision=3, plan=plan(3, "n", "Echo"), serving=plan(1, "o", "Echo"))
    failing = replica("n0", ReplicaState.BACKOFF, failed_starts=1)
    earlier = [failing, replica("n1", crashes=5), replica("n2", ReplicaState.STARTING), replica("o0", crashes=1)]
    earlier = [replace(each, revision=2) for each in earlier]
    assert rollout.spent(newest, earlier) == earlier[:1], "the others are ready, may be soon, or serve"
    assert rollout.spent(newest, [replace(each, revision=3) for each in earlier]) == []


def test_a_fresh_replica_stands_in_for_nobody() -> None:
    new, old = several("n", 1), several("o", 1)
    assert step(1, new, old, fresh={"n0"}) == Step()
    assert step(1, new, old) == Step(0, ("o0",))


@pytest.mark.parametrize(
    ("goal", "share", "extra"), [(10, 0.5, 5), (10, 1.0, 10), (100, 0.29, 29), (3, 0.01, 1), (10, 0.0, 2), (0, 1.0, 1)]
)
def test_surge_is_a_share_of_the_goal(goal: int, share: float, extra: int) -> None:
    assert surge(goal, share) == extra
    assert step(goal, [], several("o", goal), share=share) == Step(min(goal, extra))


def plan(revision: int, version: str, *names: str, replicas: int = 1) -> Plan:
    settings = DeploymentSettings(num_replicas=replicas)
    specs = tuple(DeploymentSpec(name, i == 0, version, settings) for i, name in enumerate(names))
    return Plan(revision, ApplicationConfig(name="app"), specs)


def test_goals_hold_what_serves_until_the_new_plan_is_built_and_again_after_it_failed() -> None:
    old, new = plan(1, "o", "Echo", "Gone"), plan(2, "n", "Echo")
    building = Application(revision=2, plan=old, serving=old)
    assert {name: spec.version for name, spec in rollout.goals(building).items()} == {"Echo": "o", "Gone": "o"}
    rolling = Application(revision=2, plan=new, serving=old)
    assert {name: spec.version for name, spec in rollout.goals(rolling).items()} == {"Echo": "n", "Gone": "o"}
    failed = Application(revision=2, plan=new, serving=old, failure=Failure("no"))
    assert rollout.goals(failed) == rollout.goals(building)
    assert rollout.goals(Application(revision=2, plan=new, serving=new, deleting=True)) == {}


def test_only_versions_that_do_not_serve_yet_can_fail() -> None:
    old, new = plan(1, "o", "Echo"), plan(2, "n", "Echo")
    assert rollout.new_versions(Application(revision=2, plan=new, serving=old)) == new.deployments
    assert rollout.new_versions(Application(revision=2, plan=plan(2, "o", "Echo"), serving=old)) == ()
    assert rollout.new_versions(Application(revision=3, plan=new, serving=old)) == ()


def test_a_plan_that_is_replaced_is_kept_while_its_replicas_serve() -> None:
    first, second = plan(1, "o", "Echo"), plan(2, "n", "Echo")
    half = Application(revision=3, plan=second, serving=first)
    assert rollout.superseded(half, several("n", 0, 2)) == (first, ())
    assert rollout.superseded(half, several("n", 1, 1)) == (first, (second,))
    unproven = Application(revision=3, plan=second)
    assert rollout.superseded(unproven, several("n", 1, 1)) == (second, ())
    assert rollout.superseded(unproven, several("n", 0, 1)) == (None, ())


def test_settings_in_force_are_those_of_the_newest_plan_unless_it_failed() -> None:
    small, large = plan(1, "v", "Echo", replicas=1), plan(2, "v", "Echo", replicas=5)
    one = replica("v0")
    rolling = Application(revision=2, plan=large, serving=small)
    spec = rollout.spec_of(rolling, one)
    assert spec is not None
    assert spec.settings.num_replicas == 5
    failed = rollout.spec_of(Application(revision=2, plan=large, serving=small, failure=Failure("no")), one)
    assert failed is not None
    assert failed.settings.num_replicas == 1
    assert rollout.spec_of(rolling, replica("x0")) is None


def told(name: str, revision: int, state: ReplicaState = ReplicaState.READY, **status: object) -> Replica:
    made = replica(name, state)
    return replace(made, status=replace(made.status, settings_revision=revision, **status))  # type: ignore[arg-type]


NO = Failure("no", "deployments[0].user_config", "mend it", "Traceback")


@pytest.mark.parametrize(
    ("replicas", "message", "ready"),
    [
        ([told("n0", 1), told("n1", 1)], "", False),
        ([told("n0", 2), told("n1", 1)], "", False),
        ([told("n0", 2), told("n1", 2)], "", True),
        ([told("n0", 0), told("n1", 0)], "", True),
        ([told("n0", 2), told("n1", 2, failure=NO)], "did not take its new settings: no", False),
        ([told("n0", 1), told("n1", 1, failure=NO)], "", False),
        ([told("n0", 1), told("n1", 2, ReplicaState.BACKOFF, failed_starts=2)], "", False),
        ([told("n0", 1), told("n1", 2, ReplicaState.BACKOFF, failed_starts=3, message="x")], "start 3 times: x", False),
        ([told("n0", 2), told("n1", 2, ReplicaState.BACKOFF, failed_starts=3, message="x")], "", False),
    ],
)
def test_settings_are_refused_by_one_that_does_not_take_them_and_by_starts_that_fail(
    replicas: list[Replica], message: str, ready: bool
) -> None:
    lighter = Application(revision=2, plan=plan(2, "n", "Echo", replicas=2), serving=plan(1, "n", "Echo", replicas=2))
    why = rollout.refusal(lighter, replicas)
    assert (why is not None) == bool(message)
    assert why is None or why.message.endswith(message)
    assert rollout.is_wholly_ready(lighter, replicas) is ready
    assert rollout.refusal(replace(lighter, serving=lighter.plan), replicas) is None, "what serves is not undone"
    assert rollout.refusal(replace(lighter, failure=NO), replicas) is None
