"""JSON bodies, query strings and paths, mutated: as bytes, and as what they say. All from the `Random` handed in."""

from __future__ import annotations

import re
from random import Random
from urllib.parse import quote_from_bytes

TEXT_BYTES_MAX = 64 * 1024

_VALUES = (
    *(
        b"null",
        b"true",
        b"false",
        b"0",
        b"-0",
        b"-1",
        b"1e2",
        b"1.5",
        b"1e400",
        b"-1E-400",
        b"2147483648",
        b"1_0",
        b"01",
    ),
    *(b"18446744073709551616", b"9" * 500, b"0." + b"0" * 400 + b"1", b"9" * 5000, b"NaN", b"Infinity", b"-Infinity"),
    *(
        b'""',
        b'"1"',
        b'"-0"',
        b'"1e2"',
        b'"1e999999999"',
        b'"1e9999999999"',
        b'"NaN"',
        b'"-Infinity"',
        b'"0x10"',
        b'" 1"',
    ),
    *(b'"\\ud800"', b'"\\ud83d\\ude08"', b'"\\u0000"', b'"\xff"', b'"\xed\xa0\x80"', b'"\t"', b'"\\x"', b'"\\u12"'),
    *(b"[]", b"{}", b"[null]", b"[[]]", b"[[[[{}]]]]", b'{"a":1,"a":2}', b'{"":{}}', b"[" * 2000, b'{"child":' * 150),
    *(b"[" * 60 + b"]" * 60, b'{"inner":' * 99 + b"{}" + b"}" * 99, b'{"inner":' * 101 + b"{}" + b"}" * 101),
    *(b'"2026-02-30T00:00:00Z"', b'"0000-01-01T00:00:00Z"', b'"9999-12-31T23:59:59.999999999Z"', b'"1s"', b'"-0.5s"'),
    *(b'"0001-01-01T00:00:00+23:59"', b'"2026-01-01T00:00:60Z"', b'"315576000001s"', b'"1.0000000000s"', b'"aB,c.dE"'),
    *(
        b'"AA=="',
        b'"AA"',
        b'"A"',
        b'"=="',
        b'"A==="',
        b'"-_-_"',
        b'"AB=C"',
        b'"COLOR_RED"',
        b'"color_red"',
        b'"\xd9\xa3"',
    ),
    *(
        b'{"@type":"type.googleapis.com/google.protobuf.Any","value":{}}',
        b'{"@type":1}',
        b'{"@type":"a/b"}',
        b'{"@type":""}',
    ),
    *(b'{"@type":"x/everything.v1.Part","name":"n"}', b'{"@type":"x/google.protobuf.Duration","value":"1s"}'),
    *(b'{"@type":"x/google.protobuf.Struct","value":{"a":[1]}}', b'{"@type":"x/everything.v1.Everything.LabelsEntry"}'),
    *(b'{"@type":"x/legacy.v1.Legacy"}', b'{"@type":"\\ud800/x"}', b'{"@type":"x/google.protobuf.Any","value":[]}'),
)
_COMMON = (b"null", b"0", b"1", b'"1"', b'"AA=="', b'""', b"{}", b"[]", b"true", b"1e2", b'"-1"', b'"1.5s"', b'"NaN"')
_TOKENS = (
    *(bytes([byte]) for byte in b'{}[]:,"\\ \t\n\r\0/*#-+.eE_'),
    b"\xef\xbb\xbf",
    b"\xc2\xa0",
    b"\xe2\x80\xa8",
    b"//",
    b"'",
)
_PLACES = re.compile(rb'[,:\[{]\s*("(?:[^"\\]|\\.)*"|[^\s,:\[\]{}"]+|\[\]|\{\})')
_PIECES = re.compile(rb'"(?:[^"\\]|\\.)*"\s*:\s*(?:"(?:[^"\\]|\\.)*"|[^\s,:\[\]{}"]+|\[[^\[\]{}]*\]|\{[^\[\]{}]*\})')


class Json:
    """Mutates JSON texts of some starting points; `names` are keys that mean something."""

    def __init__(self, starts: list[bytes], names: list[str]) -> None:
        self._starts = [start for start in starts if start != b"{}"] or [b'{"a":1}']
        self._names = [
            *(name.encode() for name in names),
            b"",
            b"@type",
            b"[legacy.v1.rating]",
            b"[no.such]",
            b"value",
            b"\\u0000",
        ]

    def __call__(self, random: Random) -> bytes:
        """Return a mutated text."""
        data = random.choice(self._starts)
        mutated = self._legal if random.random() < 0.4 else self._mutated
        for _ in range(random.choice((1, 1, 1, 2, 2, 4))):
            data = mutated(data, random)[:TEXT_BYTES_MAX]
        return data

    def _legal(self, data: bytes, random: Random) -> bytes:
        """Change what a text says, or how, so that it mostly stays one that is accepted."""
        match random.randrange(5):
            case 0:  # members of another text
                found = _PIECES.findall(random.choice(self._starts))
                return b"{" + b",".join(random.sample(found, min(len(found), random.randrange(4)))) + b"}"
            case 1:
                found = _PIECES.findall(random.choice(self._starts))
                return data.replace(b"{", b"{" + random.choice(found) + b",", 1) if found and data != b"{}" else data
            case 2:
                return random.choice((b" ", b"\n\t", b"\r")).join(re.split(rb"(?<=[,:{])", data))
            case 3:
                return re.sub(rb":(-?[0-9]+)(?=[,}])", rb':"\1"' if random.random() < 0.5 else rb":\1.0", data, count=3)
            case _:
                return _put(data, random.choice(_COMMON), random)

    def _mutated(self, data: bytes, random: Random) -> bytes:
        at = random.randrange(len(data) + 1)
        match random.randrange(13):
            case 0:
                return (
                    data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
                    if at < len(data)
                    else data
                )
            case 1:
                return data[:at]
            case 2:
                return data[:at] + data[at + random.randrange(1, 12) :]
            case 3:
                return data[:at] + random.choice(_TOKENS) + data[at:]
            case 4:
                return data[:at] + random.randbytes(random.randrange(1, 5)) + data[at:]
            case 5 | 6 | 7 | 8:
                return _put(data, random.choice(_VALUES), random)
            case 9:
                member = b'"' + random.choice(self._names) + b'":' + random.choice(_VALUES)
                return data.replace(b"{", b"{" + member + b",", 1) if random.random() < 0.7 else b"{" + member + b"}"
            case 10:
                return self._splice(data, random)
            case 11:
                found = _PIECES.findall(data)
                piece = random.choice(found) if found else b'"a":1'
                return data.replace(piece, piece + b"," + piece, 1)
            case _:
                return (
                    random.choice((b" " * 3, b"\n", b"\xef\xbb\xbf", b""))
                    + data
                    + random.choice((b" ", b"{}", b",", b"\0"))
                )

    def _splice(self, data: bytes, random: Random) -> bytes:
        other = random.choice(self._starts)
        if random.random() < 0.3:
            return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other)) :]
        return _put(data, other, random)


def _put(data: bytes, value: bytes, random: Random) -> bytes:
    """Replace one value, or key, somewhere inside."""
    places = [found.span(1) for found in _PLACES.finditer(data)]
    if not places:
        return value
    begin, end = random.choice(places)
    return data[:begin] + value + data[end:]


_TEXTS = (
    *(
        b"1",
        b"0",
        b"-1",
        b"",
        b"a",
        b"true",
        b"null",
        b"1e2",
        b"COLOR_RED",
        b"AA==",
        b"a b",
        b"a+b",
        b"\xc3\xa9",
        b"\0",
        b"\xff",
    ),
    *(
        b"2026-01-31T09:30:00Z",
        b"1.5s",
        b"a.b,c",
        b'{"a":1}',
        b"[1]",
        b"18446744073709551616",
        b"9" * 500,
        b"%",
        b"/",
        b"\xed\xa0\x80",
    ),
)
_SEPARATORS = (b"&", b"&", b"&", b"&&", b";", b"=", b"&=", b"?", b"#")


class Query:
    """Makes query strings whose parameters are of `names`, or of nothing."""

    def __init__(self, names: list[str]) -> None:
        self._names = [name.encode() for name in names]

    def __call__(self, random: Random) -> bytes:
        """Return one."""
        query = b""
        for _ in range(random.choice((1, 1, 2, 3, 5))):
            query += (random.choice(_SEPARATORS) if query else b"") + self._name(random)
            query += random.choice((b"=", b"=", b"=", b"==", b"")) + encoded(random.choice(_TEXTS), random)
        if random.random() < 0.3:
            at = random.randrange(len(query) + 1)
            query = (
                query[:at]
                + random.choice((b"%", b"%z", b"%4", b"%FF", b"%25", b"+", b"\xff", b".", b""))
                + query[at + 1 :]
            )
        return query

    def _name(self, random: Random) -> bytes:
        match random.randrange(8):
            case 0:
                return random.choice((b"child.", b"part.inner.", b"part.")) * random.choice((1, 3, 60)) + random.choice(
                    self._names
                )
            case 1:
                return random.choice(self._names) + b"." + random.choice(self._names)
            case 2:
                return encoded(random.choice(self._names), random)
            case 3:
                return random.choice(
                    (b"", b".", b"..", b"no_such", b"a" * 300, b"part[name]", b"labels[a]", b"@type", b"%00")
                )
            case _:
                return random.choice(self._names)


def encoded(text: bytes, random: Random) -> bytes:
    """Return a text percent-encoded: as it must be, all of it, twice, or not at all."""
    match random.randrange(6):
        case 0:
            return b"".join(b"%%%02x" % byte for byte in text[:100])
        case 1:
            return quote_from_bytes(quote_from_bytes(text).encode()).encode()
        case 2:
            return text
        case _:
            return quote_from_bytes(text, safe="").encode()


class Path:
    """Mutates paths of some starting points."""

    def __init__(self, starts: list[bytes]) -> None:
        self._starts = starts

    def __call__(self, random: Random) -> bytes:
        """Return one."""
        path = random.choice(self._starts) or b"/"
        match random.randrange(14):
            case 0:
                at = random.randrange(1, len(path) + 1)
                return (
                    path[:at]
                    + random.choice((b"%", b"%2F", b"%2f", b"%zz", b"//", b"/..", b"\xff", b":", b"%3A", b"%00"))
                    + path[at:]
                )
            case 1:
                return path + random.choice(
                    (b"/", b":echo", b":x", b"%3Aecho", b"/" + b"a" * 2000, b"/a" * 500, b"::", b"/.")
                )
            case 2:
                head, _, _ = path.rpartition(b"/")
                return head + b"/" + encoded(random.choice(_TEXTS), random)
            case 3:
                at = random.randrange(1, len(path) + 1)
                return path[:at] + b"%%%02X" % path[at - 1] + path[at:]
            case 4:
                at = random.randrange(1, len(path) + 1)
                return path[:at] + path[at + 1 :]
            case _:
                return path
