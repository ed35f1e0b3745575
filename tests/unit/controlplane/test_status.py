from __future__ import annotations

from dataclasses import replace

from mesh.controlplane.registry import Worker, current_status
from mesh.controlplane.status import ApplicationStatus, Status, is_news, workers_status
from mesh.controlplane.statuses import applications_status
from mesh.model import ApplicationState, DeploymentState, Replica, ReplicaState, ReplicaStatus, WorkerState
from mesh.reasons import Reason
from tests.support.control_world import GRACE_S, World, built, config


def status(world: World, name: str = "app") -> ApplicationStatus:
    return {a.name: a for a in applications_status(world.desired, world.observed)}[name]


def test_from_building_to_running() -> None:
    world = World("w1")
    world.apply(config(num_replicas=2))
    assert (status(world).state, status(world).message) == (ApplicationState.DEPLOYING, "being built")
    world.settle(start=False)
    starting = status(world)
    assert starting.state is ApplicationState.DEPLOYING
    (echo,) = starting.deployments
    assert (echo.state, echo.ready_replicas, echo.target_replicas) == (DeploymentState.UPDATING, 0, 2)
    assert echo.message == "2 of 2 replicas are starting"
    world.settle()
    running = status(world)
    assert (running.state, running.message) == (ApplicationState.RUNNING, "")
    assert (running.revision, running.serving_revision) == (1, 1)
    assert running.deployments[0].state is DeploymentState.HEALTHY
    assert len(running.deployments[0].replicas) == 2


def test_a_new_version_counts_its_own_replicas() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    world.apply(config(code="m:new"))
    world.settle(start=False)
    rolling = status(world)
    assert rolling.state is ApplicationState.DEPLOYING
    assert (rolling.revision, rolling.serving_revision) == (2, 1)
    (echo,) = rolling.deployments
    assert (echo.ready_replicas, echo.target_replicas, len(echo.replicas)) == (0, 1, 2)


def test_a_failed_revision_says_why_and_what_serves() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    world.apply(config(code="m:bad"))
    world.settle(broken=lambda spec: spec.config.import_path == "m:bad")
    failed = status(world)
    assert failed.state is ApplicationState.DEPLOY_FAILED
    why = "deployment 'Echo' failed to start 3 times: it is broken"
    assert failed.message == f"revision 2 failed and was rolled back to revision 1: {why}"
    assert failed.deployments[0].state is DeploymentState.HEALTHY


def test_a_first_revision_that_failed() -> None:
    world = World("w1")
    world.apply(config())
    world.settle(broken=lambda spec: True)
    failed = status(world)
    assert (failed.state, failed.serving_revision) == (ApplicationState.DEPLOY_FAILED, 0)
    assert failed.deployments[0].state is DeploymentState.DEPLOY_FAILED


def test_crashes_make_it_unhealthy_not_failed() -> None:
    world = World("w1")
    world.apply(config(num_replicas=2))
    world.settle()
    weak = min(world.replicas)
    world.set_state(weak, ReplicaState.BACKOFF, crashes=4, message="exit code 3")
    unhealthy = status(world)
    assert unhealthy.state is ApplicationState.UNHEALTHY
    assert unhealthy.deployments[0].state is DeploymentState.UNHEALTHY
    assert unhealthy.message == f"Echo: replica {weak} starts again after a pause: exit code 3"


def test_shortage_is_told() -> None:
    world = World()
    world.apply(config(num_replicas=3))
    assert status(world).message == "no worker has room: no worker is connected"
    small = World("w1", max_replicas=2)
    small.apply(config(num_replicas=3))
    small.settle()
    (echo,) = status(small).deployments
    assert echo.message == "no worker has room: w1 runs 2 and may run no more; 1 of 3 replicas wait"


def test_deleting() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    world.apply()
    going = status(world)
    assert going.state is ApplicationState.DELETING
    assert going.deployments[0].target_replicas == 0


def test_an_application_with_a_healthy_and_a_starting_deployment_is_deploying() -> None:
    world = World("w1")
    world.code = lambda c: built("Front", "Echo")
    world.apply(config())
    world.settle(start=False)
    front = next(replica_id for replica_id, r in world.replicas.items() if r.deployment == "Front")
    world.set_state(front, ReplicaState.READY)
    states = {d.name: d.state for d in status(world).deployments}
    assert states == {"Front": DeploymentState.HEALTHY, "Echo": DeploymentState.UPDATING}
    assert status(world).state is ApplicationState.DEPLOYING


def test_workers() -> None:
    world = World("w1", "w2", "w3")
    world.apply(config(num_replicas=3))
    world.settle()
    world.disconnect("w2")
    world.disconnect("w3")
    world.now += GRACE_S / 2
    one, two, _ = workers_status(world.desired, world.observed, now=world.now, wall=5000.0)
    assert (one.worker_id, one.state, one.replicas) == ("w1", WorkerState.READY, 1)
    assert (two.state, two.last_seen) == (WorkerState.DISCONNECTED, 5000.0 - GRACE_S / 2)
    world.now += GRACE_S
    assert [w.worker_id for w in workers_status(world.desired, world.observed, now=world.now, wall=0.0)] == ["w1"]


def test_what_changes_all_the_time_is_no_news() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()

    def whole(wall: float) -> Status:
        workers = workers_status(world.desired, world.observed, now=world.now, wall=wall)
        return Status(applications_status(world.desired, world.observed), workers)

    before = whole(1.0)
    (replica_id,) = world.replicas
    world.set_state(replica_id, ReplicaState.READY, ongoing_requests=7)
    assert whole(2.0) != before
    assert not is_news(before, whole(2.0))
    assert is_news(before, replace(before, gateways=2))
    assert is_news(before, replace(before, applications=()))
    world.set_state(replica_id, ReplicaState.BACKOFF)
    assert is_news(before, whole(1.0))


def test_what_keeps_a_replica_from_its_new_settings_is_told() -> None:
    world = World("w1")
    world.apply(config(num_replicas=1))
    world.settle()
    world.apply(config(num_replicas=1, user_config_json="1"))
    world.step()
    world.workers["w1"].obey = lambda specs: None  # type: ignore[method-assign]
    world.step()
    (replica,) = world.ready("app")
    world.set_state(replica.replica_id, ReplicaState.READY, message="UNAVAILABLE")
    assert (status(world).state, status(world).message) == (ApplicationState.DEPLOYING, "Echo: UNAVAILABLE")
    assert status(world).serving_revision == 1


# Reasons.


def reasons(world: World, name: str = "app") -> tuple[Reason, Reason | None]:
    """Of an application and of its one deployment."""
    shown = status(world, name)
    return shown.reason, shown.deployments[0].reason if shown.deployments else None


def test_reasons_from_no_worker_to_ready() -> None:
    world = World()
    world.apply(config(num_replicas=2))
    world.settle()
    assert reasons(world) == (Reason.NO_WORKER, None)
    world = World("w1")
    world.apply(config(num_replicas=2))
    assert reasons(world) == (Reason.BUILDING, None)
    world.settle(start=False)
    assert reasons(world) == (Reason.STARTING, Reason.STARTING)
    world.settle()
    assert reasons(world) == (Reason.READY, Reason.READY)


def test_reasons_of_changes() -> None:
    world = World("w1")
    world.apply(config(num_replicas=1))
    world.settle()
    world.apply(config(num_replicas=2))
    world.settle(start=False)
    assert reasons(world) == (Reason.SCALING, Reason.SCALING)
    world.settle()
    world.apply(config(num_replicas=2, code="m:new"))
    world.settle(start=False)
    assert reasons(world) == (Reason.ROLLING_OUT, Reason.ROLLING_OUT)
    world.applications["app"] = replace(world.applications["app"], paused=True)
    assert reasons(world) == (Reason.PAUSED, Reason.ROLLING_OUT)
    world.delete("app")
    assert reasons(world) == (Reason.DELETING, Reason.DRAINING)


def test_reasons_of_what_failed() -> None:
    world = World("w1")
    world.apply(config())
    world.settle(broken=lambda spec: True)
    assert reasons(world) == (Reason.START_FAILED, Reason.START_FAILED)
    world = World("w1")
    world.code = lambda config: "it does not import"
    world.apply(config())
    world.settle()
    assert reasons(world) == (Reason.BUILD_FAILED, None)


def test_reasons_of_what_was_rolled_back_or_held() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    world.apply(config(code="m:bad"))
    world.settle(broken=lambda spec: spec.config.import_path == "m:bad")
    assert reasons(world) == (Reason.ROLLED_BACK, Reason.READY)
    world.applications["app"] = replace(world.applications["app"], hold_on_failure=True)
    assert reasons(world)[0] is Reason.HELD


def test_a_held_deployment_is_shown_beside_what_serves() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    world.code = lambda c: built("Front")
    world.apply(config(code="m:bad"))
    world.applications["app"] = replace(world.applications["app"], hold_on_failure=True)
    world.settle(broken=lambda spec: spec.config.import_path == "m:bad")
    told = {d.name: (d.state, len(d.replicas)) for d in status(world).deployments}
    assert told == {"Echo": (DeploymentState.HEALTHY, 1), "Front": (DeploymentState.UPDATING, 1)}


def test_reasons_come_from_the_replicas_that_lack() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    (only,) = world.replicas
    for state, reason in (
        (ReplicaState.BACKOFF, Reason.CRASH_LOOP),
        (ReplicaState.BACKOFF, Reason.STARTUP_TIMEOUT),
        (ReplicaState.STARTING, Reason.CRASHED),
        (ReplicaState.STARTING, Reason.HEALTH_CHECK_FAILED),
        (ReplicaState.PREPARING, Reason.PREPARING_ENVIRONMENT),
    ):
        world.set_state(only, state, reason=reason, message="what is wrong")
        assert reasons(world) == (reason, reason), state
        assert "what is wrong" in status(world).message


def test_a_replica_that_fails_checks_is_told_of_while_it_is_routed_to() -> None:
    world = World("w1")
    world.apply(config())
    world.settle()
    (only,) = world.replicas
    world.set_state(only, ReplicaState.READY, reason=Reason.HEALTH_CHECK_FAILED, message="failed 1 of 3 health checks")
    assert reasons(world) == (Reason.HEALTH_CHECK_FAILED, Reason.HEALTH_CHECK_FAILED)
    assert status(world).state is ApplicationState.RUNNING
    assert only in status(world).message


def test_a_new_version_that_fails_checks_does_not_serve_as_wholly_ready() -> None:
    world = World("w1")
    world.apply(config())
    world.settle(start=False)
    (only,) = world.replicas
    world.set_state(only, ReplicaState.READY, reason=Reason.HEALTH_CHECK_FAILED, message="failed 1 of 3 health checks")
    world.settle(start=False)
    assert world.applications["app"].serving is None
    world.set_state(only, ReplicaState.READY, reason=Reason.READY, message="")
    world.settle(start=False)
    assert world.applications["app"].serving is not None


def test_reasons_of_room_and_of_workers() -> None:
    world = World("w1", max_replicas=1)
    world.apply(config(num_replicas=2))
    world.settle()
    assert reasons(world) == (Reason.WAITING_FOR_ROOM, Reason.WAITING_FOR_ROOM)
    world.disconnect("w1")
    (worker,) = workers_status(world.desired, world.observed, now=world.now, wall=0.0)
    assert (worker.state, worker.reason) == (WorkerState.DISCONNECTED, Reason.DISCONNECTED)
    world.connect("w1")
    (worker,) = workers_status(world.desired, world.observed, now=world.now, wall=0.0)
    assert (worker.state, worker.reason) == (WorkerState.READY, Reason.READY)


def test_a_replica_that_its_worker_has_not_reported_waits_for_it() -> None:
    replica = Replica("r1", status=ReplicaStatus("r1", ReplicaState.READY, reason=Reason.READY))
    heard = current_status(replica, Worker("w1", 0.0, heard=True))
    assert (heard.state, heard.reason) == (ReplicaState.PENDING, Reason.WAITING_FOR_WORKER)
    assert current_status(replica, Worker("w1", 0.0)) == replica.status
