"""Tables, JSON and YAML of status and workers, ready lines, and errors as people read them."""

from __future__ import annotations

import json

import pytest
import yaml

from mesh.cli import output, output_status
from mesh.cli.config_file import InvalidFile
from mesh.cli.fail import ExitCode, exit_code, rendered
from mesh.cli.follow import ApplicationsFailed
from mesh.cli.output import Style
from mesh.cli.strict_yaml import Fault, Place
from mesh.errors import (
    Conflict,
    DeadlineExceeded,
    DeployFailed,
    InvalidConfig,
    MeshError,
    NotFound,
    Problem,
    RolloutUnderWay,
    Unreachable,
)
from mesh.model import Failure
from mesh.v1 import deployment_pb2 as pb
from mesh.v1 import deployment_service_pb2 as api

NOW = 1_000_000.0
TABLE = Style(now=NOW)


def replica() -> pb.ReplicaPlacement:
    status = pb.ReplicaStatus(
        replica_id="default-D-1", state=pb.REPLICA_STATE_READY, pid=42, since=NOW - 130, ongoing_requests=2
    )
    return pb.ReplicaPlacement(worker_id="w1", revision=3, status=status)


def status() -> api.Status:
    deployment = pb.DeploymentStatus(
        name="D", state=pb.DEPLOYMENT_STATE_HEALTHY, target_replicas=1, ready_replicas=1, replicas=[replica()]
    )
    running = pb.ApplicationStatus(
        name="default",
        route_prefix="/",
        state=pb.APPLICATION_STATE_RUNNING,
        reason=pb.REASON_READY,
        revision=3,
        serving_revision=3,
        applied_at=NOW - 7200,
        deployments=[deployment],
    )
    failed = pb.ApplicationStatus(
        name="other",
        state=pb.APPLICATION_STATE_DEPLOY_FAILED,
        message="Traceback (most recent call last):\n  File x\nValueError: no",
        reason=pb.REASON_ROLLED_BACK,
        revision=2,
        serving_revision=1,
    )
    worker = pb.WorkerStatus(
        worker_id="w1",
        state=pb.WORKER_STATE_READY,
        host="127.0.0.1",
        resources=pb.Resources(cpus=2, memory_bytes=3 * 2**30, max_replicas=100),
        replicas=1,
        last_seen=NOW - 1,
    )
    return api.Status(applications=[running, failed], workers=[worker], leader="127.0.0.1:7070", gateways=2)


def test_status_table() -> None:
    assert output_status.status(status(), TABLE) == (
        "APPLICATION   STATE           REASON        REVISION        ROUTE   AGE   MESSAGE\n"
        "default       RUNNING         -             3               /       2h\n"
        "other         DEPLOY_FAILED   ROLLED_BACK   2 (serving 1)   -       -     ValueError: no\n"
        "\n"
        "DEPLOYMENT   STATE     REASON   READY   MESSAGE\n"
        "default/D    HEALTHY   -        1/1\n"
        "\n"
        "1 worker, 2 gateways, control plane 127.0.0.1:7070\n"
    )


def test_status_table_of_replicas() -> None:
    lines = output_status.status(status(), TABLE, detailed=True).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("REPLICA"))
    assert lines[at].split()[:7] == ["REPLICA", "STATE", "REASON", "FOR", "REVISION", "WORKER", "PID"]
    assert lines[at + 1].split() == ["default-D-1", "READY", "-", "2m", "3", "w1", "42", "2", "0"]


def test_status_without_applications() -> None:
    text = output_status.status(api.Status(), TABLE)
    assert text == "no applications\n\n0 workers, 0 gateways, control plane without a leader\n"


def test_status_json_has_every_field_under_its_name() -> None:
    data = json.loads(output_status.status(status(), Style("json")))
    assert list(data) == ["applications", "workers", "leader", "gateways", "gateways_behind", "stale"]
    first, second = data["applications"]
    assert first["state"] == "RUNNING"
    assert first["revision"] == 3
    assert first["serving_revision"] == 3
    assert (first["applied_at"], second["applied_at"]) == ("1970-01-12T11:46:40.000Z", None)
    assert second["deployments"] == []
    (placed,) = first["deployments"][0]["replicas"]
    assert placed["status"]["state"] == "READY"
    assert placed["status"]["pid"] == 42
    assert placed["status"]["since"] == "1970-01-12T13:44:30.000Z"
    assert data["workers"][0]["last_seen"] == "1970-01-12T13:46:39.000Z"
    assert data["workers"][0]["resources"] == {"cpus": 2, "memory_bytes": 3 * 2**30, "max_replicas": 100}


def test_status_yaml_says_the_same_as_json() -> None:
    assert yaml.safe_load(output_status.status(status(), Style("yaml"))) == json.loads(
        output_status.status(status(), Style("json"))
    )


@pytest.mark.parametrize("time", [1e18, -1e18, float("nan"), float("inf")])
def test_a_time_that_no_calendar_has_is_none(time: float) -> None:
    assert output.as_data(pb.WorkerStatus(last_seen=time))["last_seen"] is None


def test_watched_json_is_a_line_for_each_value() -> None:
    text = output_status.status(status(), Style("json", one_line=True))
    assert text.count("\n") == 1
    assert json.loads(text)["leader"] == "127.0.0.1:7070"


def test_colour_marks_states_and_keeps_columns() -> None:
    plain = output_status.status(status(), TABLE)
    coloured = output_status.status(status(), Style(now=NOW, colour=True))
    assert "\x1b[32mRUNNING" in coloured
    assert "\x1b[31mDEPLOY_FAILED" in coloured
    for code in ("\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


def test_applied() -> None:
    response = api.ApplyResponse(
        applications=[
            api.AppliedApplication(name="a", revision=2, change=api.CHANGE_UPDATED),
            api.AppliedApplication(name="b", revision=1, change=api.CHANGE_DELETED),
        ]
    )
    assert output.applied(response, {"a": "RUNNING"}, TABLE) == (
        "APPLICATION   REVISION   CHANGE    STATE\n"
        "a             2          UPDATED   RUNNING\n"
        "b             1          DELETED   -\n"
    )
    data = json.loads(output.applied(response, {"a": "RUNNING"}, Style("json")))
    assert data["applications"][0] == {"name": "a", "revision": 2, "change": "UPDATED", "state": "RUNNING"}


ADDRESSES = {
    "http": "http://127.0.0.1:8000",
    "grpc": "127.0.0.1:9000",
    "control": "127.0.0.1:7070",
    "admin": "http://127.0.0.1:9901",
}


def test_ready_lines() -> None:
    assert output.ready(["default"], ADDRESSES, TABLE) == (
        "mesh is ready: default\n"
        "  HTTP     http://127.0.0.1:8000/\n"
        "  gRPC     127.0.0.1:9000\n"
        "  control  127.0.0.1:7070\n"
        "  admin    http://127.0.0.1:9901\n"
    )


def test_ready_lines_have_only_what_applies() -> None:
    text = output.ready(["worker"], {"admin": "http://127.0.0.1:9901"}, TABLE)
    assert text == "mesh is ready: worker\n  admin    http://127.0.0.1:9901\n"


def test_ready_line_shows_the_route_to_people_only() -> None:
    assert "http://127.0.0.1:8000/x\n" in output.ready(["a"], ADDRESSES, TABLE, route="/x")
    line = output.ready(["a"], ADDRESSES, Style("json"), route="/x")
    assert json.loads(line) == {"ready": ["a"], **ADDRESSES}
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0.9, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d")],
)
def test_age(seconds: float, text: str) -> None:
    assert output.age(seconds) == text


def test_a_number_that_no_enum_has_is_shown() -> None:
    assert output.enum_name(pb.ReplicaState.DESCRIPTOR, 99) == "99"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidConfig((Problem("x", "y"),)), ExitCode.USAGE),
        (InvalidConfig((Problem("x", "y", refused=True),)), ExitCode.FAILED),
        (InvalidConfig((Problem("x", "y", refused=True), Problem("x", "y"))), ExitCode.USAGE),
        (NotFound("x"), ExitCode.NOT_FOUND),
        (Conflict("x"), ExitCode.CONFLICT),
        (Unreachable("x"), ExitCode.UNREACHABLE),
        (DeadlineExceeded("x"), ExitCode.TIMED_OUT),
        (DeployFailed("x"), ExitCode.FAILED),
        (MeshError("x"), ExitCode.FAILED),
        (ValueError("x"), ExitCode.FAILED),
    ],
)
def test_exit_codes(error: Exception, code: ExitCode) -> None:
    assert exit_code(error) is code


def test_an_error_says_what_why_and_how_to_mend_it() -> None:
    error = DeployFailed("application 'a' failed\nTraceback:\n  ValueError: no", hint="mend it")
    assert rendered(error) == (
        "error: application 'a' failed\n  why: Traceback:\n         ValueError: no\n  fix: mend it"
    )


def test_an_error_of_a_config_file_has_a_line_for_each_problem() -> None:
    faults = [
        Fault(Place(3, 9), Problem("applications[0].name", "must be text, not 5", 'put it in quotes: "5"')),
        Fault(Place(1, 1), Problem("", "is empty")),
    ]
    assert rendered(InvalidFile("mesh.yaml", faults)) == (
        "error: mesh.yaml:1:1: is empty\n"
        "error: mesh.yaml:3:9: applications[0].name: must be text, not 5\n"
        '  fix: put it in quotes: "5"'
    )


def test_an_application_that_failed_shows_the_end_of_its_traceback() -> None:
    lines = ["Traceback (most recent call last):", *(f"  line {i}" for i in range(20)), "ValueError: \x1b[2Jno"]
    error = ApplicationsFailed(
        {
            "b": Failure("ValueError: no (x.py:1)", "import_path", "mend it", "\n".join(lines)),
            "a": Failure("there is no module 'x'", "import_path", "did you mean 'y'?"),
        },
        {"b": "revision 2 failed and was rolled back to revision 1"},
    )
    shown = "\n".join(f"         line {i}" for i in range(11, 20))
    assert rendered(error) == (
        "error: application 'a' failed: there is no module 'x'\n"
        "  fix: did you mean 'y'?\n"
        "error: application 'b' failed: ValueError: no (x.py:1)\n"
        "  why: revision 2 failed and was rolled back to revision 1\n"
        f"{shown}\n"
        "       ValueError: \N{REPLACEMENT CHARACTER}[2Jno\n"
        "  fix: mend it (meshctl --debug shows the whole traceback)"
    )
    error.places = {
        "b": "mesh.yaml:4:16: applications[0].import_path",
        "a": "mesh.yaml:10:16: applications[1].import_path",
    }
    whole = rendered(error, debug=True)
    assert whole.startswith("error: mesh.yaml:4:16: applications[0].import_path: ValueError: no (x.py:1)\n")
    assert "Traceback (most" in whole and "line 0\n" in whole
    assert whole.endswith(
        "  fix: mend it\n"
        "error: mesh.yaml:10:16: applications[1].import_path: there is no module 'x'\n"
        "  fix: did you mean 'y'?"
    )


def test_what_was_rolled_back_has_a_code_of_its_own() -> None:
    failures = {"a": Failure("no"), "b": Failure("no")}
    assert exit_code(ApplicationsFailed(failures, {"a": "rolled back", "b": "held"})) == 7
    assert exit_code(ApplicationsFailed(failures, {"a": "rolled back"})) == 1
    assert exit_code(RolloutUnderWay({"a": 2})) == 4


def test_a_long_name_is_not_repeated_whole() -> None:
    error = InvalidFile("mesh.yaml", [Fault(Place(1, 1), Problem(f"applications[0].{'x' * 300}", "unknown key", ""))])
    assert len(rendered(error)) < 250


def test_an_unexpected_error_shows_no_traceback_but_how_to_get_it() -> None:
    try:
        raise ValueError("surprise")
    except ValueError as error:
        plain, full = rendered(error), rendered(error, debug=True)
    assert plain.startswith("error: unexpected ValueError: surprise\n  fix: ")
    assert "Traceback" not in plain
    assert "Traceback" in full


def test_tracebacks_are_taken_out_of_a_status() -> None:
    message = status()
    output_status.without_details(message)
    assert not message.applications[0].HasField("failure")
    message.applications[0].failure.details = "Traceback"
    message.applications[0].failure.message = "ValueError: no"
    message.applications[0].deployments[0].replicas[0].status.failure.details = "Traceback"
    output_status.without_details(message)
    said = output_status.status(message, Style("json"))
    application = json.loads(said)["applications"][0]
    assert application["failure"]["details"] == ""
    assert application["deployments"][0]["replicas"][0]["status"]["failure"]["details"] == ""


def test_deleted() -> None:
    assert output.deleted({"b", "a"}, {"a": "GONE"}, TABLE).splitlines()[1:] == [
        "a             DELETED   GONE",
        "b             DELETED   -",
    ]
    assert json.loads(output.deleted(["a"], {}, Style("json"))) == {
        "applications": [{"name": "a", "change": "DELETED", "state": ""}]
    }
