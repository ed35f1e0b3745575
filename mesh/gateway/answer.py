"""What clients are told when something goes wrong: the one place where errors become statuses.

Owns the table of design: error → HTTP status, gRPC code, reason, and the body `application/problem+json`
(RFC 9457). Pure. Called by the fronts.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from http import HTTPStatus

from mesh import errors
from mesh.pipe.messages import MessageTooLarge
from mesh.transcode.refusals import RequestRefused

PROBLEM_JSON = b"application/problem+json"


class ClientGone(errors.MeshError):
    """The client went away. Nobody reads the answer; logs and metrics say 499."""


class BodyBroken(errors.MeshError):
    """The request's body broke off, or is not framed as HTTP says."""


class BodyTimeout(errors.MeshError):
    """No byte of the request's body came for too long."""


class MethodNotAllowed(errors.MeshError):
    """The page has no such method. `allow` names those it has."""

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class Unsupported(errors.MeshError):
    """The gateway has no such function: a method or a protocol that it does not serve."""


class MediaUnsupported(errors.MeshError):
    """The body is of a type or encoding that is not taken there."""


class PayloadTooLarge(errors.MeshError):
    """The body is larger than the gateway takes."""


class HeadTooLarge(errors.MeshError):
    """The headers are larger, or more, than the gateway takes."""


class PathTooLong(errors.MeshError):
    """The path is longer than the gateway looks at."""


class MethodFailed(errors.MeshError):
    """A gRPC method ended with a status other than OK, as user code set it. Clients are told all of it."""

    def __init__(self, code: int, message: str, details: bytes = b"", metadata: tuple[bytes, ...] = ()) -> None:
        """`details` is a serialized google.rpc.Status or empty, `metadata` the trailing metadata, flat."""
        super().__init__(message)
        self.code = code if 0 < code < len(CODES) else 2
        self.details = details
        self.metadata = metadata


CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""Names of gRPC's status codes, by number."""
STATUSES = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
"""HTTP status of each: google.rpc.Code's. What mesh itself sheds is Overloaded, and 503."""
_REFUSED = {413: "BODY_TOO_LARGE", 415: "UNSUPPORTED_MEDIA_TYPE"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one kind of error is told. `code` is the gRPC code's name; `reason` is for programs."""

    status: int
    code: str
    title: str
    reason: str


OUTCOMES: dict[type[errors.MeshError], Outcome] = {
    errors.Overloaded: Outcome(503, "RESOURCE_EXHAUSTED", "Service Unavailable", "OVERLOADED"),
    # Other reasons than for what never ran: who sees that one sends the request again whatever it is.
    errors.BackPressureError: Outcome(503, "RESOURCE_EXHAUSTED", "Service Unavailable", "CHILD_OVERLOADED"),
    errors.Unavailable: Outcome(503, "UNAVAILABLE", "Service Unavailable", "NO_REPLICA"),
    errors.ChildUnavailable: Outcome(503, "UNAVAILABLE", "Service Unavailable", "CHILD_UNAVAILABLE"),
    errors.DeadlineExceeded: Outcome(504, "DEADLINE_EXCEEDED", "Gateway Timeout", "DEADLINE_EXCEEDED"),
    errors.RequestTimeout: Outcome(504, "DEADLINE_EXCEEDED", "Gateway Timeout", "DEADLINE_EXCEEDED"),
    errors.ReplicaLost: Outcome(502, "UNAVAILABLE", "Bad Gateway", "REPLICA_LOST"),
    errors.HandlerFailed: Outcome(500, "INTERNAL", "Internal Server Error", "HANDLER_FAILED"),
    errors.NotFound: Outcome(404, "UNIMPLEMENTED", "Not Found", "NO_SUCH_ROUTE"),
    errors.InvalidConfig: Outcome(400, "INVALID_ARGUMENT", "Bad Request", "INVALID_REQUEST"),
    BodyBroken: Outcome(400, "INVALID_ARGUMENT", "Bad Request", "BODY_BROKEN"),
    BodyTimeout: Outcome(408, "DEADLINE_EXCEEDED", "Request Timeout", "BODY_TIMEOUT"),
    MethodNotAllowed: Outcome(405, "UNIMPLEMENTED", "Method Not Allowed", "METHOD_NOT_ALLOWED"),
    Unsupported: Outcome(501, "UNIMPLEMENTED", "Not Implemented", "NOT_SUPPORTED"),
    MediaUnsupported: Outcome(415, "INVALID_ARGUMENT", "Unsupported Media Type", "UNSUPPORTED_MEDIA_TYPE"),
    PayloadTooLarge: Outcome(413, "INVALID_ARGUMENT", "Content Too Large", "BODY_TOO_LARGE"),
    PathTooLong: Outcome(414, "INVALID_ARGUMENT", "URI Too Long", "PATH_TOO_LONG"),
    HeadTooLarge: Outcome(431, "INVALID_ARGUMENT", "Request Header Fields Too Large", "HEADERS_TOO_LARGE"),
    MessageTooLarge: Outcome(500, "RESOURCE_EXHAUSTED", "Internal Server Error", "MESSAGE_TOO_LARGE"),
    ClientGone: Outcome(499, "CANCELLED", "Client Closed Request", "CLIENT_GONE"),
}
_UNKNOWN = Outcome(500, "INTERNAL", "Internal Server Error", "INTERNAL")


def outcome(error: errors.MeshError) -> Outcome:
    """Return how `error` is told."""
    if isinstance(error, MethodFailed):
        status = STATUSES[error.code]
        return Outcome(status, CODES[error.code], _title(status), "METHOD_STATUS")
    if isinstance(error, RequestRefused):
        reason = _REFUSED.get(error.status, "INVALID_REQUEST")
        return Outcome(error.status, "INVALID_ARGUMENT", _title(error.status), reason)
    return OUTCOMES.get(type(error), _UNKNOWN)


def _title(status: int) -> str:
    return HTTPStatus(status).phrase if status != 499 else "Client Closed Request"


def detail(error: errors.MeshError) -> str:
    """Return the sentence for the client. What user code raised is for logs only."""
    if isinstance(error, (MethodFailed, RequestRefused)):
        return error.message
    if isinstance(error, errors.HandlerFailed) or type(error) not in OUTCOMES:
        return "The handler failed; the log has the reason under this request id."
    return f"{error.message}; {error.hint}" if error.hint else error.message


def pushback(error: errors.Overloaded) -> str:
    """Return the milliseconds after which gRPC itself may send a call again; -1: never, for part of it ran."""
    return "-1" if isinstance(error, errors.BackPressureError) else str(max(1, int(error.retry_after_s * 1000)))


def retry_after(error: errors.MeshError) -> int | None:
    """Return whole seconds for Retry-After, where repeating makes sense."""
    if isinstance(error, errors.Overloaded):
        return max(1, math.ceil(error.retry_after_s))
    return None


def fields_of(error: errors.MeshError, request_id: str) -> dict[str, object]:
    """Return the members of the problem document that tells of an error."""
    told = outcome(error)
    return {
        "type": "about:blank",
        "title": told.title,
        "status": told.status,
        "detail": detail(error),
        "code": told.code,
        "reason": told.reason,
        "request_id": request_id,
    }


def problem(error: errors.MeshError, request_id: str, **more: object) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body of the HTTP answer to an error. `more` are further members of the document."""
    told = outcome(error)
    body = json.dumps(fields_of(error, request_id) | more).encode() + b"\n"
    headers = [
        (b"content-type", PROBLEM_JSON),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
    ]
    if (seconds := retry_after(error)) is not None:
        headers.append((b"retry-after", b"%d" % seconds))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    return told.status, headers, body
