"""The one canonical form of a URL path, and how a piece of it is decoded.

Owns which characters a path may hold, which percent-encodings are equal, and what is malformed. Knows nothing of
templates or routes. Pure; linear in the text. Called by `template` and `router`.

Canonical: an encoded unreserved character stands plain; every other encoding is kept, its digits upper-case; a
character that a path may not hold as it is, is encoded. Encoding and decoding never make or remove a `/`.
"""

from __future__ import annotations

import string
from binascii import a2b_qp

UNRESERVED = string.ascii_letters + string.digits + "-._~"
SEGMENT_CHARACTERS = UNRESERVED + "!$&'()*+,;=:@"
"""What a segment may hold beside percent-encodings (RFC 3986, pchar)."""

PLAIN = (SEGMENT_CHARACTERS + "/").encode()
"""A path of these bytes alone is canonical, and is its own decoded form."""

_PLAIN_OR_ENCODED = PLAIN + b"%"

_NEVER = bytes([*range(0x21), 0x7F, *b"#?"])
"""Bytes that no path holds on any wire: controls, blank, and what would end the path."""

_EVER = bytes(code for code in range(256) if code not in _NEVER)

_ENCODINGS = {
    high + low: chr(code) if chr(code) in UNRESERVED else f"%{code:02X}"
    for code in range(256)
    for high in {f"{code:02X}"[0], f"{code:02x}"[0]}
    for low in {f"{code:02X}"[1], f"{code:02x}"[1]}
}
"""The two digits after a percent sign -> what stands for them in the canonical form."""

_ENCODED = {code: f"%{code:02X}" for code in range(256) if code not in _PLAIN_OR_ENCODED}
"""A byte that is not plain -> how it is written in the canonical form."""


class Malformed(Exception):
    """The text is no URL path. `offset` is where, in bytes from its begin."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


def canonical(raw: bytes) -> str:
    """Return the canonical form of a path or a piece of one; raise Malformed if it has none."""
    if rare := raw.translate(None, _PLAIN_OR_ENCODED):
        _check_never(raw)
    first, *rest = raw.decode("latin-1").split("%")
    try:
        path = first + "".join([_ENCODINGS[piece[:2]] + piece[2:] for piece in rest])
    except KeyError:
        reason = "has a percent sign without two hexadecimal digits after it"
        wrong = next(n for n, piece in enumerate(rest, 1) if piece[:2] not in _ENCODINGS)
        raise Malformed(reason, _nth_percent(raw, wrong)) from None
    if rare:
        path = path.translate(_ENCODED)
    try:
        _unquoted(path.encode("ascii")).decode()
    except UnicodeDecodeError:
        raise Malformed("is not UTF-8 after decoding", 0) from None
    return path


def decoded(sent: str) -> str:
    """Return a well-formed piece of a path (its bytes as Latin-1 text) with all of it decoded, once."""
    if "%" not in sent and sent.isascii():
        return sent
    return _unquoted(sent.encode("latin-1")).decode()


def decoded_but_slashes(sent: str) -> str:
    """Return a well-formed piece of a path decoded once, except that `%2F` and `%2f` stay as sent."""
    if "%" not in sent:
        return decoded(sent)
    return "%2F".join("%2f".join(map(decoded, part.split("%2f"))) for part in sent.split("%2F"))


def _unquoted(well_formed: bytes) -> bytes:
    """Return what percent-encodings say, many times as fast as the standard library's loop over them.

    Quoted-printable is the same but for the sign before the digits, and its reader is written in C.
    """
    return a2b_qp(well_formed.replace(b"=", b"=3D").replace(b"%", b"="))


def _check_never(raw: bytes) -> None:
    if found := raw.translate(None, _EVER):
        byte = found[0]
        raise Malformed(f"has the character {chr(byte)!r}, which must be percent-encoded", raw.index(byte))


def _nth_percent(raw: bytes, n: int) -> int:
    offset = -1
    for _ in range(n):
        offset = raw.find(b"%", offset + 1)
    return offset
