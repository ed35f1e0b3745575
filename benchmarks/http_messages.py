"""HTTP/1.1 as a load generator needs it: a request as bytes, and a reader of answers that keeps no body.

Owns the syntax. Pure: bytes in, numbers out. Used by `load` and `open_loop`.
"""

from __future__ import annotations

from urllib.parse import SplitResult

HEAD_BYTES_MAX = 64 * 1024
_BODILESS = (204, 304)


class NotHttpError(Exception):
    """What came is no answer."""


def request(url: SplitResult, method: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
    """Return a request for `url` as it is written."""
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    content = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {url.netloc}\r\nAccept: */*\r\n{content}\r\n".encode() + body


class AnswerReader:
    """Reads answers one after another, whole ones and chunked ones."""

    __slots__ = ("_buffer", "_chunked", "_left", "_newlines", "body_bytes", "chunks", "status")

    def __init__(self) -> None:
        self.status = 0
        self.body_bytes = 0
        self.chunks = 0
        """Chunks in which the last body came, if it was chunked: what the server wrote apart."""
        self._newlines = 0
        self._buffer = b""
        self._left = 0
        self._chunked = False

    @property
    def events(self) -> int:
        """Server-sent events in the last body, if it was chunked: lines of data, each with an empty line after it."""
        return self._newlines // 2

    def feed(self, data: bytes) -> bool:
        """Take what came; return whether an answer is whole with it. Raises NotHttpError."""
        if self._chunked:
            return self._feed_chunks(self._buffer + data)
        if self._left:
            return self._take(len(data))
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > HEAD_BYTES_MAX:
                raise NotHttpError(f"a head of more than {HEAD_BYTES_MAX} bytes")
            self._buffer = buffer
            return False
        self._buffer = b""
        return self._begin(buffer, end)

    def _begin(self, buffer: bytes, end: int) -> bool:
        head = buffer[: end + 2].lower()
        if not head.startswith(b"http/1.") or not head[9:12].isdigit():
            raise NotHttpError(repr(head[:80]))
        self.status = int(head[9:12])
        self.body_bytes = self.chunks = self._newlines = 0
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            self._left = int(head[at + 17 : head.index(b"\r\n", at + 2)])
        elif b"\r\ntransfer-encoding: chunked\r\n" in head:
            self._chunked = True
            return self._feed_chunks(buffer[end + 4 :])
        elif self.status not in _BODILESS:
            raise NotHttpError("an answer whose end only the end of the connection shows")
        return self._take(len(buffer) - end - 4)

    def _take(self, count: int) -> bool:
        self.body_bytes += count
        self._left -= count
        if self._left < 0:
            raise NotHttpError(f"{-self._left} bytes after the end of an answer")
        return not self._left

    def _feed_chunks(self, buffer: bytes) -> bool:
        at = 0
        while (line_end := buffer.find(b"\r\n", at)) >= 0:
            try:
                size = int(buffer[at:line_end].split(b";", 1)[0], 16)
            except ValueError as error:
                raise NotHttpError(repr(buffer[at : at + 80])) from error
            after = line_end + 2 + size + 2
            if len(buffer) < after:
                break
            self.body_bytes += size
            self._newlines += buffer.count(b"\n", line_end + 2, line_end + 2 + size)
            at = after
            if not size:
                self._chunked = False
                self._buffer = b""
                if len(buffer) > at:
                    raise NotHttpError(f"{len(buffer) - at} bytes after the end of an answer")
                return True
            self.chunks += 1
        self._buffer = buffer[at:]
        return False
