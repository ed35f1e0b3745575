"""Which change of what the leader sees is which event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mesh.controlplane.chronicle import Chronicle
from mesh.controlplane.events import Filter
from mesh.controlplane.happenings import View, happened, missed
from mesh.controlplane.reconcile import seen
from mesh.controlplane.status import workers_status
from mesh.model import (
    Application,
    ApplicationConfig,
    Awaited,
    DeploymentSettings,
    DeploymentSpec,
    Failure,
    Plan,
    Replica,
    ReplicaState,
    ReplicaStatus,
    WorkerState,
)
from mesh.reasons import EventReason, Reason, Severity
from tests.support.control_world import World, config

CONFIG = ApplicationConfig("app", import_path="m:app")
READY = ReplicaStatus("r1", ReplicaState.READY, "h:1", pid=7, reason=Reason.READY)
BOOM = Failure("exit code 1; it printed last: boom", reason=Reason.CRASHED)


def plan(revision: int, num_replicas: int = 1) -> Plan:
    spec = DeploymentSpec("Echo", True, "v1", DeploymentSettings(num_replicas=num_replicas))
    return Plan(revision, CONFIG, (spec,))


APP = Application(CONFIG, 2, plan(2), plan(1), applied_at=50.0)


def application(before: dict[str, Any] | None, after: dict[str, Any] | None) -> tuple[View, View]:
    """Two views of one application; None: it is not there."""

    def view(fields: dict[str, Any] | None) -> View:
        return View({"app": replace(APP, **fields)} if fields is not None else {})

    return view(before), view(after)


def process(before: ReplicaStatus | None, after: ReplicaStatus | None, **fields: Any) -> tuple[View, View]:
    """Two views of one replica."""

    def view(status: ReplicaStatus | None, **fields: Any) -> View:
        replica = Replica("r1", "app", "Echo", "v1", 2, "w1", status=status or ReplicaStatus(), **fields)
        return View(replicas={"r1": replica} if status is not None else {})

    return view(before), view(after, **fields)


def worker(before: WorkerState | None, after: WorkerState | None, leaving: bool = False) -> tuple[View, View]:
    def view(state: WorkerState | None) -> View:
        return View(workers={"w1": state} if state is not None else {}, leaving=frozenset(["w1"] if leaving else []))

    return view(before), view(after)


def in_backoff(reason: Reason, **fields: Any) -> ReplicaStatus:
    failure = replace(BOOM, reason=reason)
    return ReplicaStatus("r1", ReplicaState.BACKOFF, failure=failure, last_failure=failure, reason=reason, **fields)


UNWELL = replace(READY, reason=Reason.HEALTH_CHECK_FAILED, message="failed 1 of 3 health checks")
STARTING = ReplicaStatus("r1", ReplicaState.STARTING, reason=Reason.STARTING)

CASES: dict[EventReason, tuple[View, View]] = {
    EventReason.APPLIED: application({"revision": 1}, {"plan": plan(1)}),
    EventReason.BUILDING: (View(), View(building=frozenset([("app", 2, "w1")]))),
    EventReason.BUILT: application({"plan": plan(1)}, {}),
    EventReason.SERVING: application({}, {"serving": plan(2)}),
    EventReason.REVISION_FAILED: application({"serving": None}, {"serving": None, "failure": BOOM}),
    EventReason.ROLLED_BACK: application({}, {"failure": BOOM}),
    EventReason.SCALED: application({}, {"plan": plan(2, num_replicas=4)}),
    EventReason.RESTARTED: application({}, {"restarts": {"Echo": 2}}),
    EventReason.PAUSED: application({}, {"paused": True}),
    EventReason.RESUMED: application({"paused": True}, {}),
    EventReason.LEAVING: application({}, {"leaving": True, "awaits": (Awaited("b", 1),)}),
    EventReason.KEPT: application({"leaving": True}, {}),
    EventReason.DELETING: application({}, {"deleting": True}),
    EventReason.DELETED: application({"deleting": True}, None),
    EventReason.PLACED: process(None, ReplicaStatus("r1", ReplicaState.PENDING)),
    EventReason.PREPARING: process(STARTING, ReplicaStatus("r1", ReplicaState.PREPARING)),
    EventReason.READY: process(STARTING, READY),
    EventReason.START_FAILED: process(STARTING, in_backoff(Reason.START_FAILED, failed_starts=1)),
    EventReason.STARTUP_TIMEOUT: process(STARTING, in_backoff(Reason.STARTUP_TIMEOUT, failed_starts=1)),
    EventReason.CRASHED: process(READY, in_backoff(Reason.CRASH_LOOP, crashes=1)),
    EventReason.UNHEALTHY: process(READY, in_backoff(Reason.HEALTH_CHECK_FAILED, crashes=1)),
    EventReason.HEALTH_CHECK_FAILED: process(READY, UNWELL),
    EventReason.RECOVERED: process(UNWELL, READY),
    EventReason.SETTINGS_REFUSED: process(READY, replace(READY, reason=Reason.SETTINGS_REFUSED, message="ValueError")),
    EventReason.STOPPING: process(READY, READY, stopping=True),
    EventReason.STOPPED: process(
        replace(READY, state=ReplicaState.DRAINING), ReplicaStatus("r1", ReplicaState.STOPPED, reason=Reason.STOPPED)
    ),
    EventReason.DRAIN_TIMEOUT: process(
        replace(READY, state=ReplicaState.DRAINING),
        ReplicaStatus("r1", ReplicaState.STOPPED, reason=Reason.DRAIN_TIMEOUT),
    ),
    EventReason.FORGOTTEN: process(READY, None),
    EventReason.CONNECTED: worker(None, WorkerState.READY),
    EventReason.DISCONNECTED: worker(WorkerState.READY, WorkerState.DISCONNECTED),
    EventReason.LOST: worker(WorkerState.DISCONNECTED, None),
    EventReason.LEFT: worker(WorkerState.READY, None, leaving=True),
    EventReason.DRAINING: worker(WorkerState.READY, WorkerState.DRAINING),
    EventReason.DRAINED: worker(WorkerState.DRAINING, WorkerState.DRAINED),
}
WARNINGS = {
    EventReason.REVISION_FAILED,
    EventReason.ROLLED_BACK,
    EventReason.START_FAILED,
    EventReason.STARTUP_TIMEOUT,
    EventReason.CRASHED,
    EventReason.HEALTH_CHECK_FAILED,
    EventReason.UNHEALTHY,
    EventReason.SETTINGS_REFUSED,
    EventReason.DRAIN_TIMEOUT,
    EventReason.FORGOTTEN,
    EventReason.DISCONNECTED,
    EventReason.LOST,
}


@pytest.mark.parametrize("reason", CASES, ids=lambda reason: reason.name)
def test_each_kind_of_event(reason: EventReason) -> None:
    before, after = CASES[reason]
    (event,) = happened(before, after, {})
    assert event.reason is reason
    assert event.message
    assert event.severity is (Severity.WARNING if reason in WARNINGS else Severity.NORMAL)
    assert list(happened(after, after, {})) == []


def test_every_reason_is_made_by_something() -> None:
    made = {*CASES, EventReason.LEADER_CHANGED, EventReason.UNSPECIFIED}
    assert made == set(EventReason)


def events(before: View, after: View, **why: str) -> list[tuple[str, str]]:
    return [(event.reason.name, event.message) for event in happened(before, after, why)]


def test_a_replica_that_crashed_and_was_ready_again_between_two_looks() -> None:
    again = replace(READY, pid=8, crashes=1, last_failure=BOOM)
    assert events(*process(READY, again)) == [("CRASHED", BOOM.message), ("READY", "ready at h:1")]


def test_preparing_again_does_not_tell_the_last_failure_once_more() -> None:
    again = replace(in_backoff(Reason.CRASHED), state=ReplicaState.PREPARING, message=BOOM.message, last_failure=BOOM)
    told = events(*process(in_backoff(Reason.CRASHED), again))
    assert told == [("PREPARING", "its worker prepares its environment")]


def test_why_a_replica_stops_is_told() -> None:
    assert events(*process(READY, READY, stopping=True), r1="too many") == [("STOPPING", "too many")]


def test_a_first_check_that_fails_is_told_before_it_is_ready() -> None:
    waiting = replace(STARTING, reason=Reason.HEALTH_CHECK_FAILED, message="not healthy yet: check_health raised X")
    assert events(*process(STARTING, waiting)) == [("HEALTH_CHECK_FAILED", waiting.message)]
    assert [reason for reason, _ in events(*process(waiting, READY))] == ["READY"], "no recovery: it never was well"


def test_a_held_revision_is_not_rolled_back() -> None:
    before, after = application({"hold_on_failure": True}, {"hold_on_failure": True, "failure": BOOM})
    assert [reason for reason, _ in events(before, after)] == ["REVISION_FAILED"]


def test_gateways_come_and_go() -> None:
    with_one = View(gateways=frozenset(["g1"]))
    assert [reason for reason, _ in events(View(), with_one)] == ["CONNECTED"]
    assert [reason for reason, _ in events(with_one, View())] == ["DISCONNECTED"]


def test_workers_that_a_new_leader_expects_are_no_news_until_they_come_or_do_not() -> None:
    assert events(*worker(None, WorkerState.DISCONNECTED)) == []
    assert [reason for reason, _ in events(*worker(WorkerState.DISCONNECTED, WorkerState.READY))] == ["CONNECTED"]


def test_what_a_leader_had_no_time_to_write_down_its_successor_notes() -> None:
    failed = replace(APP, failure=BOOM)
    assert [e.reason.name for e in missed(failed, ())] == ["APPLIED", "SERVING", "ROLLED_BACK"]
    assert next(missed(failed, ())).last_at == 50.0, "when it was applied"
    log = tuple(missed(failed, ()))
    assert list(missed(failed, log)) == []


class Told:
    """What a leader's chronicle notes of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chronicle = Chronicle({}, View())
        self._taken = 0

    def look(self) -> None:
        observed = self._world.observed
        now = self._world.now
        states = workers_status(self._world.desired, observed, now=now, wall=0.0)
        workers = {worker.worker_id: worker.state for worker in states}
        self._chronicle.look(View(dict(self._world.applications), seen(observed), workers), self._world.now)

    def settle(self) -> None:
        """Let the leader act until nothing is left to do; replicas start as they are told to."""
        while True:
            actions = self._world.step()
            self._chronicle.decided(actions)
            self.look()
            before = self._world.observed.workers
            self._world.start_all()
            self.look()
            if not actions and before == self._world.observed.workers:
                return

    def take(self) -> list[tuple[str, str]]:
        """Return what is new of the application."""
        after, self._taken = self._taken, self._chronicle.book.sequence
        return [(e.reason.name, e.message) for e in self._chronicle.book.found(Filter("app", after=after))]


def test_a_deploy_a_crash_and_an_update_as_a_leader_sees_them() -> None:
    world = World("w1")
    told = Told(world)
    world.apply(config(num_replicas=1))
    told.look()
    told.settle()
    assert [reason for reason, _ in told.take()] == ["APPLIED", "BUILT", "PLACED", "READY", "SERVING"]
    (first,) = world.replicas
    world.set_state(first, ReplicaState.BACKOFF, crashes=1, last_failure=BOOM, reason=Reason.CRASH_LOOP)
    told.look()
    world.set_state(first, ReplicaState.READY, reason=Reason.READY)
    told.settle()
    assert [reason for reason, _ in told.take()] == ["CRASHED", "READY"]
    world.apply(config(num_replicas=1, code="m:new"))
    told.look()
    told.settle()
    taken = told.take()
    kinds = ["APPLIED", "BUILT", "PLACED", "READY", "SERVING", "STOPPED", "STOPPING"]
    assert sorted(reason for reason, _ in taken) == kinds
    assert ("STOPPING", "its version is replaced") in taken
    told.settle()
    assert told.take() == []
