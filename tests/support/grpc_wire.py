"""One gRPC call written byte by byte over HTTP/2, for what generated stubs cannot send.

The caller says headers and messages as they go on the wire; what comes back is returned as it came. Plaintext only.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterable
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

WAIT_SECONDS = 20.0
_READ_BYTES = 65536
_HEADERS = (("content-type", "application/grpc"), ("te", "trailers"))


@dataclass
class WireAnswer:
    """What the server sent."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    reset: int | None = None
    """Error code of RST_STREAM, if that ended the call."""

    @property
    def status(self) -> str:
        """`grpc-status`, from wherever it stands; "" if nowhere."""
        return self.trailers.get("grpc-status", self.headers.get("grpc-status", ""))

    def messages(self) -> list[bytes]:
        """Return the messages, decompressed (gzip)."""
        found, rest = [], bytes(self.data)
        while rest:
            size = int.from_bytes(rest[1:5], "big")
            body = rest[5 : 5 + size]
            found.append(gzip.decompress(body) if rest[0] else body)
            rest = rest[5 + size :]
        return found


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    """Return a message with its five bytes before it, compressed with gzip if so wanted."""
    body = gzip.compress(message) if compressed else message
    return bytes([compressed]) + len(body).to_bytes(4, "big") + body


async def call(
    address: str, path: str, messages: Iterable[bytes], headers: Iterable[tuple[str, str]] = ()
) -> WireAnswer:
    """Call a method on a connection of its own. `messages` are framed already; `headers` come after the usual ones."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(WAIT_SECONDS):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            return await _Call(reader, writer).run(address, path, messages, headers)
        finally:
            writer.close()


class _Call:
    """The state of one call on its connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        # Wrong headers are a purpose of this module: h2 shall not mend or refuse them.
        self._h2 = H2Connection(
            H2Configuration(
                header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self._answer = WireAnswer()
        self._ended = False

    async def run(
        self, authority: str, path: str, messages: Iterable[bytes], headers: Iterable[tuple[str, str]]
    ) -> WireAnswer:
        """Send everything, then read to the end of the stream."""
        self._h2.initiate_connection()
        stream = self._h2.get_next_available_stream_id()
        pseudo = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", authority))
        self._h2.send_headers(stream, [*pseudo, *_HEADERS, *headers])
        for message in messages:
            await self._send(stream, message)
        if not self._ended:
            self._h2.end_stream(stream)
        while not self._ended:
            await self._exchange()
        return self._answer

    async def _send(self, stream: int, data: bytes) -> None:
        while data and not self._ended:
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if not room:
                await self._exchange()
                continue
            self._h2.send_data(stream, data[:room])
            data = data[room:]

    async def _exchange(self) -> None:
        """Write what is pending and take in what comes next."""
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()
        data = await self._reader.read(_READ_BYTES)
        if not data:
            self._ended = True
            return
        for event in self._h2.receive_data(data):
            self._event(event)
        self._writer.write(self._h2.data_to_send())

    def _event(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            self._answer.headers.update(_texts(event.headers))
        elif isinstance(event, TrailersReceived):
            self._answer.trailers.update(_texts(event.headers))
        elif isinstance(event, DataReceived):
            self._answer.data += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamReset):
            self._answer.reset, self._ended = int(event.error_code), True
        elif isinstance(event, StreamEnded):
            self._ended = True


def _texts(headers: Iterable[tuple[str | bytes, str | bytes]]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in headers}


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
