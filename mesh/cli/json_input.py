"""The JSON that a command is given: on the command line, in a file, or on stdin while somebody still writes it.

Owns where the text comes from, its limits, and the lines of a stream of values. Never knows what the values mean.
Called by `call` and `grpc_call`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from mesh.errors import InvalidConfig, MeshError, NotFound, Problem

TEXT_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of one value."""
_CHUNK_BYTES = 64 * 1024
_STDIN = 0


@dataclass(frozen=True, slots=True)
class Text:
    """One value, not yet parsed, and where it stands."""

    text: str
    place: str
    line: int
    """Where it begins, from 1."""


class JsonInput:
    """What `-d` named. Read it once, whole or line by line; reading waits for whoever writes."""

    def __init__(self, place: str, *, text: str = "", fd: int | None = None) -> None:
        self._place = place
        self._text = text
        self._fd = fd

    def whole(self) -> Text:
        """Return all of it as one value; an empty text if there is nothing."""
        parts: list[bytes] = []
        total = 0
        for chunk in self._chunks():
            parts.append(chunk)
            self._check(total := total + len(chunk), 1)
        return self._value(b"".join(parts), 1)

    def lines(self) -> Iterator[Text]:
        """Yield each line that is not blank, as soon as it is there."""
        number = 1
        parts: list[bytes] = []
        total = 0
        for chunk in self._chunks():
            *ended, rest = chunk.split(b"\n")
            for line in ended:
                value = self._value(b"".join([*parts, line]), number)
                parts, total, number = [], 0, number + 1
                if value.text:
                    yield value
            parts.append(rest)
            self._check(total := total + len(rest), number)
        if (value := self._value(b"".join(parts), number)).text:
            yield value

    def _chunks(self) -> Iterator[bytes]:
        if self._fd is None:
            yield self._text.encode(errors="surrogateescape")
            return
        try:
            # Not by sys.stdin: a thread that waits in it keeps the process from ending.
            while chunk := os.read(self._fd, _CHUNK_BYTES):
                yield chunk
        except OSError as error:
            raise MeshError(f"cannot read {self._place}: {error.strerror}") from None

    def _value(self, data: bytes, line: int) -> Text:
        try:
            return Text(data.decode().strip(), self._place, line)
        except UnicodeDecodeError:
            problem = Problem("", f"{self._place}:{line}: is not UTF-8", "JSON is written in UTF-8")
            raise InvalidConfig((problem,)) from None

    def _check(self, size: int, line: int) -> None:
        if size > TEXT_BYTES_MAX:
            text = f"{self._place}:{line}: a value of more than {TEXT_BYTES_MAX // 2**20} MiB"
            raise InvalidConfig((Problem("", text, "send smaller ones"),))


@contextlib.contextmanager
def opened(data: str) -> Iterator[JsonInput]:
    """Yield what `-d DATA` names: JSON itself, @FILE, or @- for stdin. Raises NotFound for a file that is not there."""
    if not data.startswith("@"):
        yield JsonInput("--data", text=data)
    elif data == "@-":
        yield JsonInput("stdin", fd=_STDIN)
    else:
        path = data[1:]
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"no file {path}", hint="write -d @FILE, or -d JSON") from None
        except OSError as error:
            raise MeshError(f"cannot read {path}: {error.strerror}") from None
        try:
            yield JsonInput(path, fd=fd)
        finally:
            os.close(fd)
