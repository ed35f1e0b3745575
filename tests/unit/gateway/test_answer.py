"""Each error has one status, one gRPC code and one reason, and tells no more than it should."""

from __future__ import annotations

import json

import grpc
import pytest

from mesh import errors
from mesh.gateway import answer

TABLE = [
    (errors.Overloaded("full", retry_after_s=1.2), 503, "RESOURCE_EXHAUSTED", "OVERLOADED"),
    (errors.BackPressureError("full", retry_after_s=1.2), 503, "RESOURCE_EXHAUSTED", "CHILD_OVERLOADED"),
    (errors.Unavailable("none"), 503, "UNAVAILABLE", "NO_REPLICA"),
    (errors.ChildUnavailable("none"), 503, "UNAVAILABLE", "CHILD_UNAVAILABLE"),
    (errors.DeadlineExceeded("late"), 504, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
    (errors.ReplicaLost("lost"), 502, "UNAVAILABLE", "REPLICA_LOST"),
    (errors.HandlerFailed("ValueError: secret"), 500, "INTERNAL", "HANDLER_FAILED"),
    (errors.NotFound("no route"), 404, "UNIMPLEMENTED", "NO_SUCH_ROUTE"),
    (errors.InvalidConfig((errors.Problem("x", "bad"),)), 400, "INVALID_ARGUMENT", "INVALID_REQUEST"),
    (answer.BodyBroken("bad chunk"), 400, "INVALID_ARGUMENT", "BODY_BROKEN"),
    (answer.BodyTimeout("silent"), 408, "DEADLINE_EXCEEDED", "BODY_TIMEOUT"),
    (answer.MethodNotAllowed("no", allow="GET"), 405, "UNIMPLEMENTED", "METHOD_NOT_ALLOWED"),
    (answer.Unsupported("no"), 501, "UNIMPLEMENTED", "NOT_SUPPORTED"),
    (answer.PayloadTooLarge("big"), 413, "INVALID_ARGUMENT", "BODY_TOO_LARGE"),
    (answer.HeadTooLarge("big"), 431, "INVALID_ARGUMENT", "HEADERS_TOO_LARGE"),
    (answer.PathTooLong("long"), 414, "INVALID_ARGUMENT", "PATH_TOO_LONG"),
    (answer.ClientGone("gone"), 499, "CANCELLED", "CLIENT_GONE"),
    (errors.Conflict("internal detail"), 500, "INTERNAL", "INTERNAL"),
]


@pytest.mark.parametrize(("error", "status", "code", "reason"), TABLE, ids=lambda value: type(value).__name__)
def test_the_table(error: errors.MeshError, status: int, code: str, reason: str) -> None:
    told, headers, body = answer.problem(error, "id-1")
    fields = json.loads(body)
    assert (told, fields["status"], fields["code"], fields["reason"]) == (status, status, code, reason)
    assert grpc.StatusCode[code].name == code
    assert fields["request_id"] == "id-1" and fields["type"] == "about:blank" and fields["title"]
    found = dict(headers)
    assert found[b"content-type"] == b"application/problem+json"
    assert found[b"content-length"] == b"%d" % len(body)
    assert found[b"x-request-id"] == b"id-1"
    assert (b"retry-after" in found) == isinstance(error, errors.Overloaded)
    assert found.get(b"allow") == (b"GET" if isinstance(error, answer.MethodNotAllowed) else None)


@pytest.mark.parametrize(
    "error", [errors.HandlerFailed("secret"), errors.Conflict("secret"), errors.MeshError("secret")]
)
def test_what_user_code_or_mesh_itself_said_is_not_for_clients(error: errors.MeshError) -> None:
    assert b"secret" not in answer.problem(error, "")[2]


def test_a_hint_is_part_of_the_sentence() -> None:
    assert answer.detail(errors.NotFound("no such route", hint="look here")) == "no such route; look here"


@pytest.mark.parametrize(("seconds", "told"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.01, 2), (30.0, 30)])
def test_retry_after_is_whole_seconds_and_never_zero(seconds: float, told: int) -> None:
    assert answer.retry_after(errors.Overloaded("full", retry_after_s=seconds)) == told
