from __future__ import annotations

from dataclasses import replace

from mesh.controlplane import publish
from mesh.controlplane.publish import RoutedApplication
from mesh.controlplane.reconcile import seen
from mesh.model import BuiltDeployment, Cors, DeploymentConfig, JsonOptions, ReplicaState
from tests.support.control_world import World, built, config
from tests.support.interfaces import interface


def routed(world: World, name: str = "app") -> RoutedApplication:
    snapshot = publish.snapshot(world.applications, seen(world.observed), 2.5)
    assert snapshot.request_timeout_s == 2.5
    return {a.name: a for a in snapshot.applications}[name]


def test_before_the_first_build_the_route_is_known_and_nothing_else() -> None:
    world = World()
    world.apply(config())
    assert routed(world) == RoutedApplication(name="app", route_prefix="/app")


def test_while_the_first_replicas_start_the_limits_are_known() -> None:
    world = World("w1")
    world.apply(config(max_queued_requests=3))
    world.settle(start=False)
    (echo,) = routed(world).deployments
    assert (echo.max_queued_requests, echo.endpoints) == (3, ())
    assert routed(world).ingress == "Echo"


def test_only_ready_replicas_that_are_not_stopping_are_endpoints() -> None:
    world = World("w1")
    world.apply(config(num_replicas=4))
    world.settle()
    a, b, c, d = sorted(world.replicas)
    world.set_state(a, ReplicaState.DRAINING)
    world.set_state(b, ReplicaState.BACKOFF)
    world.replicas[c] = replace(world.replicas[c], stopping=True)
    assert world.endpoints("app") == [d]


def test_old_and_new_versions_serve_side_by_side_with_the_settings_in_force() -> None:
    world = World("w1")
    world.apply(config(num_replicas=2, max_ongoing_requests=5))
    world.settle()
    world.apply(config(code="m:new", num_replicas=2, max_ongoing_requests=9))
    world.settle(start=False)
    (echo,) = routed(world).deployments
    assert (len(echo.endpoints), echo.max_ongoing_requests) == (2, 5), "only the old version runs"
    new = next(i for i, r in world.replicas.items() if r.status.state is not ReplicaState.READY)
    world.set_state(new, ReplicaState.READY)
    (echo,) = routed(world).deployments
    assert (len(echo.endpoints), echo.max_ongoing_requests) == (3, 9)


def test_light_settings_are_in_force_at_once() -> None:
    world = World("w1")
    world.apply(config(num_replicas=1))
    world.settle()
    world.apply(config(num_replicas=2, max_ongoing_requests=9))
    world.settle(start=False)
    (echo,) = routed(world).deployments
    assert (len(echo.endpoints), echo.max_ongoing_requests) == (1, 9)


def test_failure_is_told_only_when_nothing_could_ever_serve() -> None:
    world = World("w1")
    world.apply(config())
    world.settle(broken=lambda spec: True)
    assert routed(world).failure == publish.FAILED.format("app")
    assert "failed to start" not in routed(world).failure, "clients are told nothing of the code"
    assert routed(world).deployments[0].endpoints == ()
    world.apply(config())
    assert routed(world).failure == "", "it is tried again"
    world.settle()
    world.apply(config(code="m:bad", max_ongoing_requests=1))
    world.settle(broken=lambda spec: spec.config.import_path == "m:bad")
    assert routed(world).failure == ""
    (echo,) = routed(world).deployments
    assert (len(echo.endpoints), echo.max_ongoing_requests) == (1, 100), "the failed plan's settings are void"


def test_what_is_being_deleted_is_not_routed() -> None:
    world = World("w1")
    world.apply(config("a"), config("b"))
    world.settle()
    world.apply(config("b"))
    snapshot = publish.snapshot(world.applications, seen(world.observed), 0.0)
    assert [a.name for a in snapshot.applications] == ["b"]


def test_the_route_and_ingress_change_when_the_new_ingress_can_answer() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    world.code = lambda c: built("Front")
    world.apply(replace(config(code="m:new"), route_prefix="/moved"))
    world.settle(start=False)
    assert (routed(world).route_prefix, routed(world).ingress) == ("/app", "Echo")
    world.start_all()
    assert (routed(world).route_prefix, routed(world).ingress) == ("/moved", "Front")
    world.settle()
    assert [d.name for d in routed(world).deployments] == ["Front"]


def test_a_new_ingress_gets_requests_once_there_are_as_many_of_it() -> None:
    world = World("w1")
    world.apply(config(num_replicas=3))
    world.settle()
    world.code = lambda c: built("Front", num_replicas=2)
    world.apply(config(code="m:new"))
    world.settle(start=False)
    one, two = (i for i, r in world.replicas.items() if r.deployment == "Front")
    world.set_state(one, ReplicaState.READY)
    assert routed(world).ingress == "Echo", "one replica is not what two should bear"
    for each in (i for i, r in world.replicas.items() if r.deployment == "Echo"):
        world.set_state(each, ReplicaState.BACKOFF)
    assert routed(world).ingress == "Front", "one is more than none"
    world.set_state(one, ReplicaState.BACKOFF)
    world.set_state(two, ReplicaState.BACKOFF)
    assert routed(world).ingress == "Echo"


def test_orders_are_whole_and_leave_out_what_is_to_stop() -> None:
    world = World("w1", "w2")
    world.apply(config(num_replicas=4, max_ongoing_requests=7))
    world.settle()
    stopped = min(world.replicas)
    world.replicas[stopped] = replace(world.replicas[stopped], stopping=True)
    orders = publish.assignments(world.applications, seen(world.observed), ["w1", "w2", "w3"])
    assert orders["w3"].replicas == ()
    specs = {spec.replica_id: spec for assigned in orders.values() for spec in assigned.replicas}
    assert set(specs) == set(world.replicas) - {stopped}
    for spec in specs.values():
        assert (spec.application, spec.deployment, spec.revision) == ("app", "Echo", 1)
        assert spec.settings.max_ongoing_requests == 7
        assert spec.config.import_path == "m:app"


def test_a_replica_keeps_its_own_version_s_code_while_a_new_one_rolls_out() -> None:
    world = World("w1")
    world.apply(config(num_replicas=1))
    world.settle()
    world.apply(config(code="m:new"))
    world.settle(start=False)
    specs = world.workers["w1"].specs.values()
    assert sorted((spec.revision, spec.config.import_path) for spec in specs) == [(1, "m:app"), (2, "m:new")]


def served(world: World) -> tuple[str, int]:
    """What is told of the interface, by its request's name, and how many replicas answer to it."""
    (echo,) = routed(world).deployments
    names = {interface(filler=filler).descriptor_set: filler for filler in ("V1", "V2", "V3")}
    return names.get(echo.interface.descriptor_set, ""), len(echo.endpoints)


def with_interfaces(*worker_ids: str) -> World:
    """A world where an import path names what the code's schema is."""
    world = World(*worker_ids)
    world.code = lambda c: (BuiltDeployment(True, DeploymentConfig(name="Echo"), interface(filler=c.import_path)),)
    return world


def test_the_interface_is_the_old_one_while_an_old_replica_takes_calls() -> None:
    world = with_interfaces("w1")
    world.apply(config(code="V1", num_replicas=2))
    world.settle(start=False)
    assert served(world) == ("V1", 0), "callers may wait for what is to come"
    world.settle()
    assert served(world) == ("V1", 2)
    world.apply(config(code="V2", num_replicas=2))
    seen_of = [served(world)]
    for _ in range(50):
        world.step()
        seen_of.append(served(world))
        starting = [r for r in world.live("app") if r.status.state is not ReplicaState.READY]
        if starting:
            world.set_state(starting[0].replica_id, ReplicaState.READY)
            seen_of.append(served(world))
    assert seen_of[-1] == ("V2", 2)
    told = [name for name, _ in seen_of]
    assert told == sorted(told), "it changes once"
    assert {replica.revision for replica in world.ready("app")} == {2}


def test_a_failed_schema_is_never_told() -> None:
    world = with_interfaces("w1")
    world.apply(config(code="V1"))
    world.settle()
    world.apply(config(code="V2"))
    world.settle(broken=lambda spec: spec.config.import_path == "V2")
    assert world.applications["app"].failure is not None
    assert served(world) == ("V1", 1)


def test_a_superseded_version_that_serves_keeps_its_interface() -> None:
    world = with_interfaces("w1")
    world.apply(config(code="V1", num_replicas=2))
    world.settle()
    world.apply(config(code="V2", num_replicas=2))
    world.settle(start=False)
    second = next(r for r in world.live("app") if r.status.state is not ReplicaState.READY)
    world.set_state(second.replica_id, ReplicaState.READY)
    world.settle(start=False)
    assert {(r.revision, r.status.state) for r in world.ready("app")} == {
        (1, ReplicaState.READY),
        (2, ReplicaState.READY),
    }
    world.apply(config(code="V3", num_replicas=2))
    world.settle(start=False)
    assert world.applications["app"].superseded, "V2 was never wholly ready, and a replica of it serves"
    assert served(world)[0] == "V1"
    for replica in world.ready("app"):
        if replica.replica_id != second.replica_id:
            world.set_state(replica.replica_id, ReplicaState.BACKOFF)
    assert served(world) == ("V2", 1)
    for replica in world.live("app"):
        if replica.status.state is ReplicaState.STARTING:
            world.set_state(replica.replica_id, ReplicaState.READY)
    assert served(world)[0] == "V2"
    world.settle()
    assert served(world) == ("V3", 2)


def test_json_options_are_told() -> None:
    world = World("w1")
    world.apply(config(json=JsonOptions(enums_as_numbers=True)))
    world.settle()
    assert routed(world).deployments[0].json == JsonOptions(enums_as_numbers=True)
    world.apply(config())
    world.settle()
    assert routed(world).deployments[0].json == JsonOptions()


def test_cors_is_told_with_every_field_set() -> None:
    assert publish.snapshot({}, {}, 0.0).cors is None
    assert publish.snapshot({}, {}, 0.0, Cors(allow_headers=("x",))).cors is None
    told = publish.snapshot({}, {}, 0.0, Cors(("https://a.example",), ("x",))).cors
    assert told == Cors(("https://a.example",), ("x",), 600, False)
    assert publish.snapshot({}, {}, 0.0, Cors(("*",), (), 0, True)).cors == Cors(("*",), (), 0, True)


def test_a_route_inside_that_of_services_is_given_only_to_what_was_built() -> None:
    world = with_interfaces("w1")
    world.apply(replace(config("outer", code="V1"), route_prefix="/"))
    world.settle()
    world.disconnect("w1")
    world.apply(config("inner", code="V2"), keep_others=True)
    world.settle(start=False)
    assert routed(world, "inner").route_prefix == ""
    assert routed(world, "outer").route_prefix == "/"
    world.connect("w1")
    world.code = lambda c: "it is refused"
    world.settle()
    assert world.applications["inner"].failure is not None
    assert (routed(world, "inner").route_prefix, routed(world, "inner").failure) == ("", publish.FAILED.format("inner"))
    world.code = lambda c: built("Echo")
    world.apply(config("inner", code="V3"), keep_others=True)
    world.settle(start=False)
    assert routed(world, "inner").route_prefix == "/inner", "built, so it is known not to collide"
    world.apply(config("beside"), replace(config("deep"), route_prefix="/inner/deep"), keep_others=True)
    assert routed(world, "beside").route_prefix == ""
    assert routed(world, "deep").route_prefix == ""
    world.settle()
    assert routed(world, "deep").route_prefix == "/inner/deep"
