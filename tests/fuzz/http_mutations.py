"""HTTP requests as bytes, mutated: request lines, headers, framing, bodies, and frames of HTTP/2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from h2.config import H2Configuration
from h2.connection import H2Connection

from tests.fuzz import text_mutations
from tests.fuzz.inputs import Make

REQUEST_BYTES_MAX = 200_000
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PREFIX_BYTES, _FRAME_BYTES, _WINDOW_BYTES = 9, 16_384, 65_535

_METHODS = (
    *(
        b"GET",
        b"POST",
        b"PUT",
        b"DELETE",
        b"HEAD",
        b"OPTIONS",
        b"PATCH",
        b"TRACE",
        b"CONNECT",
        b"PRI",
        b"get",
        b"G" * 40,
    ),
    *(b"", b"\xff", b"GE T", b"G\0T", b"M-SEARCH", b"PROPFIND", b"(", b"G" * 9000),
)
_TARGETS = (
    *(
        b"*",
        b"",
        b"http://other/h/x",
        b"//h/x",
        b"h/x",
        b"/h/\0",
        b"/h/ x",
        b"/h/\xff",
        b"/h/%",
        b"/h/%zz",
        b"/h/%00",
        b"/h/../r/v1/do",
    ),
    *(
        b"/" + b"a" * 70_000,
        b"/h/" + b"%41" * 3000,
        b"/-/healthz",
        b"/-/routes",
        b"/-/nothing",
        b"/nobody",
        b"/h/#x",
        b"/h/?" + b"a=" * 900,
    ),
    *(
        b"/h/%2F%2e%2E/",
        b"http://[::1/h/",
        b"host:80",
        b"/h/\t",
        b"/%68/echo",
        b"/r%2Fv1/do",
        b"/h",
        b"/r",
        b"/h//echo",
        b"/e/v1/things:x",
    ),
)
_VERSIONS = (
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/1.2",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"",
    b"HTTP/11",
    b"HTTP/1.1\0",
)
_LENGTHS = (
    b"0",
    b"1",
    b"5",
    b"-1",
    b"+5",
    b"1_0",
    b"0x10",
    b"1e3",
    b"9" * 30,
    b"5, 5",
    b"5,6",
    b"",
    b" ",
    b"5 5",
    b"00005",
    b"2147483648",
)
_TIMES = (
    b"1",
    b"0",
    b"-1",
    b"nan",
    b"inf",
    b"1e400",
    b"0.02",
    b"x",
    b"",
    b"1S",
    b"1n",
    b"99999999H",
    b"999999999H",
    b"\xb2S",
    b"1_0",
    b"30",
)
_HEADERS: dict[bytes, tuple[bytes, ...]] = {
    b"host": (b"", b"a b", b"\xff", b"x" * 300, b"[::1", b"other:99999"),
    b"content-length": _LENGTHS,
    b"transfer-encoding": (
        b"chunked",
        b"chunked, chunked",
        b"gzip, chunked",
        b"xchunked",
        b"chunked\t",
        b"identity",
        b"",
        b"Chunked",
    ),
    b"connection": (
        b"close",
        b"keep-alive",
        b"upgrade",
        b"content-type, x-own",
        b"Upgrade, HTTP2-Settings",
        b",,",
        b"\xff",
    ),
    b"upgrade": (b"h2c", b"websocket", b"TLS/1.0", b""),
    b"http2-settings": (b"AAMAAABkAAQAoAAAAAIAAAAA", b"!!", b""),
    b"sec-websocket-key": (b"dGhlIHNhbXBsZSBub25jZQ==", b"x"),
    b"sec-websocket-version": (b"13", b"x"),
    b"expect": (b"100-continue", b"200-ok", b""),
    b"te": (b"trailers", b"gzip"),
    b"trailer": (b"content-length", b"x-own"),
    b"content-type": tuple(
        each.encode("latin-1")
        for each in (
            "",
            "text/plain",
            "application/json;charset=x",
            "application/x-ndjson",
            "\xff",
            "application/grpc-web",
            "application/grpc-web-text",
            "application/proto",
            "application/grpc",
            "a" * 5000,
        )
    ),
    b"content-encoding": (b"gzip", b"identity", b"br, gzip", b"\xff"),
    b"accept": (b"text/event-stream", b"application/json", b"*/*;q=x", b"," * 500, b"\xff", b"application/json;q=1e5"),
    b"x-request-timeout-seconds": _TIMES,
    b"grpc-timeout": _TIMES,
    b"connect-timeout-ms": (b"1000", b"0", b"x", b"9" * 20, b"\xb2", b"-1"),
    b"connect-protocol-version": (b"1", b"2", b"", b"\xff"),
    b"x-request-id": (b"a", b"\xff", b"a" * 500, b"a b", b"", b'"><'),
    b"x-own-bin": (b"AAAA", b"!!!", b"A", b"AA==,AA", b",", b"=" * 50),
    b"x-own": (b"a\0b", b"a\x01b", b"\xff\xfe", b"a" * 70_000, b"a\x7f", b"\t", b"a\rb"),
    b"origin": (b"http://a", b"null", b"\xff"),
    b"access-control-request-method": (b"GET", b"\xff"),
    b"x-mesh-shed": (b"1",),
    b"grpc-status": (b"0", b"17", b"x"),
    b"application": (b"default", b"\xff", b""),
    b"x-forwarded-for": (b"1.2.3.4", b"a" * 4000, b"\xff"),
    b"range": (b"bytes=0-1", b"bytes=-", b"x"),
}
_LINES = (
    b"no colon",
    b": no name",
    b"a b: c",
    b" folded",
    b"x:\r\n folded",
    b"x\0: a",
    b"x-own : a",
    b"\xff: a",
    b"\r",
    b"x: a\nb: c",
    b":",
)
_CHUNK_SIZES = (
    b"-1",
    b"0x5",
    b"g",
    b"",
    b"ffffffffffffffffff",
    b"FFFFFFFFFFFFFFFF",
    b"7fffffff",
    b"5;a=b",
    b"5 ",
    b" 5",
    b"00005",
    b"5;" + b"a" * 3000,
    b"5\t",
)
_NOISE = (b"\r\n", b"\n", b"\r", b"\0", b" ", b"\xff", b":", b"\r\n\r\n", b"HTTP/1.1", b"%")


@dataclass(frozen=True)
class Sent:
    """One request as it is written. `pieces` is how it is cut on its way."""

    method: bytes
    target: bytes
    version: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    chunked: bool = False

    def raw(self, random: Random, *, broken: bool = False) -> bytes:
        """Return it as bytes; `broken`: with chunks that are none."""
        headers, body = list(self.headers), self.body
        if self.chunked:
            headers.append((b"transfer-encoding", b"chunked"))
            body = _chunked(body, random, broken=broken)
        elif body:
            headers.append((b"content-length", b"%d" % len(body)))
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        return self.method + b" " + self.target + b" " + self.version + b"\r\n" + lines + b"\r\n" + body


def _chunked(body: bytes, random: Random, *, broken: bool) -> bytes:
    parts, at = [], 0
    while at < len(body):
        size = random.randrange(1, len(body) + 1)
        piece = body[at : at + size]
        parts += [b"%x\r\n" % len(piece), piece, b"\r\n"]
        at += size
    parts.append(b"0\r\n\r\n")
    if not broken:
        return b"".join(parts)
    at = random.randrange(len(parts))
    parts[at] = random.choice(
        (b"", b"\n", b"\r\n" * 3, parts[at][:-1], parts[at] * 2, random.choice(_CHUNK_SIZES) + b"\r\n")
    )
    if random.random() < 0.3:
        parts[-1] = random.choice(
            (
                b"",
                b"0\r\nx-own: a\r\n\r\n",
                b"0\r\n",
                b"0\r\ncontent-length: 5\r\n: \r\n\r\n",
                b"0\r\n" + b"x: a\r\n" * 500 + b"\r\n",
            )
        )
    return b"".join(parts)


def start(method: str, target: str, body: bytes = b"", content_type: str = "", *, chunked: bool = False) -> Sent:
    """Return a good request."""
    headers = [(b"host", b"test")]
    if content_type:
        headers.append((b"content-type", content_type.encode()))
    return Sent(method.encode(), target.encode(), b"HTTP/1.1", tuple(headers), body, chunked)


class Http:
    """Mutates requests of some starting points. `bodies` makes a mutated body for a content type."""

    def __init__(self, starts: list[Sent], bodies: dict[bytes, Make[bytes]], names: list[str]) -> None:
        self._starts = starts
        self._bodies = bodies
        self._query = text_mutations.Query(names)
        self._h2 = [_frames_of(sent) for sent in starts]

    def __call__(self, random: Random) -> bytes:
        """Return the bytes of a connection: mostly one request, sometimes several, sometimes HTTP/2."""
        if random.random() < 0.15:
            return self.second(random)
        data = self._one(random)
        while random.random() < 0.1:
            data += self._one(random)
        return data[:REQUEST_BYTES_MAX]

    def _one(self, random: Random) -> bytes:
        sent = random.choice(self._starts)
        broken = False
        for _ in range(random.choice((1, 1, 2, 3))):
            match random.randrange(12):
                case 0:
                    sent = replace(sent, method=random.choice(_METHODS))
                case 1:
                    sent = replace(sent, target=random.choice(_TARGETS))
                case 2:
                    sent = replace(sent, target=text_mutations.Path([sent.target])(random))
                case 3:
                    sent = replace(sent, target=sent.target + b"?" + self._query(random))
                case 4:
                    sent = replace(sent, version=random.choice(_VERSIONS))
                case 5 | 6 | 7:
                    sent = replace(sent, headers=_other_headers(sent.headers, random))
                case 8:
                    sent, broken = replace(sent, chunked=True), random.random() < 0.7
                case 9 | 10:
                    sent = replace(sent, body=self._body(sent, random))
                case _:
                    pass
        data = sent.raw(random, broken=broken)
        for _ in range(random.choice((0, 0, 0, 1, 2))):
            data = _mutated(data, random)
        return data

    def _body(self, sent: Sent, random: Random) -> bytes:
        make = self._bodies.get(dict(sent.headers).get(b"content-type", b""))
        return make(random) if make is not None else random.randbytes(random.choice((0, 1, 50, 5000)))

    def second(self, random: Random) -> bytes:
        """Return the bytes of a connection in HTTP/2: the preface, and frames in an order that need not be right."""
        frames = list(random.choice(self._h2))
        for _ in range(random.choice((0, 1, 1, 2, 4))):
            at = random.randrange(len(frames))
            match random.randrange(7):
                case 0:
                    frames[at] = _mutated(frames[at], random)
                case 1:
                    frames.insert(at, random.choice(random.choice(self._h2)))
                case 2:
                    del frames[at]
                    frames = frames or [b""]
                case 3:
                    frames.insert(at, frames[at])
                case _:
                    frames.insert(at, _any_frame(random))
        preface = PREFACE if random.random() < 0.95 else _mutated(PREFACE, random)
        return (preface + b"".join(frames))[:REQUEST_BYTES_MAX]


def _other_headers(headers: tuple[tuple[bytes, bytes], ...], random: Random) -> tuple[tuple[bytes, bytes], ...]:
    found = list(headers)
    match random.randrange(8):
        case 0 if found:
            del found[random.randrange(len(found))]
        case 1 if found:
            found.append(random.choice(found))
        case 2:
            found += [(b"x-%d" % i, b"") for i in range(random.choice((50, 199, 201, 1000)))]
        case 3:
            found.insert(random.randrange(len(found) + 1), (b"x", b"a\r\n" + random.choice(_LINES)))
        case _:
            for _ in range(random.choice((1, 1, 2, 4))):
                name = random.choice(list(_HEADERS))
                value = random.choice(_HEADERS[name])
                name = name.title() if random.random() < 0.2 else name
                if random.random() < 0.5:
                    found = [pair for pair in found if pair[0] != name]
                found.insert(random.randrange(len(found) + 1), (name, value))
    return tuple(found)


def _mutated(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    match random.randrange(7):
        case 0 | 1:
            return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :] if at < len(data) else data
        case 2:
            return data[:at]
        case 3:
            return data[:at] + data[at + random.randrange(1, 20) :]
        case 4:
            return data[:at] + random.choice(_NOISE) + data[at:]
        case 5:
            return data[:at] + random.randbytes(random.randrange(1, 9)) + data[at:]
        case _:
            return data[:at] + data[at : at + random.randrange(1, 60)] + data[at:]


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int = -1) -> bytes:
    """Return a frame of HTTP/2, which may lie about its length."""
    size = len(payload) if length < 0 else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def frames(data: bytes) -> Iterable[tuple[int, int, int]]:
    """Yield (type, flags, stream) of the whole frames in what a server sent."""
    at = 0
    while at + _PREFIX_BYTES <= len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        if at + _PREFIX_BYTES + size > len(data):
            return
        yield data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
        at += _PREFIX_BYTES + size


def _any_frame(random: Random) -> bytes:
    kind = random.randrange(12) if random.random() < 0.9 else random.randrange(256)
    usual = {2: 5, 3: 4, 4: 6, 6: 8, 7: 8, 8: 4}.get(kind, random.choice((0, 1, 5, 40)))
    payload = random.randbytes(usual) if random.random() < 0.8 else random.randbytes(random.randrange(40))
    if kind == 8 and random.random() < 0.5:
        payload = random.choice((0, 1, 2**31 - 1)).to_bytes(4, "big")
    flags = random.choice((0, 1, 4, 5, 8, 0x20, 0x25, 0xFF))
    length = random.choice((-1, -1, -1, -1, 0, 16_385, 2**24 - 1))
    return frame(kind, flags, random.choice((0, 1, 1, 1, 2, 3, 2**31 - 1, 2**31 + 1)), payload, length)


def _frames_of(sent: Sent) -> list[bytes]:
    """Return the frames in which a request is sent over HTTP/2, the settings first."""
    connection = H2Connection(H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False))
    connection.initiate_connection()
    target, method = sent.target.decode(), sent.method.decode()
    pseudo = [(":method", method), (":scheme", "http"), (":path", target), (":authority", "test")]
    own = [(name.decode(), value.decode()) for name, value in sent.headers if name != b"host"]
    connection.send_headers(1, [*pseudo, *own], end_stream=not sent.body)
    for at in range(0, size := min(len(sent.body), _WINDOW_BYTES), _FRAME_BYTES):
        piece = sent.body[at : min(at + _FRAME_BYTES, size)]
        connection.send_data(1, piece, end_stream=at + _FRAME_BYTES >= size)
    data, found = connection.data_to_send()[len(PREFACE) :], []
    while data:
        end = _PREFIX_BYTES + int.from_bytes(data[:3], "big")
        found.append(data[:end])
        data = data[end:]
    return found
