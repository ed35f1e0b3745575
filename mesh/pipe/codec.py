"""The bytes of a pipe's messages: what protobuf would write and read, with body bytes copied once.

A protobuf message copies each frame that is put into it twice and body bytes once more, and its reader copies them
twice. Here frames are written one by one and joined; body bytes are a `Chunk`, whose few bytes around them are made and
read by hand. The bytes on the wire are the same. Pure. Called by `service`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError

from mesh.v1 import replica_service_pb2 as pb

LARGE_BYTES = 16 * 1024
"""Messages from here on are searched for chunks; smaller ones protobuf reads faster."""
JOINED_BYTES = 16 * 1024
"""Small pieces of a body join a chunk that has not left yet, up to so many bytes."""
JOINED_PIECES = 64
"""So many of them at most; then whoever writes them lets others run."""
FRAMES_READ_MAX = 4096
"""More than that in one message nobody sends who is well; an object each, they would take far more memory than it."""
CHUNK_BYTES_MIN = 1024
"""Frames from here on are looked at as chunks."""
_TABLE = 4096
_FRAMES = b"\x0a"
"""Tag of `frames` in either message, and of `data` in Data: field 1, bytes."""
_CALL = b"\x08"
_END = _DONE = b"\x10\x01"
_NUMBER_BYTES_MAX = 9

_F = TypeVar("_F", pb.RequestFrame, pb.ResponseFrame)


class Chunk:
    """A Data frame. `data` may be any buffer where it is written; what is read are bytes."""

    __slots__ = ("batch", "call", "data", "done", "end", "more", "pieces", "size")

    def __init__(self, call: int, data: bytes, *, end: bool, batch: int = -1) -> None:
        self.call = call
        self.data = data
        self.more: list[bytes] = []
        """What comes after `data`."""
        self.pieces = 1
        self.size = len(data)
        """Bytes in all."""
        self.end = end
        self.done = False
        """Of responses: the call is over. Never set in what was read."""
        self.batch = batch
        """Which message it goes into, by its sender's count."""

    def __repr__(self) -> str:
        return f"<Chunk of call {self.call}, {self.size} bytes{' end' if self.end else ''}>"

    def takes(self, size: int, batch: int) -> bool:
        """Whether so many bytes more may go along; `batch` is the sender's count now."""
        waits = self.batch == batch and not self.end
        return waits and self.pieces <= JOINED_PIECES and self.size + size <= JOINED_BYTES

    def add(self, data: bytes) -> None:
        """Let `data` go along."""
        self.more.append(data)
        self.size += len(data)
        self.pieces += 1
        if self.pieces > JOINED_PIECES:  # as it may wait for long: an object each is far more than one byte
            self.data = b"".join((self.data, *self.more))
            self.more.clear()


class Codec(Generic[_F]):
    """Reads and writes the messages of one direction."""

    def __init__(self, message: Any, frame: type[_F]) -> None:
        self._message = message
        self._frame: type[_F] = frame
        self._data_tag = bytes((frame.DESCRIPTOR.fields_by_name["data"].number << 3 | 2,))

    def encode(self, frames: Iterable[_F | Chunk]) -> bytes:
        """Return the message that carries `frames`."""
        parts: list[bytes] = []
        for each in frames:
            if isinstance(each, Chunk):
                frame: Chunk = each
                size, end = frame.size, 2 if frame.end else 0
                around = _FRAMES + varint(size) if size else b""
                call = _CALL + varint(frame.call) + (_DONE if frame.done else b"")
                head = call + self._data_tag + varint(len(around) + size + end) + around
                parts += (_FRAMES + varint(len(head) + size + end) + head, frame.data)
                parts += frame.more
                if end:
                    parts.append(_END)
            else:
                written: bytes = each.SerializeToString()
                size = len(written)
                parts.append(_HEADS[size] if size < _TABLE else _FRAMES + varint(size))
                parts.append(written)
        return b"".join(parts)

    def decode(self, message: bytes) -> Iterable[_F | Chunk]:
        """Return the frames of a message. Raises DecodeError if it is none."""
        if len(message) < LARGE_BYTES:
            return self._frames_of(message)
        return self._decode_large(message)

    def _frames_of(self, message: bytes) -> Sequence[_F]:
        frames: Sequence[_F] = self._message.FromString(message).frames
        if len(frames) > FRAMES_READ_MAX:
            raise DecodeError(f"a message of {len(frames)} frames; {FRAMES_READ_MAX} are allowed")
        return frames

    def _decode_large(self, message: bytes) -> Iterable[_F | Chunk]:
        frames: list[_F | Chunk] = []
        at, total = 0, len(message)
        while at < total:
            size, begin = _length(message, at + 1)
            at, tag = begin + size, message[at]
            odd = tag != _FRAMES[0] or size < 0 or at > total
            if odd or len(frames) >= FRAMES_READ_MAX:  # not as we write it: protobuf knows what it means
                return self._frames_of(message)
            chunk = self._chunk(message, begin, at) if size >= CHUNK_BYTES_MIN else None
            frames.append(chunk or self._frame.FromString(message[begin:at]))
        return frames

    def _chunk(self, message: bytes, at: int, stop: int) -> Chunk | None:
        """Return the chunk that is written there, None if it is another frame or is written in another way."""
        if message[at] != _CALL[0]:
            return None
        call, at = _length(message, at + 1)
        if call < 0 or message[at] != self._data_tag[0]:
            return None
        size, at = _length(message, at + 1)
        if size < 0 or at + size != stop or message[at] != _FRAMES[0]:
            return None
        size, at = _length(message, at + 1)
        end = at + size
        if size < 0 or not (end == stop or (end + 2 == stop and message[end:stop] == _END)):
            return None
        return Chunk(call, message[at:end], end=end != stop)


def _length(message: bytes, at: int) -> tuple[int, int]:
    """Read a number; return it, below 0 if it is cut off or longer than any of ours, and where what follows begins."""
    number = shift = 0
    for byte in message[at : at + _NUMBER_BYTES_MAX]:
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
    return -1, at


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it."""
    if number < _TABLE:
        return _NUMBERS[number]
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


def _written(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes((low | 128, high)) if high else bytes((low,))


_NUMBERS = tuple(map(_written, range(_TABLE)))
_HEADS = tuple(_FRAMES + number for number in _NUMBERS)
REQUESTS: Codec[pb.RequestFrame] = Codec(pb.PipeRequest, pb.RequestFrame)
RESPONSES: Codec[pb.ResponseFrame] = Codec(pb.PipeResponse, pb.ResponseFrame)
