"""What an answer that is not a success means: which error, whether anything ran, when to come back.

Owns the tables, for gRPC statuses and for HTTP answers. mesh says what it answers itself in one word, the reason, over
gRPC in google.rpc.ErrorInfo of the domain "mesh", over HTTP in a problem document (RFC 9457); without one the status
was set by user code, or somebody on the way. Never waits and never reads a clock. Called by the shells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from mesh_client import errors
from mesh_client.errors import MeshClientError, Problem

DOMAIN = "mesh"
PUSHBACK = "grpc-retry-pushback-ms"
DETAILS = "grpc-status-details-bin"
REQUEST_ID = "x-request-id"
PROBLEM_JSON = "application/problem+json"
BODY_BYTES_MAX = 64 * 1024
"""Of an error's body; the rest is not looked at."""

_REFUSED_FURTHER_DOWN = "CHILD_OVERLOADED"
NEVER_RAN = frozenset({"OVERLOADED", "NO_REPLICA", "NO_LEADER", "STORE_UNREACHABLE"})
"""Reasons of requests that were refused before anything ran. A deployment that was overloaded further down is not among
them: the one that called it ran."""
_BY_REASON: dict[str, type[MeshClientError]] = {
    "OVERLOADED": errors.Overloaded,
    "CHILD_OVERLOADED": errors.Overloaded,
    "REPLICA_LOST": errors.ReplicaLost,
    "MESSAGE_TOO_LARGE": errors.HandlerFailed,
    "NO_ROOM": errors.Overloaded,
    "ROLLOUT_UNDER_WAY": errors.RolloutUnderWay,
}
"""Of mesh itself, where the code does not say enough."""
_BY_CODE: dict[str, type[MeshClientError]] = {
    "CANCELLED": errors.Cancelled,
    "UNKNOWN": errors.HandlerFailed,
    "INVALID_ARGUMENT": errors.InvalidRequest,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "NOT_FOUND": errors.NotFound,
    "ALREADY_EXISTS": errors.Conflict,
    "PERMISSION_DENIED": errors.PermissionDenied,
    "RESOURCE_EXHAUSTED": errors.ResourceExhausted,
    "FAILED_PRECONDITION": errors.Conflict,
    "ABORTED": errors.Conflict,
    "OUT_OF_RANGE": errors.InvalidRequest,
    "UNIMPLEMENTED": errors.NotFound,
    "INTERNAL": errors.HandlerFailed,
    "UNAVAILABLE": errors.Unavailable,
    "DATA_LOSS": errors.HandlerFailed,
    "UNAUTHENTICATED": errors.Unauthenticated,
}
_BY_STATUS: dict[int, type[MeshClientError]] = {
    401: errors.Unauthenticated,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    405: errors.NotFound,
    408: errors.DeadlineExceeded,
    409: errors.Conflict,
    410: errors.NotFound,
    412: errors.Conflict,
    429: errors.ResourceExhausted,
    499: errors.Cancelled,
    501: errors.NotFound,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}
_NOT_SENT = (
    "Failed to connect to remote host",
    "failed to connect to all addresses",
    "connections to all backends failing",
    "DNS resolution failed",
    "Domain name not found",
)
"""Words of gRPC itself where no connection stood, so that nothing was sent."""


def of_grpc(code: str, details: str, trailers: Mapping[str, str | bytes]) -> MeshClientError:
    """Return the error of a gRPC status: `code` is its name, `trailers` the trailing metadata."""
    info, bad_request, retry = _told(trailers.get(DETAILS))
    reason = info.reason if info is not None else ""
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, errors.HandlerFailed)
    error = kind(details or code, reason=reason, code=code)
    error.request_id = _text(trailers.get(REQUEST_ID, ""))
    if (pushback := trailers.get(PUSHBACK)) is not None:
        error.retry_after_s, error.final = _pushback(_text(pushback))
    if reason == _REFUSED_FURTHER_DOWN and retry.HasField("retry_delay"):
        # gRPC itself must not repeat what ran in part; what is idempotent may be.
        error.retry_after_s, error.final = retry.retry_delay.ToTimedelta().total_seconds(), False
    not_sent = code == "UNAVAILABLE" and not trailers and any(words in details for words in _NOT_SENT)
    _judge(error, never_ran=not_sent or reason in NEVER_RAN)
    if isinstance(error, errors.InvalidRequest):
        error.problems = _problems(bad_request, info)
    if isinstance(error, errors.RolloutUnderWay) and info is not None:
        error.revisions = _revisions(info.metadata)
    return error


def of_http(status: int, headers: Mapping[str, str], body: bytes, *, now: float) -> MeshClientError:
    """Return the error of an HTTP answer; names of `headers` are in lower case, `now` is Unix time in seconds."""
    told = _document(headers, body)
    reason, code = _word(told.get("reason")), _word(told.get("code"))
    by_code = _BY_CODE.get(code) if reason == "METHOD_STATUS" else None
    kind = _BY_REASON.get(reason) or by_code or _BY_STATUS.get(status)
    kind = kind or (errors.HandlerFailed if status >= 500 else errors.InvalidRequest)
    message = _word(told.get("detail")) or _word(told.get("title")) or f"HTTP status {status}"
    error = kind(message, reason=reason, code=code, status=status)
    error.request_id = _word(told.get("request_id")) or headers.get(REQUEST_ID, "")
    error.retry_after_s = retry_after_s(headers.get("retry-after", ""), now=now)
    _judge(error, never_ran=reason in NEVER_RAN)
    if isinstance(error, errors.InvalidRequest) and (field := _word(told.get("field"))):
        error.problems = (Problem(field, message),)
    return error


def not_connected(message: str) -> errors.Unavailable:
    """Return the error of a request for which there was no connection."""
    error = errors.Unavailable(message, reason="NOT_CONNECTED")
    _judge(error, never_ran=True)
    return error


def broken(message: str) -> errors.Unavailable:
    """Return the error of a request whose connection broke: it may have run."""
    error = errors.Unavailable(message, reason="CONNECTION_BROKEN")
    _judge(error, never_ran=False)
    return error


def retry_after_s(value: str, *, now: float) -> float | None:
    """Return the seconds that Retry-After asks for: a number, or a date (RFC 9110, 10.2.3). None: nothing sensible."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value[:12])
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, IndexError, TypeError):
        return None
    try:
        return max(0.0, at.timestamp() - now)
    except (OverflowError, ValueError, OSError):
        return None


def _judge(error: MeshClientError, *, never_ran: bool) -> None:
    error.never_ran = never_ran
    error.transient = never_ran or isinstance(error, errors.Unavailable | errors.Overloaded)


def _pushback(value: str) -> tuple[float | None, bool]:
    """Return the seconds to wait, and whether not to come back at all: what is no number says so too (gRPC's A6)."""
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()):
        return None, True
    return (None, True) if value.startswith("-") else (int(digits[:12]) / 1000, False)


def _told(
    packed: str | bytes | None,
) -> tuple[error_details_pb2.ErrorInfo | None, error_details_pb2.BadRequest, error_details_pb2.RetryInfo]:
    """Return what mesh says of an error, None if it is not of mesh; what is wrong; and when to retry."""
    info, bad_request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    try:
        for detail in Status.FromString(packed).details if isinstance(packed, bytes) else ():
            for wanted in (info, bad_request, retry):
                if detail.Is(wanted.DESCRIPTOR):
                    detail.Unpack(wanted)
    except DecodeError:
        return None, error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    return (info if info.domain == DOMAIN else None), bad_request, retry


def _problems(
    bad_request: error_details_pb2.BadRequest, info: error_details_pb2.ErrorInfo | None
) -> tuple[Problem, ...]:
    hints = dict(info.metadata) if info is not None else {}
    return tuple(
        Problem(violation.field, violation.description, hints.get(f"hint_{i}", ""))
        for i, violation in enumerate(bad_request.field_violations)
    )


def _revisions(metadata: Mapping[str, str]) -> dict[str, int]:
    told = ((name, value) for name, value in metadata.items() if name.startswith("revision/"))
    return {name.removeprefix("revision/"): int(value) for name, value in told if value.isdecimal()}


def _document(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return the problem document of an answer; empty if it has none."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != PROBLEM_JSON:
        return {}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def sendable_s(seconds: float) -> str:
    """Return seconds as the header x-request-timeout-seconds takes them: never 0."""
    return f"{max(seconds, 0.001):.3f}"
