"""Status with many replicas, live frames, events, and what describe shows."""

from __future__ import annotations

import json

import pytest

from mesh.cli import output_describe, output_events, output_status
from mesh.cli.output import Style
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api
from mesh.v1 import event_pb2

NOW = 1_000_000.0
TABLE = Style(now=NOW)


def placement(number: int, **fields: object) -> pb.ReplicaPlacement:
    values = {
        "replica_id": f"app-Echo-{number:02}",
        "state": pb.REPLICA_STATE_READY,
        "reason": pb.REASON_READY,
        "address": f"h:{number}",
        "since": NOW - 60,
    }
    return pb.ReplicaPlacement(worker_id="w1", revision=1, status=pb.ReplicaStatus(**{**values, **fields}))  # type: ignore[arg-type]


def crashing(number: int = 7) -> pb.ReplicaPlacement:
    details = "\n".join(f"line {i}" for i in range(40))
    failure = pb.Failure(message="exit code 7; it printed last: boom", details=details, hint="look at its log")
    return placement(
        number,
        state=pb.REPLICA_STATE_BACKOFF,
        reason=pb.REASON_CRASH_LOOP,
        message=failure.message,
        next_start_at=NOW + 12.5,
        crashes=4,
        failed_starts=1,
        failure=failure,
        last_failure=failure,
        last_failure_at=NOW - 18,
    )


def event(**fields: object) -> event_pb2.Event:
    values = {"sequence": 5, "first_at": NOW - 300, "last_at": NOW - 30, "count": 3, "application": "app"}
    return event_pb2.Event(**{**values, **fields})  # type: ignore[arg-type]


CRASHED = event(
    severity=event_pb2.SEVERITY_WARNING,
    reason=event_pb2.EVENT_REASON_CRASHED,
    replica_id="app-Echo-07",
    message="exit code 7",
)


def application(*replicas: pb.ReplicaPlacement) -> pb.ApplicationStatus:
    settings = pb.DeploymentSettings(
        num_replicas=30, max_ongoing_requests=7, max_queued_requests=100, health_check_failure_threshold=3
    )
    deployment = pb.DeploymentStatus(
        name="Echo",
        state=pb.DEPLOYMENT_STATE_UNHEALTHY,
        reason=pb.REASON_CRASH_LOOP,
        target_replicas=30,
        ready_replicas=len(replicas),
        replicas=replicas,
        settings=settings,
        configured=["num_replicas"],
        ingress=True,
        services=["echo.v1.EchoService"],
    )
    return pb.ApplicationStatus(
        name="app",
        state=pb.APPLICATION_STATE_UNHEALTHY,
        reason=pb.REASON_CRASH_LOOP,
        revision=1,
        serving_revision=1,
        applied_at=NOW - 7200,
        deployments=[deployment],
        last_events=[CRASHED],
    )


def many() -> api.Status:
    return api.Status(applications=[application(*map(placement, range(30)), crashing(99))])


def test_thirty_replicas_are_one_line_in_the_overview() -> None:
    lines = output_status.status(many(), TABLE).splitlines()
    assert len(lines) == 7
    assert lines[4].split()[:4] == ["app/Echo", "UNHEALTHY", "CRASH_LOOP", "31/30"]


def test_with_a_name_those_that_are_not_well_come_first_and_the_last_events_follow() -> None:
    lines = output_status.status(many(), TABLE, detailed=True).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("REPLICA"))
    assert lines[at + 1].split()[:3] == ["app-Echo-99", "BACKOFF", "CRASH_LOOP"]
    assert "starts again in 12s: exit code 7; it printed last: boom" in lines[at + 1]
    assert [line.split()[0] for line in lines[at + 2 : at + 32]] == [f"app-Echo-{i:02}" for i in range(30)]
    assert all(len(line) < 200 for line in lines)
    told = next(line for line in lines if "CRASHED" in line)
    assert told.split() == ["30s", "ago", "3", "WARNING", "CRASHED", "app-Echo-07", "exit", "code", "7"]


def test_replicas_that_fail_checks_are_not_well_though_they_are_ready() -> None:
    failing = placement(5, reason=pb.REASON_HEALTH_CHECK_FAILED, message="failed 1 of 3 health checks in a row")
    rows = output_status.replicas_table([pb.DeploymentStatus(replicas=[placement(1), failing])], TABLE).splitlines()
    assert rows[1].split()[:3] == ["app-Echo-05", "READY", "HEALTH_CHECK_FAILED"]


def test_a_frame_is_no_larger_than_its_terminal() -> None:
    text = output_status.status(many(), TABLE, detailed=True)
    drawn = output_status.frame(text, columns=60, rows=12)
    lines = drawn.removeprefix("\x1b[H").removesuffix("\x1b[J").split("\x1b[K\n")
    assert lines.pop() == ""
    assert len(lines) == 11
    assert all(len(line) <= 60 for line in lines)
    assert lines[-1].startswith("… ") and lines[-1].endswith(" more lines; a larger terminal shows them")


def test_a_frame_keeps_colours_and_counts_them_not() -> None:
    drawn = output_status.frame("\x1b[32mREADY\x1b[0m and more\n", columns=9, rows=5)
    assert drawn == "\x1b[H\x1b[32mREADY\x1b[0m and\x1b[0m\x1b[K\n\x1b[J"


def test_what_user_code_says_does_not_reach_the_terminal_as_an_order() -> None:
    status = api.Status(applications=[application(placement(1, message="\x1b[2Jgone\x07", reason=pb.REASON_CRASHED))])
    assert "\x1b" not in output_status.status(status, TABLE, detailed=True)
    assert "\x1b" not in output_describe.application(status.applications[0], None, TABLE)
    assert "\x1b" not in output_events.event(event(message="\x1b]0;title\x07"), TABLE)


def test_events_as_a_list_and_as_data() -> None:
    assert output_events.events([], TABLE) == "no events\n"
    (told,) = json.loads(output_events.events([CRASHED], Style("json")))["events"]
    assert (told["reason"], told["severity"], told["count"]) == ("CRASHED", "WARNING", 3)
    assert told["last_at"].endswith("Z") and told["first_at"] < told["last_at"]


@pytest.mark.parametrize(
    ("fields", "about"),
    [
        ({"replica_id": "r1", "deployment": "Echo"}, "r1"),
        ({"deployment": "Echo"}, "app/Echo"),
        ({}, "app"),
        ({"application": "", "worker_id": "w1"}, "w1"),
        ({"application": "", "gateway_id": "g1"}, "g1"),
        ({"application": ""}, "control plane"),
    ],
)
def test_what_an_event_is_about(fields: dict[str, str], about: str) -> None:
    assert output_events.about(event(**fields)) == about


def test_an_event_of_a_stream_is_one_line() -> None:
    line = output_events.event(CRASHED, TABLE)
    assert line.count("\n") == 1
    assert line.split(maxsplit=1)[1] == "WARNING CRASHED             app-Echo-07  exit code 7 (x3)\n"
    assert json.loads(output_events.event(CRASHED, Style("json", one_line=True)))["reason"] == "CRASHED"


def test_an_application_described() -> None:
    config = pb.ApplicationConfig(import_path="m:app")
    config.runtime_env.env_vars["TOKEN"] = "secret"
    text = output_describe.application(application(placement(1), crashing()), config, TABLE)
    for part in (
        "State:        UNHEALTHY (CRASH_LOOP)",
        "Revision:     1, applied 2h ago",
        "Code:         m:app",
        "Variables:    TOKEN",
        "Deployment:   Echo (ingress)",
        "Services:     echo.v1.EchoService",
        "Endpoints:    h:1, h:7",
        "Last failure of app-Echo-07, 18s ago:\n  exit code 7; it printed last: boom\n",
        "  fix: look at its log\n  …\n  line 28\n",
        "  line 39",
        "Last events:",
    ):
        assert part in text, text
    assert "secret" not in text
    settings = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()[2:] and line[0] == " "}
    assert settings["num_replicas"] == ["30", "config"]
    assert settings["max_ongoing_requests"] == ["7", "code"]
    assert settings["max_queued_requests"] == ["100", "default"]


def test_a_replica_described() -> None:
    status = application(crashing())
    (placed,) = output_describe.placed([status])
    text = output_describe.replica(placed, TABLE)
    for part in (
        "Replica:      app-Echo-07",
        "Deployment:   app/Echo",
        "State:        BACKOFF (CRASH_LOOP)",
        "Message:      starts again in 12s: exit code 7",
        "Restarts:     5 (4 after having been ready)",
        "Settings:",
        "Last failure of app-Echo-07",
    ):
        assert part in text, text


def test_a_worker_described() -> None:
    worker = pb.WorkerStatus(
        worker_id="w1", state=pb.WORKER_STATE_READY, reason=pb.REASON_READY, host="10.0.0.1", last_seen=NOW - 3
    )
    text = output_describe.worker(worker, list(output_describe.placed([application(placement(1))])), TABLE)
    for part in ("Worker:       w1", "State:        READY\n", "Last seen:    3s ago", "Replicas:\n", "app-Echo-01"):
        assert part in text, text
