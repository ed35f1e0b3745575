"""Listens on a TCP port, passes all bytes on to a gRPC server, and notes what they say: headers and compressed flags.

For facts that gRPC's API hides from a program. It reads HTTP/2 as it passes and changes nothing. Plaintext only.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from hpack import Decoder
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, HeadersFrame

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD = 9
_MESSAGE_HEAD = 5
_READ_BYTES = 65536


@dataclass
class Direction:
    """One direction of one call."""

    headers: dict[str, str] = field(default_factory=dict)
    """Headers and trailers, by name; the last of several."""
    compressed: list[bool] = field(default_factory=list)
    """The compressed flag of each message."""
    sizes: list[int] = field(default_factory=list)
    """Bytes of each message as sent."""
    _rest: bytearray = field(default_factory=bytearray)

    def data(self, data: bytes) -> None:
        """Take the bytes of a DATA frame."""
        self._rest += data
        while len(self._rest) >= _MESSAGE_HEAD:
            size = int.from_bytes(self._rest[1:_MESSAGE_HEAD], "big")
            if len(self._rest) < _MESSAGE_HEAD + size:
                return
            self.compressed.append(bool(self._rest[0]))
            self.sizes.append(size)
            del self._rest[: _MESSAGE_HEAD + size]


@dataclass
class TappedCall:
    """What was sent of one call."""

    request: Direction = field(default_factory=Direction)
    response: Direction = field(default_factory=Direction)

    @property
    def path(self) -> str:
        """`/package.Service/Method`."""
        return self.request.headers.get(":path", "")


class Tap:
    """Use as an async context manager; clients connect to `address`. `calls` are in order of their beginning."""

    def __init__(self, target: str) -> None:
        self.address = ""
        self.calls: list[TappedCall] = []
        self._host, _, self._port = target.rpartition(":")
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection(self._host, self._port)
        streams: dict[int, TappedCall] = {}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pass(reader, onward_writer, _Reader(self.calls, streams, from_client=True)))
                tasks.create_task(_pass(onward_reader, writer, _Reader(self.calls, streams, from_client=False)))
        finally:
            writer.close()
            onward_writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, noted: _Reader) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_READ_BYTES):
            noted.feed(data)
            writer.write(data)
            await writer.drain()
    writer.close()


class _Reader:
    """Reads the frames of one direction of one connection."""

    def __init__(self, calls: list[TappedCall], streams: dict[int, TappedCall], *, from_client: bool) -> None:
        self._calls = calls
        self._streams = streams
        self._from_client = from_client
        self._preface = len(_PREFACE) if from_client else 0
        self._rest = bytearray()
        self._block = bytearray()
        self._headers = Decoder()

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        self._rest += data
        if self._preface:
            if len(self._rest) < self._preface:
                return
            assert self._rest.startswith(_PREFACE), "not HTTP/2"
            del self._rest[: self._preface]
            self._preface = 0
        while len(self._rest) >= _FRAME_HEAD:
            frame, size = Frame.parse_frame_header(memoryview(bytes(self._rest[:_FRAME_HEAD])))
            if len(self._rest) < _FRAME_HEAD + size:
                return
            frame.parse_body(memoryview(bytes(self._rest[_FRAME_HEAD : _FRAME_HEAD + size])))
            del self._rest[: _FRAME_HEAD + size]
            self._frame(frame)

    def _frame(self, frame: Frame) -> None:
        if isinstance(frame, (HeadersFrame, ContinuationFrame)):
            self._block += frame.data
            if "END_HEADERS" in frame.flags:
                headers = self._headers.decode(bytes(self._block))
                self._block.clear()
                self._direction(frame.stream_id).headers.update((str(name), str(value)) for name, value in headers)
        elif isinstance(frame, DataFrame):
            self._direction(frame.stream_id).data(frame.data)

    def _direction(self, stream: int) -> Direction:
        if stream not in self._streams:
            self._streams[stream] = TappedCall()
            self._calls.append(self._streams[stream])
        call = self._streams[stream]
        return call.request if self._from_client else call.response
