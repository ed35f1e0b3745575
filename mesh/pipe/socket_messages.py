"""Messages of a WebSocket in the byte stream of a call's body: framed as those of gRPC calls are, with other flags.

Pure. Used by both ends of a pipe for calls that are WebSockets.
"""

from __future__ import annotations

from mesh.pipe.messages import BadFraming, Messages

TEXT, BINARY, CLOSE = 1, 2, 3
"""What a message is, by its flag."""

NORMAL, GOING_AWAY, NO_CODE, LOST, TOO_LARGE, FAILED, RESTART, TRY_LATER = (
    *(1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013),
)
"""Codes of closes (RFC 6455, 7.4.1, and IANA's registry)."""
REASON_BYTES_MAX = 123
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
"""What no server in front of a mesh takes more of; a gateway's own limit is below that."""
_NOT_SENT = frozenset((1004, NO_CODE, LOST, 1015))


class SocketMessages(Messages):
    """Takes a body's bytes as they come and gives whole messages; `flag` says what the last one is."""

    __slots__ = ()

    FLAG_MAX = CLOSE


def framed(kind: int, payload: bytes) -> bytes:
    """Return a message with its prefix."""
    return kind.to_bytes(1, "big") + len(payload).to_bytes(4, "big") + payload


def framed_close(code: int, reason: str = "") -> bytes:
    """Return the message that ends a WebSocket, from either side."""
    return framed(CLOSE, code.to_bytes(2, "big") + cut(reason).encode())


def close_of(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a close. Raises BadFraming."""
    if len(payload) < 2:
        raise BadFraming("a WebSocket's close has no code")
    return int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace")


def sent_code(code: int) -> int:
    """Return the code of a close that may be sent for one that was said: some only tell that none came."""
    return code if 1000 <= code < 5000 and code not in _NOT_SENT else NORMAL


def cut(reason: str) -> str:
    """Return a reason that a close has room for."""
    return reason.encode("utf-8", "replace")[:REASON_BYTES_MAX].decode("utf-8", "ignore")
