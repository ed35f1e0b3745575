"""Headers of calls over HTTP: what they say of a request, and metadata both ways.

Owns the headers that decide how a request is read, a client's deadline in all its spellings, and which headers are
metadata of the call. Pure. Called by `rest_front` and `rest_wires`.
"""

from __future__ import annotations

import base64
import binascii
import string
from collections.abc import Iterable

from mesh.errors import InvalidConfig, Problem
from mesh.gateway.heads import HOP_BY_HOP

Headers = list[tuple[bytes, bytes]]


class Fields:
    """The headers that decide how a request is read. What they say is checked when it is used."""

    __slots__ = ("_timeout", "_timeout_ms", "accept", "connect_version", "content_encoding", "content_type")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.accept = self.content_type = ""
        self.connect_version = self.content_encoding = b""
        self._timeout = self._timeout_ms = b""
        for name, value in headers:
            if name not in _READ:
                continue
            if name == b"content-type":
                self.content_type = value.decode("latin-1")
            elif name == b"accept":
                self.accept += "," + value.decode("latin-1") if self.accept else value.decode("latin-1")
            elif name == b"content-encoding":
                self.content_encoding = value.strip().lower()
            elif name == b"connect-protocol-version":
                self.connect_version = value or b"?"
            elif name == b"connect-timeout-ms":
                self._timeout_ms = value or b"?"
            else:
                self._timeout = value or b"?"

    def timeout_s(self) -> float:
        """Return the seconds that `grpc-timeout` or `connect-timeout-ms` allows; 0: neither is there.

        Raises InvalidConfig.
        """
        if self._timeout_ms:
            if not self._timeout_ms.isdigit() or len(self._timeout_ms) > 10:
                raise InvalidConfig((Problem("connect-timeout-ms", "must be a number of at most ten digits"),))
            return max(int(self._timeout_ms), 1) / 1000
        if not self._timeout:
            return 0.0
        digits, unit = self._timeout[:-1], _UNITS.get(self._timeout[-1:])
        if unit is None or not digits.isdigit() or len(digits) > 8:
            raise InvalidConfig((Problem("grpc-timeout", "must be at most eight digits and one of H M S m u n"),))
        return max(int(digits) * unit, 0.001)


def metadata_of(headers: Iterable[bytes]) -> list[bytes]:
    """Return the metadata in a request's headers, both flat. Raises InvalidConfig for base64 that is none.

    What gRPC's metadata cannot carry (a value that is not ASCII) is left out.
    """
    metadata: list[bytes] = []
    parts = iter(headers)
    for name, value in zip(parts, parts, strict=False):
        if name in _NOT_METADATA or name.startswith(_NOT_METADATA_PREFIXES):
            continue
        if name.endswith(b"-bin"):
            for piece in value.split(b","):  # several values of one name may come joined
                metadata += (name, _unbased(name, piece.strip()))
        elif not (value.translate(None, _VALUE_CHARS) or name.translate(None, _NAME_CHARS)):
            metadata += (name, value)
    return metadata


def pairs(flat: Iterable[bytes]) -> Headers:
    """Return metadata of an application as headers: binary values in base64, names that are not its own left out.

    So is what no header may hold: a replica lets none of that pass, and a gateway trusts none of them in it.
    """
    parts = iter(flat)
    return [
        (name, base64.b64encode(value) if name.endswith(b"-bin") else value)
        for name, value in zip(parts, parts, strict=False)
        if not (name in _NOT_ANSWERED or name.startswith(b"x-mesh-") or name.translate(None, _NAME_CHARS))
        and (not name.startswith(b"grpc-") or name in _GRPC_ANSWERED)
        and (name.endswith(b"-bin") or not value.translate(None, _VALUE_CHARS))
    ]


def _unbased(name: bytes, text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        problem = Problem(name.decode("latin-1")[:100], "must be base64, for its name ends in -bin")
        raise InvalidConfig((problem,)) from None


_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_READ = frozenset(
    (
        *(b"content-type", b"accept", b"content-encoding", b"connect-protocol-version", b"connect-timeout-ms"),
        b"grpc-timeout",
    )
)
_NOT_METADATA = frozenset(
    (
        *(b"host", b"content-type", b"content-length", b"content-encoding", b"accept", b"accept-encoding"),
        *(b"application", b"x-grpc-web"),
    )
)
_NOT_METADATA_PREFIXES = (b"grpc-", b"connect-", b"access-control-", b"sec-")
_GRPC_ANSWERED = frozenset((b"grpc-status-details-bin", b"grpc-retry-pushback-ms"))
_NOT_ANSWERED = HOP_BY_HOP | {b"content-type", b"content-length", b"content-encoding", b"x-request-id"}
_VALUE_CHARS = bytes(range(0x20, 0x7F))
_NAME_CHARS = (string.ascii_lowercase + string.digits + "-_.").encode()
