"""What one apply takes away it takes when all that it brings is ready, else not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.controlplane import publish
from mesh.controlplane.actions import BuildApplication, CancelBuild
from mesh.controlplane.apply import goal
from mesh.controlplane.handover import is_settled
from mesh.controlplane.publish import RoutedApplication
from mesh.controlplane.reconcile import seen
from mesh.controlplane.statuses import applications_status
from mesh.controlplane.validate import apply_problems
from mesh.model import (
    ApplicationConfig,
    ApplicationState,
    BuiltDeployment,
    DeploymentConfig,
    Failure,
    ReplicaSpec,
    RuntimeEnv,
)
from mesh.reasons import Reason
from tests.support.control_world import World, built

BROKEN = "m:broken"
UNBUILDABLE = "m:unbuildable"


def application(name: str, route: str = "", code: str = "m:app", replicas: int = 1) -> ApplicationConfig:
    deployments = () if replicas == 1 else (DeploymentConfig(name="Echo", num_replicas=replicas),)
    return ApplicationConfig(name, route or f"/{name}", code, RuntimeEnv(), "", deployments)


def code(config: ApplicationConfig) -> tuple[BuiltDeployment, ...] | str:
    return "ImportError: no" if config.import_path == UNBUILDABLE else built("Echo")


def is_broken(spec: ReplicaSpec) -> bool:
    return spec.config.import_path == BROKEN


def world(*configs: ApplicationConfig, max_replicas: int = 100) -> World:
    """One in which these applications serve."""
    made = World("w1", max_replicas=max_replicas)
    made.code = code
    made.apply(*configs)
    made.settle()
    return made


def routed(world: World) -> dict[str, RoutedApplication]:
    """By route, as gateways have it."""
    snapshot = publish.snapshot(world.applications, seen(world.observed), 0.0)
    routes = [a.route_prefix for a in snapshot.applications if a.route_prefix]
    assert len(routes) == len(set(routes)), "a route leads to one application"
    return {a.route_prefix: a for a in snapshot.applications if a.route_prefix}


def routes(world: World) -> dict[str, str]:
    return {route: a.name for route, a in routed(world).items()}


def goals(world: World) -> dict[str, str]:
    """The route of each application that `meshctl config` shows."""
    return {name: config.route_prefix for name, a in sorted(world.applications.items()) if (config := goal(a))}


def message(world: World, name: str) -> str:
    return {a.name: a for a in applications_status(world.desired, world.observed)}[name].message


def test_what_the_file_leaves_out_serves_until_what_it_brings_is_ready() -> None:
    w = world(application("old"))
    w.apply(application("new"))
    w.settle(start=False)
    assert routes(w) == {"/old": "old", "/new": "new"}
    assert len(w.endpoints("old")) == 1
    assert message(w, "old") == "is deleted once new can serve"
    assert goals(w) == {"new": "/new"}
    w.settle()
    assert (list(w.applications), routes(w)) == (["new"], {"/new": "new"})


@pytest.mark.parametrize("bad", [BROKEN, UNBUILDABLE])
def test_what_the_file_leaves_out_stays_if_what_it_brings_fails(bad: str) -> None:
    w = world(application("old"))
    before = w.endpoints("old")
    w.apply(application("new", code=bad))
    w.settle(broken=is_broken)
    assert w.endpoints("old") == before
    assert w.applications["old"].awaits == ()
    assert goals(w) == {"old": "/old"}, "it is part of the goal again"
    assert message(w, "old") == ""
    assert w.stopped == [] or {action.replica_id for action in w.stopped}.isdisjoint(before)
    w.apply(application("new"))
    w.settle()
    assert list(w.applications) == ["new"], "the mended file deletes it"


@pytest.mark.parametrize("bad", [BROKEN, UNBUILDABLE])
def test_what_was_left_out_is_a_full_member_again_when_the_culprit_is_deleted(bad: str) -> None:
    w = world(application("old"))
    w.apply(application("new", code=bad))
    w.settle(broken=is_broken)
    w.delete("new")
    w.settle()
    assert (goals(w), routes(w)) == ({"old": "/old"}, {"/old": "old"})
    assert not w.applications["old"].leaving
    w.apply(application("old", code="m:newer"))
    w.settle()
    assert w.applications["old"].serving == w.applications["old"].plan


def test_the_goal_is_what_serves_on_where_a_revision_failed() -> None:
    w = world(application("a", "/"))
    w.apply(application("a", "/moved"), application("b", "/", code=BROKEN))
    assert goals(w) == {"a": "/moved", "b": "/"}
    w.settle(broken=is_broken)
    assert goals(w) == {"a": "/"} == {name: route for route, name in routes(w).items()}
    w.delete("a")
    assert goals(w) == {}


def test_the_rest_of_an_apply_goes_its_own_way() -> None:
    w = world(application("a"), application("old"))
    w.apply(application("a", code="m:newer"), application("b", code=BROKEN))
    w.settle(broken=is_broken)
    assert w.applications["a"].serving == w.applications["a"].plan
    assert sorted(w.applications) == ["a", "b", "old"]
    assert w.applications["b"].failure is not None


def test_a_new_application_takes_a_route_over_when_it_can_answer() -> None:
    w = world(application("old", "/"))
    w.apply(application("new", "/"))
    w.settle(start=False)
    assert routes(w) == {"/": "old"}
    w.settle()
    assert (routes(w), list(w.applications)) == ({"/": "new"}, ["new"])


@pytest.mark.parametrize("bad", [BROKEN, UNBUILDABLE])
def test_a_route_is_not_taken_over_by_what_fails(bad: str) -> None:
    w = world(application("old", "/"))
    w.apply(application("new", "/", code=bad))
    w.settle(broken=is_broken)
    assert routes(w) == {"/": "old"}
    assert routed(w)["/"].failure == ""
    assert len(w.endpoints("old")) == 1


@pytest.mark.parametrize("bad", [BROKEN, UNBUILDABLE])
def test_a_route_is_not_given_up_for_what_fails(bad: str) -> None:
    w = world(application("a", "/"))
    w.apply(application("a", "/moved"), application("b", "/", code=bad))
    w.settle(broken=is_broken)
    assert routes(w) == {"/": "a"}
    failure = w.applications["a"].failure
    assert failure == Failure(
        "it does not get the route '/moved': application 'b', of the same deploy, failed",
        "route_prefix",
        "mend that, then deploy again",
        reason=Reason.APPLICATION_FAILED,
    )
    w.apply(application("a", "/moved"), application("b", "/"))
    w.settle()
    assert routes(w) == {"/moved": "a", "/": "b"}


def test_routes_are_swapped_at_one_moment() -> None:
    w = world(application("a", "/x"), application("b", "/y"))
    w.apply(application("a", "/y"), application("b", "/x", code="m:newer"))
    swapped = [routes(w)]
    for _ in range(10):
        w.step()
        swapped.append(routes(w))
        w.start_all()
        swapped.append(routes(w))
    first = swapped.index({"/y": "a", "/x": "b"})
    assert all(each == {"/x": "a", "/y": "b"} for each in swapped[:first])
    assert all(each == {"/y": "a", "/x": "b"} for each in swapped[first:])


def test_a_route_that_nobody_else_wants_changes_alone() -> None:
    w = world(application("a", "/x"))
    w.apply(application("a", "/y"), application("b", "/z", code=BROKEN))
    w.settle(broken=is_broken)
    assert routes(w) == {"/y": "a", "/z": "b"}
    assert w.applications["a"].failure is None


def test_a_new_leader_goes_on_with_it() -> None:
    w = world(application("old", "/"))
    w.apply(application("new", "/"))
    w.step()
    w.new_leader()
    w.connect("w1")
    w.settle(start=False)
    assert routes(w) == {"/": "old"}
    w.new_leader()
    w.connect("w1")
    w.settle()
    assert (routes(w), list(w.applications)) == ({"/": "new"}, ["new"])


def test_a_new_leader_keeps_what_was_to_go_if_what_was_to_come_fails() -> None:
    w = world(application("old", "/"))
    w.apply(application("new", "/", code=BROKEN))
    w.settle(start=False)
    w.new_leader()
    w.connect("w1")
    w.settle(broken=is_broken)
    assert routes(w) == {"/": "old"}
    assert w.applications["old"].awaits == ()


def test_the_same_file_again_while_it_comes_true_changes_nothing() -> None:
    w = world(application("old", "/"))
    w.apply(application("new", "/"))
    w.settle(start=False)
    before = dict(w.applications)
    w.apply(application("new", "/"))
    assert w.applications == before


def test_the_file_before_puts_everything_back() -> None:
    w = world(application("old", "/"))
    w.apply(application("new", "/"))
    w.settle(start=False)
    w.apply(application("old", "/"))
    assert (w.applications["old"].leaving, w.applications["old"].revision) == (False, 1)
    w.settle()
    assert (routes(w), list(w.applications)) == ({"/": "old"}, ["old"])
    assert len(w.endpoints("old")) == 1


def test_what_was_to_come_is_deleted_by_hand() -> None:
    w = world(application("old", "/"))
    w.apply(application("new", "/"))
    w.settle(start=False)
    w.applications["new"] = replace(w.applications["new"], deleting=True)
    w.settle()
    assert (routes(w), list(w.applications)) == ({"/": "old"}, ["old"])


def test_where_only_room_is_missing_what_is_left_out_makes_room() -> None:
    w = world(application("old", replicas=2), max_replicas=2)
    w.apply(application("new", replicas=2))
    w.settle()
    assert list(w.applications) == ["new"]
    assert len(w.endpoints("new")) == 2


def test_no_worker_is_no_reason_to_delete() -> None:
    w = world(application("old"))
    w.disconnect("w1")
    w.apply(application("new"))
    w.settle()
    assert sorted(w.applications) == ["new", "old"]
    assert not w.applications["old"].deleting


def test_a_route_that_changes_hands_later_is_taken_until_then() -> None:
    w = world(application("a", "/"))
    w.apply(application("a", "/moved"), application("b", "/", code=BROKEN))
    w.settle(broken=is_broken)
    for route in ("/", "/moved"):
        problems = apply_problems([application("c", route)], w.applications, keep_others=True, sizes=[1])
        assert [problem.field for problem in problems] == ["applications[0].route_prefix"]


def test_a_build_that_is_overtaken_is_cancelled_and_its_place_is_free() -> None:
    w = World("w1")
    w.apply(application("a"), application("b"))
    builds = [action for action in w.decide() if isinstance(action, BuildApplication)]
    for action in builds:
        w._build(action)
        w.builds.started(replace(w.builds.newest[action.application], ended=False, deployments=()))
    assert w.decide() == ()
    w.apply(application("a", code="m:newer"), application("b", code="m:newer"))
    kinds = [type(action) for action in w.decide()]
    assert kinds == [CancelBuild, CancelBuild, BuildApplication, BuildApplication]
    w.step()
    assert not any(isinstance(action, CancelBuild) for action in w.decide())


APPLIES = st.lists(
    st.tuples(
        st.sampled_from(("a", "b", "c")),
        st.sampled_from(("/", "/x", "/y")),
        st.sampled_from(("m:app", "m:newer", BROKEN, UNBUILDABLE)),
    ),
    max_size=3,
    unique_by=(lambda entry: entry[0], lambda entry: entry[1]),
)
EVENTS = st.one_of(
    st.tuples(st.just("apply"), APPLIES),
    st.tuples(st.just("pass"), st.integers(1, 3)),
    st.tuples(st.just("start"), st.none()),
    st.tuples(st.just("leader"), st.none()),
)


def _answering(w: World, *, settled: bool = False) -> set[str]:
    """Routes that lead to a ready replica; `settled`: of an application whose newest revision was once wholly ready."""
    return {
        route
        for route, a in routed(w).items()
        if any(d.name == a.ingress and d.endpoints for d in a.deployments)
        if not settled or is_settled(w.applications[a.name])
    }


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=20))
def test_whatever_is_applied_nothing_is_taken_before_all_is_there(events: list[tuple[str, object]]) -> None:
    w = World("w1")
    w.code = code
    for kind, value in events:
        answered, stayed = _answering(w, settled=True), {name for name, a in w.applications.items() if not a.deleting}
        match value:
            case list() as entries:
                w.apply(*(application(*entry) for entry in entries))
            case int() as times:
                for _ in range(times):
                    w.step()
            case _ if kind == "start":
                w.start_all(broken=is_broken)
            case _:
                w.new_leader()
                w.connect("w1")
        w.step()
        wanted = [a for a in w.applications.values() if not (a.deleting or a.leaving)]
        lost = answered - _answering(w)
        assert lost.isdisjoint(a.config.route_prefix for a in wanted), "a route that is wanted goes on to be answered"
        if any(a.deleting and name in stayed for name, a in w.applications.items()):
            assert all(a.failure is None for a in wanted)
            assert all(w.ready(a.config.name) for a in wanted)
    w.settle(broken=is_broken)
    routed(w)
    for a in w.applications.values():
        assert not (a.deleting or a.leaving or a.awaits)
        assert (a.failure is None) == (a.serving is not None and a.serving == a.plan and a.plan.revision == a.revision)
    assert goals(w) == {name: route for route, name in routes(w).items() if w.ready(name)}, "what serves is the goal"
    states = {a.name: a.state for a in applications_status(w.desired, w.observed)}
    assert set(states.values()) <= {ApplicationState.RUNNING, ApplicationState.DEPLOY_FAILED}
