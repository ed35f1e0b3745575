"""Streams of JSON over HTTP: lines of a request, items of an answer.

Owns framing: newline-delimited JSON both ways, server-sent events and a JSON array for answers, and which of them an
Accept header asks for. Knows nothing of messages: items are JSON texts on one line, as `Binding.response` gives them.
Never does I/O: the gateway feeds bytes in and writes what comes out.
"""

from __future__ import annotations

from enum import Enum

from mesh.transcode.refusals import RequestRefused

NDJSON_CONTENT_TYPES = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/json"}
)
"""What a request that is a stream of lines may call itself."""
_ACCEPT_RANGES_MAX = 32


class StreamFormat(Enum):
    """How the items of an answer are framed; the value is the content type."""

    NDJSON = "application/x-ndjson"
    EVENTS = "text/event-stream"
    ARRAY = "application/json"

    @property
    def content_type(self) -> str:
        """The value of the answer's Content-Type header."""
        return self.value

    def item(self, item: bytes, *, first: bool) -> bytes:
        """Return the bytes of one item. `first`: nothing was written before it."""
        if self is StreamFormat.NDJSON:
            return item + b"\n"
        if self is StreamFormat.EVENTS:
            return b"data: " + item + b"\n\n"
        return (b"[" if first else b",") + item

    def error(self, problem: bytes, *, first: bool) -> bytes:
        """Return the last bytes of an answer that failed on its way. `problem` is JSON on one line."""
        if self is StreamFormat.EVENTS:
            return b"event: error\ndata: " + problem + b"\n\n"
        return self.item(problem, first=first) + self.end(first=False)

    def end(self, *, first: bool) -> bytes:
        """Return the last bytes of an answer that is complete. `first`: it had no item."""
        if self is not StreamFormat.ARRAY:
            return b""
        return b"[]" if first else b"]"


def stream_format(accept: str) -> StreamFormat:
    """Return the format that an Accept header prefers; NDJSON if it names none of them."""
    best, best_quality = StreamFormat.NDJSON, 0.0
    for part in accept.lower().split(",")[:_ACCEPT_RANGES_MAX]:
        media, *parameters = (piece.strip() for piece in part.split(";"))
        wanted = _FORMATS.get(media)
        if wanted is not None and (quality := _quality(parameters)) > best_quality:
            best, best_quality = wanted, quality
    return best


def _quality(parameters: list[str]) -> float:
    """Return the weight of a media range; one that cannot be read is 0."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            digits = value.strip()
            plain = digits.isascii() and digits.replace(".", "", 1).isdigit() and len(digits) <= 5
            return min(float(digits), 1.0) if plain else 0.0
    return 1.0


class LineSplitter:
    """Cuts the bytes of a request into lines, as they come. Blank lines count for nothing.

    Holds at most `line_bytes_max` bytes of a line that is not complete. Time is linear in the bytes, in however small
    pieces they come.
    """

    def __init__(self, line_bytes_max: int) -> None:
        assert line_bytes_max > 0
        self._line_bytes_max = line_bytes_max
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that a chunk completes. Raises RequestRefused (413) for one that is too long."""
        head, newline, tail = chunk.partition(b"\n")
        self._rest += head
        if not newline:
            self._check(len(self._rest))
            return []
        *lines, last = tail.split(b"\n")
        lines.insert(0, bytes(self._rest))
        self._rest = bytearray(last)
        for line in (*lines, last):
            self._check(len(line))
        return [line for line in map(_stripped, lines) if line]

    def end(self) -> list[bytes]:
        """Return the last line, if the request did not end with a newline."""
        line, self._rest = _stripped(bytes(self._rest)), bytearray()
        return [line] if line else []

    def _check(self, size: int) -> None:
        if size > self._line_bytes_max:
            raise RequestRefused(413, "", f"a line is longer than {self._line_bytes_max} bytes")


def _stripped(line: bytes) -> bytes:
    return line.strip(b" \t\r")


_FORMATS = {
    "application/x-ndjson": StreamFormat.NDJSON,
    "application/ndjson": StreamFormat.NDJSON,
    "application/jsonl": StreamFormat.NDJSON,
    "text/event-stream": StreamFormat.EVENTS,
    "application/json": StreamFormat.ARRAY,
}
