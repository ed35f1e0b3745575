"""Heads on their way between clients and replicas: what passes, what stops, what is added, what is refused.

Owns the rules on methods and headers: hop-by-hop and `x-mesh-*` stop at the gateway, `X-Forwarded-*` is set, request
ids and deadlines are read, and a body's length is said by whoever frames it. Pure. Called by the fronts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mesh.errors import HandlerFailed, InvalidConfig, Problem
from mesh.gateway.answer import HeadTooLarge, PathTooLong, PayloadTooLarge, Unsupported
from mesh.serving.model_id import model_id_problem

if TYPE_CHECKING:
    from mesh.settings import GatewaySettings

TIMEOUT_HEADER = b"x-request-timeout-seconds"
REQUEST_ID_HEADER = b"x-request-id"
REQUEST_ID_CHARS_MAX = 128
METHOD_CHARS_MAX = 32

HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization"),
    )
)
"""RFC 9110, 7.6.1, the one in common use beside it, and what is between a client and its proxy (11.7)."""
_NOT_ANSWERED = HOP_BY_HOP | {REQUEST_ID_HEADER}
_NOT_ANSWERED_FRAMED = _NOT_ANSWERED | {b"content-length"}
MODEL_ID_HEADER = b"x-mesh-model-id"
_MODEL_ID_HEADERS = frozenset((MODEL_ID_HEADER, b"serve_multiplexed_model_id", b"serve-multiplexed-model-id"))
"""Ours, and Ray Serve's in both spellings."""
_READ = _MODEL_ID_HEADERS | frozenset(
    (*HOP_BY_HOP, b"x-request-id", TIMEOUT_HEADER, b"content-length", b"x-forwarded-for", b"host")
)
_SET_HERE = frozenset((b"x-forwarded-proto", b"x-forwarded-host", b"expect"))
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_FIELDS = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")
_ID_CHARS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:/+=@")


@dataclass(slots=True)
class RequestHead:
    """What a front needs to know of a request's headers. `passed` holds names and values in turn."""

    passed: list[bytes] = field(default_factory=list)
    request_id: str = ""
    timeout_s: float = 0.0
    """What the client asks for; 0: nothing."""
    content_length: int = -1
    chunked: bool = False
    host: bytes = b""
    model_id: str = ""
    """Which of a deployment's models it is for."""
    websocket: bool = False
    """Whether the client wants to go on as a WebSocket."""


def read_head(headers: Iterable[tuple[bytes, bytes]], *, client: str, scheme: str) -> RequestHead:
    """Sort the headers of one request. Names are lower case. `client` is the peer's address without port.

    Raises InvalidConfig, naming the header, when a value cannot be used.
    """
    head = RequestHead()
    passed = head.passed
    forwarded = upgrade = b""
    named: frozenset[bytes] = frozenset()
    for name, value in headers:
        if name in _READ:
            if name == b"host":
                if head.host:
                    raise InvalidConfig((Problem("host", "must be there once"),))
                head.host = value
                passed += (name, value)
            elif name == b"content-length":
                head.content_length = _length(value)
                passed += (name, value)
            elif name == b"x-request-id":
                head.request_id = request_id(value)
            elif name == TIMEOUT_HEADER:
                head.timeout_s = timeout_s(value)
            elif name == b"x-forwarded-for":
                forwarded = forwarded + b", " + value if forwarded else value
            elif name == b"transfer-encoding":
                head.chunked = True
            elif name == b"upgrade":
                upgrade = value.strip().lower()
            elif name in _MODEL_ID_HEADERS:
                head.model_id = joined_model_id(head.model_id, name, value)
            elif name == b"connection":
                named = named | {part.strip().lower() for part in value.split(b",")}
        elif name in _SET_HERE or name.startswith(b"x-mesh-"):
            continue
        else:
            passed += (name, value)
    head.websocket = upgrade == b"websocket" and b"upgrade" in named
    if named - HOP_BY_HOP:
        _drop(passed, named)
    peer = client.encode()
    passed += (b"x-forwarded-for", forwarded + b", " + peer if forwarded else peer)
    passed += (b"x-forwarded-proto", scheme.encode())
    if head.host:
        passed += (b"x-forwarded-host", head.host)
    return head


def check_size(head: RequestHead, settings: GatewaySettings, *, fields: int, path_bytes: int, query_bytes: int) -> None:
    """Hold a request to the limits of `settings`. `fields` counts its headers.

    Raises PathTooLong, HeadTooLarge or PayloadTooLarge.
    """
    if path_bytes > settings.path_bytes_max:
        raise PathTooLong(f"a path of more than {settings.path_bytes_max} bytes")
    if fields > settings.header_count_max:
        raise HeadTooLarge(f"more than {settings.header_count_max} header fields")
    if sum(map(len, head.passed)) + path_bytes + query_bytes > settings.header_bytes_max:
        raise HeadTooLarge(f"path and header fields of more than {settings.header_bytes_max} bytes")
    if head.content_length > settings.body_bytes_max:
        raise PayloadTooLarge(f"the body is larger than {settings.body_bytes_max} bytes")


def check_method(method: str) -> None:
    """Refuse a method that is none (InvalidConfig), or that no handler gets: CONNECT, absurdly long (Unsupported)."""
    if _TOKEN.fullmatch(method) is None:
        raise InvalidConfig((Problem("method", f"must be a word such as GET, not {method[:40]!r}"),))
    if method == "CONNECT" or len(method) > METHOD_CHARS_MAX:
        raise Unsupported(f"{method[:METHOD_CHARS_MAX]} is not served here")


def check_field(name: str, value: str) -> None:
    """Refuse a header that HTTP could not carry. For heads that no HTTP server has parsed. Raises InvalidConfig."""
    if _TOKEN.fullmatch(name) is None:
        raise InvalidConfig((Problem("headers", f"{name[:40]!r} is not a header's name"),))
    if _NOT_IN_FIELDS.search(value):
        raise InvalidConfig((Problem("headers", f"the value of {name[:40]!r} has control characters"),))


def answer_headers(flat: Iterable[bytes], request_id: str, *, framed_here: bool) -> list[tuple[bytes, bytes]]:
    """Return what passes of an answer's headers, names and values in turn, with the request's id.

    `framed_here`: the server that sends the body sees all of it and says how long it is. What the handler said does
    not count then: were it wrong, the next answer on the connection would be misread.
    """
    dropped = _NOT_ANSWERED_FRAMED if framed_here else _NOT_ANSWERED
    parts = iter(list(flat))
    headers = [(name, value) for name, value in zip(parts, parts, strict=False) if name not in dropped]
    headers.append((REQUEST_ID_HEADER, request_id.encode()))
    return headers


def check_answer_length(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse an answer that says more than one length, or none that is a number. Raises HandlerFailed."""
    lengths = [value for name, value in headers if name == b"content-length"]
    if len(lengths) > 1 or not all(map(_is_length, lengths)):
        raise HandlerFailed(f"the answer's content-length is {b', '.join(lengths)[:40]!r}")


def given_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the request id that a client gave, or ""; for requests whose head was never read."""
    return next((request_id(value) for name, value in headers if name == REQUEST_ID_HEADER), "")


def request_id(value: bytes) -> str:
    """Return a client's request id, or "" if it is not fit for logs and headers."""
    if 0 < len(value) <= REQUEST_ID_CHARS_MAX and _ID_CHARS.issuperset(value):
        return value.decode("ascii")
    return ""


def joined_model_id(before: str, name: bytes, value: bytes) -> str:
    """Return the id of a model that a header names, if none named another `before`. Raises InvalidConfig."""
    model_id = value.decode("latin-1")
    if not model_id:
        return before
    problem = model_id_problem(model_id)
    if not problem and before and before != model_id:
        problem = "is there twice, with two values"
    if problem:
        raise InvalidConfig((Problem(name.decode("latin-1"), problem),))
    return model_id


def timeout_s(value: bytes) -> float:
    """Return the seconds a client allows. Raises InvalidConfig unless it is a number above 0."""
    try:
        seconds = 0.0 if b"_" in value else float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        text = f"must be a number of seconds above 0, not {value.decode('latin-1')[:40]!r}"
        raise InvalidConfig((Problem("x-request-timeout-seconds", text),))
    return seconds


def _length(value: bytes) -> int:
    if not _is_length(value):
        raise InvalidConfig((Problem("content-length", "must be a whole number"),))
    return int(value)


def _is_length(value: bytes) -> bool:
    return value.isdigit() and len(value) <= _LENGTH_DIGITS_MAX


_LENGTH_DIGITS_MAX = 19
"""What fits 64 bits. Far longer ones Python itself refuses to read."""


def _drop(passed: list[bytes], named: frozenset[bytes]) -> None:
    """Remove the headers that Connection names: they were meant for this hop."""
    kept = [part for i in range(0, len(passed), 2) if passed[i] not in named for part in passed[i : i + 2]]
    passed[:] = kept
