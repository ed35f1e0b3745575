"""What answers mean."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from mesh_client import answers, errors

NOW = 1_700_000_000.0


def packed(*details: Any) -> bytes:
    status = Status(code=1)
    for detail in details:
        status.details.append(AnyMessage())
        status.details[-1].Pack(detail)
    return bytes(status.SerializeToString())


def told(reason: str, domain: str = "mesh", **metadata: str) -> dict[str, str | bytes]:
    info = ErrorInfo(reason=reason, domain=domain, metadata=metadata)
    return {"grpc-status-details-bin": packed(info), "x-request-id": "abc"}


def http(status: int, reason: str = "", headers: dict[str, str] | None = None, **more: Any) -> errors.MeshClientError:
    document = {"status": status, "title": "Title", "detail": "why", "reason": reason, "request_id": "abc", **more}
    given = {"content-type": "application/problem+json; charset=utf-8", **(headers or {})}
    return answers.of_http(status, given, json.dumps(document).encode(), now=NOW)


def test_what_mesh_sheds_never_ran() -> None:
    error = answers.of_grpc("RESOURCE_EXHAUSTED", "full", told("OVERLOADED") | {"grpc-retry-pushback-ms": "1500"})
    assert type(error) is errors.Overloaded
    assert (error.reason, error.request_id, error.retry_after_s) == ("OVERLOADED", "abc", 1.5)
    assert error.never_ran and error.transient and not error.final
    error = http(503, "OVERLOADED", {"retry-after": "2"})
    assert type(error) is errors.Overloaded
    assert (error.reason, error.request_id, error.retry_after_s, error.status) == ("OVERLOADED", "abc", 2.0, 503)
    assert error.never_ran and error.message == "why"


def test_what_a_deployment_further_down_sheds_may_have_run() -> None:
    for error in (answers.of_grpc("RESOURCE_EXHAUSTED", "", told("CHILD_OVERLOADED")), http(503, "CHILD_OVERLOADED")):
        assert type(error) is errors.Overloaded
        assert error.transient and not error.never_ran


def test_what_was_refused_further_down_is_for_us_to_repeat_and_not_for_grpc() -> None:
    retry = RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    details = packed(ErrorInfo(reason="CHILD_OVERLOADED", domain="mesh"), retry)
    error = answers.of_grpc(
        "RESOURCE_EXHAUSTED", "full", {"grpc-status-details-bin": details, "grpc-retry-pushback-ms": "-1"}
    )
    assert (error.retry_after_s, error.final, error.never_ran, error.transient) == (1.5, False, False, True)


def test_what_an_application_limits_itself_is_its_own() -> None:
    for error in (
        answers.of_grpc("RESOURCE_EXHAUSTED", "quota", {"x-request-id": "abc"}),
        answers.of_grpc("RESOURCE_EXHAUSTED", "quota", told("OVERLOADED", domain="example.com")),
        http(429, "METHOD_STATUS", code="RESOURCE_EXHAUSTED"),
        answers.of_http(429, {}, b"", now=NOW),
    ):
        assert type(error) is errors.ResourceExhausted
        assert not error.never_ran and not error.transient


@pytest.mark.parametrize(
    ("details", "never_ran"),
    [
        ("connections to all backends failing; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect", True),
        ("failed to connect to all addresses; last error: UNAVAILABLE", True),
        ("DNS resolution failed for nowhere.invalid", True),
        ("Socket closed", False),
        ("recvmsg:Connection reset by peer", False),
    ],
)
def test_without_a_connection_nothing_ran(details: str, never_ran: bool) -> None:
    error = answers.of_grpc("UNAVAILABLE", details, {})
    assert type(error) is errors.Unavailable
    assert (error.never_ran, error.transient) == (never_ran, True)
    # The same words of a server prove nothing.
    assert not answers.of_grpc("UNAVAILABLE", details, {"x-request-id": "abc"}).never_ran


@pytest.mark.parametrize(
    ("reason", "code", "status", "kind", "never_ran", "transient"),
    [
        ("NO_REPLICA", "UNAVAILABLE", 503, errors.Unavailable, True, True),
        ("REPLICA_LOST", "UNAVAILABLE", 502, errors.ReplicaLost, False, True),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", 504, errors.DeadlineExceeded, False, False),
        ("HANDLER_FAILED", "INTERNAL", 500, errors.HandlerFailed, False, False),
        ("MESSAGE_TOO_LARGE", "RESOURCE_EXHAUSTED", 500, errors.HandlerFailed, False, False),
        ("NO_SUCH_ROUTE", "UNIMPLEMENTED", 404, errors.NotFound, False, False),
        ("INVALID_REQUEST", "INVALID_ARGUMENT", 400, errors.InvalidRequest, False, False),
        ("BODY_TOO_LARGE", "INVALID_ARGUMENT", 413, errors.InvalidRequest, False, False),
        ("CLIENT_GONE", "CANCELLED", 499, errors.Cancelled, False, False),
    ],
)
def test_what_mesh_answers_means_the_same_over_both(
    reason: str, code: str, status: int, kind: type, never_ran: bool, transient: bool
) -> None:
    for error in (answers.of_grpc(code, "why", told(reason)), http(status, reason, code=code)):
        assert type(error) is kind
        assert (error.reason, error.never_ran, error.transient) == (reason, never_ran, transient)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("UNAUTHENTICATED", 401, errors.Unauthenticated),
        ("PERMISSION_DENIED", 403, errors.PermissionDenied),
        ("NOT_FOUND", 404, errors.NotFound),
        ("ALREADY_EXISTS", 409, errors.Conflict),
        ("FAILED_PRECONDITION", 400, errors.Conflict),
        ("INVALID_ARGUMENT", 400, errors.InvalidRequest),
        ("INTERNAL", 500, errors.HandlerFailed),
        ("UNAVAILABLE", 503, errors.Unavailable),
        ("UNIMPLEMENTED", 501, errors.NotFound),
    ],
)
def test_what_user_code_sets_means_the_same_over_both(code: str, status: int, kind: type) -> None:
    for error in (answers.of_grpc(code, "why", {}), http(status, "METHOD_STATUS", code=code)):
        assert type(error) is kind
        assert not error.never_ran


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest),
        (401, errors.Unauthenticated),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (418, errors.InvalidRequest),
        (500, errors.HandlerFailed),
        (503, errors.Unavailable),
        (504, errors.DeadlineExceeded),
        (599, errors.HandlerFailed),
    ],
)
def test_statuses_alone(status: int, kind: type) -> None:
    error = answers.of_http(status, {"x-request-id": "abc"}, b"<html>", now=NOW)
    assert type(error) is kind
    assert error.request_id == "abc" and str(status) in error.message and not error.never_ran


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert answers.retry_after_s(value, now=NOW) == seconds


@pytest.mark.parametrize(("value", "seconds", "final"), [("0", 0.0, False), ("250", 0.25, False), ("-1", None, True)])
def test_pushback(value: str, seconds: float | None, final: bool) -> None:
    error = answers.of_grpc("RESOURCE_EXHAUSTED", "", told("OVERLOADED") | {"grpc-retry-pushback-ms": value})
    assert (error.retry_after_s, error.final) == (seconds, final)
    for broken in ("", "x", "1.5", "--1", "²"):
        assert answers.of_grpc("UNAVAILABLE", "", {"grpc-retry-pushback-ms": broken}).final


def test_fields_that_are_wrong_are_named() -> None:
    violations = [BadRequest.FieldViolation(field="applications[0].name", description="is taken")]
    info = ErrorInfo(reason="INVALID_CONFIG", domain="mesh", metadata={"hint_0": "choose another"})
    trailers: dict[str, Any] = {"grpc-status-details-bin": packed(BadRequest(field_violations=violations), info)}
    error = answers.of_grpc("INVALID_ARGUMENT", "wrong", trailers)
    assert isinstance(error, errors.InvalidRequest)
    assert error.problems == (errors.Problem("applications[0].name", "is taken", "choose another"),)
    error = http(400, "INVALID_REQUEST", field="titel")
    assert isinstance(error, errors.InvalidRequest) and error.problems[0].field == "titel"


def test_a_rollout_under_way_tells_of_whom() -> None:
    error = answers.of_grpc("ABORTED", "", told("ROLLOUT_UNDER_WAY", **{"revision/shop": "7", "revision/x": "y"}))
    assert isinstance(error, errors.RolloutUnderWay) and error.revisions == {"shop": 7}


def test_an_error_tells_of_itself() -> None:
    error = http(503, "OVERLOADED")
    error.attempts = 3
    assert str(error) == "why (reason OVERLOADED, request id abc, 3 attempts)"
    assert str(errors.Cancelled("gone")) == "gone"


@given(
    st.integers(400, 599),
    st.dictionaries(st.sampled_from(["content-type", "retry-after", "x-request-id"]), st.text(max_size=40)),
    st.binary(max_size=200),
)
def test_no_http_answer_is_too_odd(status: int, headers: dict[str, str], body: bytes) -> None:
    answers.of_http(status, {**headers, "content-type": "application/problem+json"}, body, now=NOW)
    answers.of_http(status, headers, body, now=NOW)


@given(st.text(max_size=20), st.text(max_size=60), st.binary(max_size=200), st.text(max_size=20))
def test_no_trailers_are_too_odd(code: str, details: str, packed: bytes, pushback: str) -> None:
    answers.of_grpc(code, details, {"grpc-status-details-bin": packed, "grpc-retry-pushback-ms": pushback})


def test_timeouts_are_told_as_servers_take_them() -> None:
    assert answers.sendable_s(1.5) == "1.500"
    assert answers.sendable_s(0.00001) == "0.001"
    assert answers.sendable_s(12.34567) == "12.346"
