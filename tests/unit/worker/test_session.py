"""Decisions of the roster: what to start, stop, configure, restart and kill, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.model import (
    ApplicationConfig,
    DeploymentConfig,
    DeploymentSettings,
    Failure,
    Generation,
    ReplicaSpec,
    ReplicaState,
    ReplicaStatus,
    RuntimeEnv,
)
from mesh.reasons import Reason
from mesh.worker.session import (
    HEALTHY_AFTER_S,
    KILL_GRACE_S,
    RESTART,
    STOPPED_KEPT_S,
    Abandon,
    Action,
    Configure,
    Kill,
    Prepare,
    Roster,
    Start,
    Terminate,
)

STARTING, READY, BACKOFF = ReplicaState.STARTING, ReplicaState.READY, ReplicaState.BACKOFF
DRAINING, STOPPED = ReplicaState.DRAINING, ReplicaState.STOPPED
PREPARING = ReplicaState.PREPARING
PACKAGE = RuntimeEnv(working_dir="package:sha256:" + 64 * "0")


def spec(replica_id: str = "r1", **settings: float) -> ReplicaSpec:
    return ReplicaSpec(replica_id=replica_id, settings=DeploymentSettings(**settings))  # type: ignore[arg-type]


def fetched(replica_id: str = "r1", **settings: float) -> ReplicaSpec:
    """A replica whose code has to be fetched first."""
    return replace(spec(replica_id, **settings), config=ApplicationConfig(runtime_env=PACKAGE))


def roster() -> Roster:
    """A roster whose pauses are never shortened by chance: 1, 2, 4 … 30 seconds."""
    return Roster(lambda: 0.999_999_999)


def status(roster: Roster, replica_id: str = "r1") -> ReplicaStatus:
    return next(status for status in roster.statuses(0.0) if status.replica_id == replica_id)


def started(settings: DeploymentSettings | None = None, *, now: float = 0.0) -> Roster:
    """A roster with one replica whose process runs."""
    made = roster()
    made.assign(Generation(1, 1), [ReplicaSpec("r1", settings=settings or DeploymentSettings())], now)
    made.started("r1", 42)
    return made


def ready(settings: DeploymentSettings | None = None, *, now: float = 0.0) -> Roster:
    made = started(settings, now=now)
    made.ready("r1", "h:1", "h:2", now)
    return made


# Assignments.


def test_what_is_assigned_and_does_not_run_is_started() -> None:
    r = roster()
    assert r.assign(Generation(1, 1), [spec("r1"), spec("r2")], 0.0) == (Start(spec("r1")), Start(spec("r2")))
    assert {one.state for one in r.statuses(0.0)} == {STARTING}


def test_what_runs_and_is_not_assigned_is_terminated() -> None:
    r = ready()
    assert r.assign(Generation(1, 2), [], 5.0) == (Terminate("r1"),)
    assert status(r).state is DRAINING
    assert r.assign(Generation(1, 3), [], 6.0) == ()


def test_what_runs_as_assigned_is_left_alone() -> None:
    assert ready().assign(Generation(1, 2), [spec()], 1.0) == ()


@pytest.mark.parametrize("older", [Generation(2, 5), Generation(2, 4), Generation(1, 99)])
def test_a_generation_that_is_not_newer_is_ignored(older: Generation) -> None:
    r = roster()
    r.assign(Generation(2, 5), [spec()], 0.0)
    assert r.assign(older, [], 1.0) is None
    assert status(r).state is STARTING
    assert r.generation == Generation(2, 5)


def test_a_later_epoch_wins_over_a_higher_number() -> None:
    r = roster()
    r.assign(Generation(2, 50), [spec()], 0.0)
    assert r.assign(Generation(3, 1), [], 1.0) == (Terminate("r1"),)


def test_a_replica_assigned_again_while_it_drains_is_started_when_it_has_gone() -> None:
    r = ready()
    r.assign(Generation(1, 2), [], 1.0)
    assert r.assign(Generation(1, 3), [spec()], 2.0) == ()
    assert r.exited("r1", Failure("exited with code 0"), 3.0) == (Start(spec()),)


def test_a_replica_that_gateways_may_still_call_goes_on_as_it_is() -> None:
    r = ready()
    assert r.assign(Generation(1, 2), [], 1.0, {"r1", "r2"}) == ()
    assert status(r).state is READY
    assert status(r).settings_revision == 0
    assert r.assign(Generation(1, 3), [], 2.0, {"r2"}) == (Terminate("r1"),)
    assert r.assign(Generation(1, 4), [], 3.0, {"r1"}) == ()
    assert status(r).state is DRAINING, "one that drains is not called back"
    assert r.exited("r1", Failure("exited with code 0"), 4.0) == ()


def test_a_replica_that_somebody_else_told_to_end_drains_and_starts_again() -> None:
    r = ready(DeploymentSettings(graceful_shutdown_timeout_s=10.0))
    assert r.draining("r1", 100.0)
    assert not r.draining("r1", 100.0)
    assert (status(r).state, status(r).crashes) == (DRAINING, 0)
    assert r.probed("r1", Failure("no answer")) == ()
    assert r.next_at() == 110.0 + KILL_GRACE_S
    (start,) = r.exited("r1", Failure("exited with code 0"), 101.0)
    assert isinstance(start, Start)
    assert (status(r).state, status(r).crashes) == (STARTING, 0)


def test_a_replica_that_keeps_ending_pauses() -> None:
    r = ready()
    r.draining("r1", 1.0)
    r.exited("r1", Failure("exited with code 0"), 2.0)
    r.started("r1", 43)
    r.ready("r1", "h:1", "h:2", 3.0)
    r.draining("r1", 4.0)
    assert r.exited("r1", Failure("exited with code 0"), 5.0) == ()
    assert status(r).state is BACKOFF
    assert r.tick(5.0 + RESTART.initial_s) != ()


def test_a_replica_told_to_end_by_us_drains_for_good() -> None:
    r = ready()
    r.assign(Generation(1, 2), [], 1.0)
    assert not r.draining("r1", 1.5)
    assert r.exited("r1", Failure("exited with code 0"), 2.0) == ()
    assert status(r).state is STOPPED


def test_the_longest_drain() -> None:
    r = roster()
    assert r.drain_s == 0.0
    specs = [spec("r1", graceful_shutdown_timeout_s=3.0), spec("r2", graceful_shutdown_timeout_s=40.0)]
    r.assign(Generation(1, 1), specs, 0.0)
    assert r.drain_s == 40.0


def test_a_replica_in_backoff_stops_without_a_process_to_end() -> None:
    r = started()
    r.exited("r1", Failure("exited with code 1"), 1.0)
    assert r.assign(Generation(1, 2), [], 2.0) == ()
    assert status(r).state is STOPPED


def test_a_stopped_replica_is_forgotten_after_a_while() -> None:
    r = ready()
    r.assign(Generation(1, 2), [], 1.0)
    r.exited("r1", Failure("exited with code 0"), 2.0)
    r.tick(2.0 + STOPPED_KEPT_S - 0.1)
    assert status(r).state is STOPPED
    r.tick(2.0 + STOPPED_KEPT_S)
    assert r.statuses(0.0) == ()


# Settings.


def test_changed_settings_are_put_in_force_on_the_running_replica() -> None:
    r = ready()
    wanted = DeploymentSettings(max_ongoing_requests=7)
    assert r.assign(Generation(1, 2), [ReplicaSpec("r1", settings=wanted)], 1.0) == (Configure("r1", wanted),)
    assert r.configured("r1", wanted) == ()
    assert r.assign(Generation(1, 3), [ReplicaSpec("r1", settings=wanted)], 2.0) == ()


def test_settings_that_changed_while_it_started_are_put_in_force_when_it_is_ready() -> None:
    r = started()
    wanted = DeploymentSettings(max_ongoing_requests=7)
    assert r.assign(Generation(1, 2), [ReplicaSpec("r1", settings=wanted)], 1.0) == ()
    assert r.ready("r1", "h:1", "h:2", 2.0) == (Configure("r1", wanted),)


def test_settings_that_changed_back_meanwhile_are_put_in_force_again() -> None:
    r = ready()
    other = DeploymentSettings(max_ongoing_requests=7)
    r.assign(Generation(1, 2), [ReplicaSpec("r1", settings=other)], 1.0)
    r.assign(Generation(1, 3), [spec()], 2.0)
    assert r.configured("r1", other) == (Configure("r1", spec().settings),)


def test_the_number_of_replicas_is_nothing_to_a_replica() -> None:
    assert ready().assign(Generation(1, 2), [spec(num_replicas=9)], 1.0) == ()


def test_settings_that_were_refused_show_in_the_message_until_they_are_taken() -> None:
    r = ready()
    r.not_configured("r1", "reconfigure raised")
    assert status(r).message == "reconfigure raised"
    assert status(r).state is READY
    r.configured("r1", spec().settings)
    assert status(r).message == ""


ONE, BAD = DeploymentSettings(user_config_json="1"), DeploymentSettings(user_config_json="[]")
REFUSAL = Failure("ValueError: no (m.py:8)", "import_path", "mend it", "Traceback")


def told(settings: DeploymentSettings, revision: int) -> ReplicaSpec:
    config = ApplicationConfig(deployments=(DeploymentConfig("Echo", user_config_json=settings.user_config_json),))
    return ReplicaSpec("r1", deployment="Echo", config=config, settings=settings, settings_revision=revision)


def refusing() -> Roster:
    """A roster whose replica serves with the settings of revision 1 and refused those of revision 2."""
    r = roster()
    r.assign(Generation(1, 1), [told(ONE, 1)], 0.0)
    r.started("r1", 42)
    r.ready("r1", "h:1", "h:2", 0.0)
    assert r.assign(Generation(1, 2), [told(BAD, 2)], 1.0) == (Configure("r1", BAD),)
    assert (status(r).settings_revision, status(r).failure) == (1, None)
    r.refused("r1", BAD, REFUSAL)
    return r


def test_settings_that_user_code_refused_are_reported_with_their_revision_and_place() -> None:
    r = refusing()
    assert status(r).state is READY
    assert status(r).settings_revision == 2
    field = "deployments[0].user_config"
    assert status(r).failure == replace(REFUSAL, field=field, reason=Reason.SETTINGS_REFUSED)


def test_after_a_refusal_the_old_settings_are_put_in_force_again() -> None:
    r = refusing()
    assert r.assign(Generation(1, 3), [told(ONE, 1)], 2.0) == (Configure("r1", ONE),), "the process is in doubt"
    r.refused("r1", BAD, REFUSAL)
    assert status(r).settings_revision == 2, "an answer to what is not asked any more says nothing"
    assert r.configured("r1", ONE) == ()
    assert (status(r).settings_revision, status(r).failure, status(r).message) == (1, None, "")
    assert r.exited("r1", Failure("killed by SIGKILL"), 3.0) == (Start(told(ONE, 1)),)


def test_settings_that_stay_the_same_are_in_force_at_once_for_a_new_revision() -> None:
    r = roster()
    r.assign(Generation(1, 1), [told(ONE, 1)], 0.0)
    r.assign(Generation(1, 2), [told(ONE, 2)], 0.0)
    assert status(r).settings_revision == 1
    assert r.ready("r1", "h:1", "h:2", 1.0) == ()
    assert status(r).settings_revision == 2
    assert r.assign(Generation(1, 3), [told(ONE, 3)], 2.0) == ()
    assert status(r).settings_revision == 3


def test_failed_starts_are_counted_anew_for_other_settings() -> None:
    r = started()
    for now in (0.0, 10.0):
        r.exited("r1", Failure("exited with code 1"), now)
        r.tick(now + 9.0)
    r.assign(Generation(1, 2), [told(ONE, 2)], 20.0)
    r.exited("r1", Failure("exited with code 1"), 21.0)
    assert status(r).failed_starts == 1


def test_a_replica_that_crashed_has_refused_nothing() -> None:
    r = refusing()
    r.exited("r1", Failure("killed by SIGKILL"), 3.0)
    assert (status(r).state, status(r).settings_revision, status(r).failure) == (STARTING, 2, None)


# Starts that fail.


def test_failed_starts_pause_longer_each_time_up_to_a_bound() -> None:
    r, now, pauses = started(), 0.0, []
    for _ in range(7):
        assert r.exited("r1", Failure("exited with code 1"), now) == ()
        due = r.next_at()
        assert due is not None
        pauses.append(due - now)
        assert r.tick(due - 0.01) == ()
        assert r.tick(due) == (Start(spec()),)
        now = due
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 30, 30])
    assert status(r).failed_starts == 7


def test_pauses_are_jittered_but_never_below_half() -> None:
    r = Roster(lambda: 0.0)
    r.assign(Generation(1, 1), [spec()], 0.0)
    r.exited("r1", Failure("exited with code 1"), 10.0)
    assert r.next_at() == 10.5


def test_failed_starts_are_counted_in_a_row_only() -> None:
    r = started()
    r.exited("r1", Failure("exited with code 1"), 0.0)
    r.tick(100.0)
    assert status(r).failed_starts == 1
    r.ready("r1", "h:1", "h:2", 101.0)
    assert status(r).failed_starts == 0


def test_what_the_process_said_is_the_reason_rather_than_its_exit_code() -> None:
    r = started()
    said = Failure("ValueError: no", "import_path", "mend it", "Traceback")
    r.failed("r1", said, 1.0)
    r.exited("r1", Failure("exited with code 1"), 1.1)
    assert (status(r).message, status(r).failure) == ("ValueError: no", replace(said, reason=Reason.START_FAILED))


def test_a_process_that_says_it_failed_and_stays_is_killed() -> None:
    r = started()
    r.failed("r1", Failure("ValueError: no"), 1.0)
    assert r.tick(1.0 + KILL_GRACE_S) == (Kill("r1", "ValueError: no"),)


def test_a_start_that_takes_too_long_is_killed_once() -> None:
    r = started(DeploymentSettings(startup_timeout_s=5.0))
    assert r.tick(4.9) == ()
    assert r.tick(5.0) == (Kill("r1", "not ready within 5 s of its start"),)
    assert r.tick(6.0) == ()
    r.exited("r1", Failure("killed by SIGKILL"), 6.1)
    assert status(r).message == "not ready within 5 s of its start"
    assert (status(r).state, status(r).failed_starts) == (BACKOFF, 1)
    failure = status(r).failure
    assert failure is not None and "startup_timeout_s" in failure.hint
    assert failure.field == "import_path", "no field of the config sets it"


def test_the_reason_is_kept_until_it_is_ready() -> None:
    r = started()
    r.exited("r1", Failure("exited with code 1"), 0.0)
    r.tick(100.0)
    assert (status(r).state, status(r).message) == (STARTING, "exited with code 1")
    assert status(r).failure == Failure("exited with code 1", reason=Reason.START_FAILED)
    r.ready("r1", "h:1", "h:2", 101.0)
    assert (status(r).message, status(r).failure) == ("", None)


# Crashes.


def test_the_first_crash_restarts_at_once_the_next_pause() -> None:
    r = ready()
    assert r.exited("r1", Failure("killed by SIGKILL"), 1.0) == (Start(spec()),)
    assert (status(r).state, status(r).crashes, status(r).address, status(r).pid) == (STARTING, 1, "", 0)
    r.ready("r1", "h:1", "h:2", 2.0)
    assert r.exited("r1", Failure("killed by SIGKILL"), 3.0) == ()
    assert status(r).state is BACKOFF
    assert r.next_at() == pytest.approx(4.0)


def test_a_replica_that_was_well_for_long_starts_with_a_clean_slate() -> None:
    r = ready()
    r.exited("r1", Failure("killed by SIGKILL"), 1.0)
    r.ready("r1", "h:1", "h:2", 2.0)
    assert r.exited("r1", Failure("killed by SIGKILL"), 2.0 + HEALTHY_AFTER_S) == (Start(spec()),)
    assert status(r).crashes == 2


def test_a_status_says_since_when_in_unix_time() -> None:
    r = ready(now=7.0)
    assert r.statuses(1_000.0)[0].since == 1_007.0


# Health.


SICK = Failure("check_health raised ValueError: no (m.py:3)", details="Traceback", reason=Reason.HEALTH_CHECK_FAILED)


def test_failed_health_checks_in_a_row_kill() -> None:
    r = ready(DeploymentSettings(health_check_failure_threshold=3))
    for count in (1, 2):
        assert r.probed("r1", SICK) == ()
        assert (status(r).state, status(r).reason) == (READY, Reason.HEALTH_CHECK_FAILED)
        assert status(r).message == f"failed {count} of 3 health checks in a row: {SICK.message}"
    assert r.probed("r1", None) == ()
    assert (status(r).reason, status(r).message) == (Reason.READY, "")
    for _ in range(2):
        assert r.probed("r1", SICK) == ()
    (kill,) = r.probed("r1", SICK)
    assert kill == Kill("r1", f"failed 3 health checks in a row: {SICK.message}")
    assert r.probed("r1", SICK) == ()
    r.exited("r1", Failure("killed by SIGKILL"), 1.0)
    assert (status(r).state, status(r).reason, status(r).message) == (STARTING, Reason.HEALTH_CHECK_FAILED, kill.reason)
    assert status(r).last_failure == replace(SICK, message=kill.reason)


def test_the_threshold_is_a_setting_and_three_where_an_older_version_stored_none() -> None:
    r = ready(DeploymentSettings(health_check_failure_threshold=1))
    assert len(r.probed("r1", SICK)) == 1
    r = ready(DeploymentSettings(health_check_failure_threshold=0))
    assert [len(r.probed("r1", SICK)) for _ in range(3)] == [0, 0, 1]


def test_a_threshold_that_changes_holds_from_the_next_check_on() -> None:
    r = ready(DeploymentSettings(health_check_failure_threshold=9))
    assert [r.probed("r1", SICK) for _ in range(4)] == [()] * 4
    r.assign(Generation(1, 2), [spec(health_check_failure_threshold=5)], 1.0)
    assert len(r.probed("r1", SICK)) == 1


def test_a_replica_that_was_never_healthy_is_a_start_that_failed_when_its_time_is_over() -> None:
    r = started(DeploymentSettings(startup_timeout_s=5.0))
    assert [r.probed("r1", SICK) for _ in range(9)] == [()] * 9
    assert (status(r).state, status(r).reason) == (STARTING, Reason.HEALTH_CHECK_FAILED)
    assert status(r).message == f"not healthy yet: {SICK.message}"
    text = f"not ready within 5 s of its start: {SICK.message}"
    assert r.tick(5.0) == (Kill("r1", text),)
    r.exited("r1", Failure("killed by SIGKILL"), 5.1)
    assert (status(r).state, status(r).reason, status(r).failed_starts) == (BACKOFF, Reason.STARTUP_TIMEOUT, 1)
    failure = status(r).failure
    assert failure is not None and (failure.message, failure.details) == (text, "Traceback")


def test_health_does_not_matter_while_it_drains() -> None:
    r = ready()
    r.assign(Generation(1, 2), [], 2.0)
    assert [r.probed("r1", SICK) for _ in range(9)] == [()] * 9
    assert r.probed("unknown", SICK) == ()


def test_a_check_that_passes_again_leaves_what_else_is_to_be_told() -> None:
    r = refusing()
    r.probed("r1", SICK)
    assert status(r).reason is Reason.HEALTH_CHECK_FAILED
    r.probed("r1", None)
    assert status(r).reason is Reason.SETTINGS_REFUSED
    assert REFUSAL.message in status(r).message


# Reasons.


def test_each_state_has_its_reason() -> None:
    r = started()
    seen = {(status(r).state, status(r).reason)}
    r.exited("r1", Failure("exited with code 1"), 0.0)
    seen.add((status(r).state, status(r).reason))
    assert r.statuses(1000.0)[0].next_start_at == pytest.approx(1001.0)
    r.tick(1.5)
    seen.add((status(r).state, status(r).reason))
    assert status(r).next_start_at == 0.0
    r.ready("r1", "h:1", "h:2", 2.0)
    seen.add((status(r).state, status(r).reason))
    r.not_configured("r1", "no answer")
    seen.add((status(r).state, status(r).reason))
    r.exited("r1", Failure("killed by SIGSEGV", details="what it printed"), 3.0)
    seen.add((status(r).state, status(r).reason))
    assert r.statuses(1000.0)[0].last_failure_at == 1003.0
    assert status(r).last_failure == Failure("killed by SIGSEGV", details="what it printed", reason=Reason.CRASHED)
    r.ready("r1", "h:1", "h:2", 4.0)
    r.exited("r1", Failure("killed by SIGSEGV"), 5.0)
    seen.add((status(r).state, status(r).reason))
    r.tick(100.0)
    r.ready("r1", "h:1", "h:2", 101.0)
    r.drain(102.0)
    seen.add((status(r).state, status(r).reason))
    r.exited("r1", Failure("exited with code 0"), 103.0)
    seen.add((status(r).state, status(r).reason))
    assert seen == {
        (STARTING, Reason.STARTING),
        (BACKOFF, Reason.START_FAILED),
        (STARTING, Reason.START_FAILED),
        (READY, Reason.READY),
        (READY, Reason.SETTINGS_PENDING),
        (STARTING, Reason.CRASHED),
        (BACKOFF, Reason.CRASH_LOOP),
        (DRAINING, Reason.DRAINING),
        (STOPPED, Reason.STOPPED),
    }


def test_a_drain_that_was_cut_short_says_so() -> None:
    r = ready()
    r.drain(0.0)
    r.tick(1000.0)
    r.exited("r1", Failure("killed by SIGKILL"), 1000.1)
    assert (status(r).state, status(r).reason) == (STOPPED, Reason.DRAIN_TIMEOUT)


def test_what_its_worker_says_of_the_failure_is_the_reason() -> None:
    r = started()
    r.exited("r1", Failure("pip failed", reason=Reason.ENVIRONMENT_FAILED), 1.0)
    assert status(r).reason is Reason.ENVIRONMENT_FAILED


# Drain.


def test_a_drain_that_takes_too_long_is_ended_by_force() -> None:
    r = ready(DeploymentSettings(graceful_shutdown_timeout_s=3.0))
    assert r.drain(10.0) == (Terminate("r1"),)
    assert r.tick(10.0 + 3.0 + KILL_GRACE_S - 0.1) == ()
    (kill,) = r.tick(10.0 + 3.0 + KILL_GRACE_S)
    assert isinstance(kill, Kill)
    r.exited("r1", Failure("killed by SIGKILL"), 16.0)
    assert "had not drained" in status(r).message


def test_a_replica_that_starts_has_nothing_to_drain() -> None:
    r = started(DeploymentSettings(graceful_shutdown_timeout_s=300.0))
    assert r.drain(10.0) == (Terminate("r1"),)
    assert r.next_at() == 10.0 + KILL_GRACE_S


def test_ready_comes_too_late_for_a_replica_that_drains() -> None:
    r = started()
    r.drain(1.0)
    assert r.ready("r1", "h:1", "h:2", 1.1) == ()
    assert (status(r).state, status(r).address) == (DRAINING, "")


def test_a_worker_that_drains_starts_nothing_more() -> None:
    r = ready()
    r.drain(1.0)
    assert r.assign(Generation(9, 9), [spec("r1"), spec("r2")], 2.0) == ()
    assert r.exited("r1", Failure("exited with code 0"), 3.0) == ()
    assert status(r).state is STOPPED


# Environments.


def test_an_environment_is_prepared_before_the_process_starts() -> None:
    r = roster()
    made = fetched()
    assert r.assign(Generation(1, 1), [made], 0.0) == (Prepare(made),)
    r.preparing("r1", "fetching")
    assert (status(r).state, status(r).message) == (PREPARING, "fetching")
    assert r.prepared("r1", 500.0) == (Start(made),)
    assert (status(r).state, status(r).message) == (STARTING, "")
    assert r.next_at() == 500.0 + made.settings.startup_timeout_s
    assert r.prepared("r1", 501.0) == ()


def test_an_environment_that_cannot_be_had_is_a_start_that_failed() -> None:
    r = roster()
    r.assign(Generation(1, 1), [fetched()], 0.0)
    failure = Failure("no such host", "runtime_env.working_dir")
    assert r.not_prepared("r1", failure, 1.0) == ()
    assert (status(r).state, status(r).failed_starts, status(r).reason) == (BACKOFF, 1, Reason.ENVIRONMENT_FAILED)
    assert status(r).failure == replace(failure, reason=Reason.ENVIRONMENT_FAILED)
    assert r.tick(2.0) == (Prepare(fetched()),)
    assert status(r).state is PREPARING
    assert r.not_prepared("r1", failure, 3.0) == ()
    assert r.next_at() == pytest.approx(5.0)


def test_an_environment_that_takes_too_long_is_abandoned() -> None:
    r = roster()
    r.assign(Generation(1, 1), [fetched(startup_timeout_s=1.0)], 0.0)
    assert r.tick(599.0) == ()
    r.preparing("r1", "installing")
    assert r.tick(600.0) == (Abandon("r1"),)
    assert status(r).state is BACKOFF
    assert "not ready within 600 s: installing" in status(r).message
    assert r.not_prepared("r1", Failure("late"), 600.1) == ()
    assert status(r).failed_starts == 1


def test_nobody_prepares_what_is_not_wanted_any_more() -> None:
    r = roster()
    r.assign(Generation(1, 1), [fetched()], 0.0)
    assert r.assign(Generation(1, 2), [], 1.0) == (Abandon("r1"),)
    assert status(r).state is STOPPED
    assert r.prepared("r1", 2.0) == ()
    assert r.assign(Generation(1, 3), [fetched()], 3.0) == (Prepare(fetched()),)
    assert r.drain(4.0) == (Abandon("r1"),)


def test_a_replica_that_crashed_is_prepared_again() -> None:
    r = roster()
    r.assign(Generation(1, 1), [fetched()], 0.0)
    r.prepared("r1", 1.0)
    r.started("r1", 42)
    r.ready("r1", "h:1", "h:2", 2.0)
    assert r.exited("r1", Failure("exited with code 1"), 3.0) == (Prepare(fetched()),)


class Anything(RuleBasedStateMachine):
    """Whatever happens in whatever order: one process per replica at most, and what is wanted comes to run."""

    def __init__(self) -> None:
        super().__init__()
        self.roster = Roster(lambda: 0.5)
        self.now = 0.0
        self.number = 0
        self.wanted: set[str] = set()
        self.processes: set[str] = set()
        self.preparing: set[str] = set()
        self.listening: set[str] = set()

    def obey(self, actions: tuple[Action, ...] | None) -> None:
        for action in actions or ():
            if isinstance(action, Prepare):
                assert action.spec.replica_id not in self.processes | self.preparing, "prepared while it runs"
                self.preparing.add(action.spec.replica_id)
            elif isinstance(action, Abandon):
                self.preparing.remove(action.replica_id)
            elif isinstance(action, Start):
                assert action.spec.replica_id not in self.processes | self.preparing, "two processes of one replica"
                self.processes.add(action.spec.replica_id)
                self.roster.started(action.spec.replica_id, 1)
            else:
                assert action.replica_id in self.processes, f"{action} for a process that is not there"
                assert not isinstance(action, Configure) or action.replica_id in self.listening

    @rule(wanted=st.sets(st.sampled_from(["a", "b", "c"])), limit=st.integers(1, 3))
    def assign(self, wanted: set[str], limit: int) -> None:
        self.number += 1
        made = {"a": spec, "b": fetched, "c": fetched}
        specs = [made[replica_id](replica_id, max_ongoing_requests=limit) for replica_id in sorted(wanted)]
        self.obey(self.roster.assign(Generation(1, self.number), specs, self.now))
        self.wanted = wanted

    @rule(seconds=st.sampled_from([0.1, 1.0, 30.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.obey(self.roster.tick(self.now))

    @precondition(lambda self: self.preparing)
    @rule(data=st.data(), well=st.booleans())
    def is_prepared(self, data: st.DataObject, well: bool) -> None:
        replica_id = data.draw(st.sampled_from(sorted(self.preparing)))
        self.preparing.remove(replica_id)
        if well:
            self.obey(self.roster.prepared(replica_id, self.now))
        else:
            self.obey(self.roster.not_prepared(replica_id, Failure("no"), self.now))

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def becomes_ready(self, data: st.DataObject) -> None:
        replica_id = data.draw(st.sampled_from(sorted(self.processes)))
        if replica_id not in self.listening:
            self.listening.add(replica_id)
            self.obey(self.roster.ready(replica_id, "h:1", "h:2", self.now))

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def exits(self, data: st.DataObject) -> None:
        replica_id = data.draw(st.sampled_from(sorted(self.processes)))
        self.processes.discard(replica_id)
        self.listening.discard(replica_id)
        self.obey(self.roster.exited(replica_id, Failure("killed by SIGKILL"), self.now))

    @rule(replica_id=st.sampled_from(["a", "b", "c"]), failure=st.sampled_from([None, Failure("no answer")]))
    def is_probed(self, replica_id: str, failure: Failure | None) -> None:
        self.obey(self.roster.probed(replica_id, failure))

    @invariant()
    def states_agree_with_processes(self) -> None:
        states = {status.replica_id: status.state for status in self.roster.statuses(0.0)}
        assert self.wanted <= states.keys()
        for replica_id, state in states.items():
            assert (replica_id in self.preparing) == (state is PREPARING)
            assert (replica_id in self.processes) == (state in (STARTING, READY, DRAINING))
            if replica_id not in self.wanted:
                assert state in (DRAINING, STOPPED)
            elif state is BACKOFF:
                assert self.roster.next_at() is not None


TestAnything = Anything.TestCase
TestAnything.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
