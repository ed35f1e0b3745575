"""Cross-origin requests from browsers (the Fetch standard's CORS protocol), as `http_options.cors` allows them.

Owns which headers tell a browser that a page of another origin may call. Off unless configured. Pure. Called by
`http_front`.
"""

from __future__ import annotations

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

ALWAYS_ALLOWED = (
    *("accept", "content-type", "authorization", "x-request-id", "x-request-timeout-seconds"),
    *("connect-protocol-version", "connect-timeout-ms", "grpc-timeout", "x-grpc-web", "x-user-agent"),
)
"""Request headers that pages may set, beside those that are configured."""
EXPOSED = b"x-request-id, retry-after, grpc-status, grpc-message, grpc-status-details-bin"
"""Answer headers that pages may read."""
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_VARY = (b"vary", b"origin")


class Cors:
    """What pages of other origins may do."""

    def __init__(
        self, allow_origins: Iterable[str], allow_headers: Iterable[str], max_age_s: int, *, allow_credentials: bool
    ) -> None:
        self._origins = frozenset(origin.encode() for origin in allow_origins)
        self._any = b"*" in self._origins
        names = dict.fromkeys((*ALWAYS_ALLOWED, *(name.lower() for name in allow_headers)))
        self._headers = ", ".join(names).encode()
        self._max_age = b"%d" % max_age_s
        self._credentials = allow_credentials

    def answer(self, origin: bytes) -> Headers:
        """Return what is added to an answer to a page of `origin`."""
        allowed = self._allowed(origin)
        if allowed is None:
            return [_VARY]
        return [*allowed, (b"access-control-expose-headers", EXPOSED), _VARY]

    def preflight(self, origin: bytes) -> Headers:
        """Return the headers of the answer to a preflight request."""
        allowed = self._allowed(origin)
        if allowed is None:
            return [_VARY]
        return [
            *allowed,
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", self._headers),
            (b"access-control-max-age", self._max_age),
            _VARY,
        ]

    def _allowed(self, origin: bytes) -> Headers | None:
        if not self._any and origin not in self._origins:
            return None
        headers = [(b"access-control-allow-origin", b"*" if self._any else origin)]
        if self._credentials:
            headers.append((b"access-control-allow-credentials", b"true"))
        return headers


def origin_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the Origin header of a request, or b""."""
    return next((value for name, value in headers if name == b"origin"), b"")


def is_preflight(method: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request only asks what a page of another origin may do."""
    return method == "OPTIONS" and any(name == b"access-control-request-method" for name, _ in headers)
