"""Messages of gRPC calls in the byte stream of a call's body: five bytes before each, as on gRPC's own wire.

Pure. Used by both ends of a pipe for gRPC calls; HTTP calls have no messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.errors import MeshError

PREFIX_BYTES = 5
_SIZE_AT = 1


class BadFraming(MeshError):
    """The bytes are no sequence of messages."""


class MessageTooLarge(BadFraming):
    """A message is larger than is taken."""


def framed(message: bytes, *, plain: bool = False) -> bytes:
    """Return a message with its prefix. `plain`: it is not to be compressed on its way to the client."""
    return (b"\1" if plain else b"\0") + len(message).to_bytes(4, "big") + message


def sole(data: bytes, bytes_max: int) -> bytes | None:
    """Return the message if `data` is just one, to be compressed as usual. None: let `Messages` read it.

    Most unary answers are that, and this costs a fraction.
    """
    size = len(data) - PREFIX_BYTES
    if 0 <= size <= bytes_max and data[0] == 0 and int.from_bytes(data[_SIZE_AT:PREFIX_BYTES], "big") == size:
        return data[PREFIX_BYTES:]
    return None


class Messages:
    """Takes a body's bytes as they come and gives whole messages. Holds one message at most beside what was fed."""

    __slots__ = ("_bytes_max", "_data", "_wanted", "flag", "plain")

    FLAG_MAX = 1
    """The largest flag that a message may have."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._data = bytearray()
        self._wanted = -1
        """Size of the message whose prefix was read; -1: a prefix is next."""
        self.flag = 0
        """Of the last message that `next` returned."""
        self.plain = False
        """Whether the last message that `next` returned is not to be compressed."""

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        self._data += data

    def check(self) -> None:
        """Read the next message's prefix, if it is there. Raises BadFraming if the message is too large."""
        data = self._data
        if self._wanted < 0 and len(data) >= PREFIX_BYTES:
            if data[0] > self.FLAG_MAX:
                raise BadFraming(f"a message has the flag {data[0]}, which nobody sends here")
            self._wanted = int.from_bytes(data[_SIZE_AT:PREFIX_BYTES], "big")
            if self._wanted > self._bytes_max:
                raise MessageTooLarge(f"a message of {self._wanted} bytes is larger than the {self._bytes_max} allowed")

    def next(self) -> bytes | None:
        """Return the next whole message, None if more bytes are needed. Raises BadFraming."""
        self.check()
        data = self._data
        end = PREFIX_BYTES + self._wanted
        if self._wanted < 0 or len(data) < end:
            return None
        message = bytes(data[PREFIX_BYTES:end])
        self.flag = data[0]
        self.plain = self.flag == 1
        del data[:end]
        self._wanted = -1
        return message

    def end(self) -> None:
        """The body is over. Raises BadFraming if it ended within a message."""
        if self._data:
            raise BadFraming(f"the body ended within a message, after {len(self._data)} bytes of it")


class Assembly:
    """Takes a body's bytes as they come and gives whole messages, copied once. For messages of any size.

    What came in pieces is a bytearray of its own, so that values may be views of it.
    """

    __slots__ = ("_at", "_bytes_max", "_message", "_prefix", "_size")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._prefix = b""
        self._size = -1
        """Size of the message that is under way; -1: a prefix is next."""
        self._message = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> list[bytes | bytearray]:
        """Take more bytes, and return the messages that they complete. Raises BadFraming."""
        whole: list[bytes | bytearray] = []
        view, at = memoryview(data), 0
        while at < len(data):
            if self._size < 0:
                part = bytes(view[at : at + PREFIX_BYTES - len(self._prefix)])
                self._prefix += part
                at += len(part)
                if len(self._prefix) < PREFIX_BYTES:
                    break
                self._begin()
                if not self._size:
                    whole.append(b"")
                    self._size = -1
                    continue
            left = self._size - self._at
            if not self._at and len(data) - at >= left:
                whole.append(bytes(view[at : at + left]))
                at += left
                self._size = -1
                continue
            part_size = min(left, len(data) - at)
            if self._at + part_size > len(self._message):  # not all at once: its size is only what somebody says
                room = min(self._size, max(_GROWTH_BYTES, 2 * len(self._message)))
                if self._at:
                    self._message += bytes(room - len(self._message))
                else:
                    self._message = bytearray(room)
            self._message[self._at : self._at + part_size] = view[at : at + part_size]
            self._at += part_size
            at += part_size
            if self._at == self._size:
                whole.append(self._message)
                self._message, self._at, self._size = bytearray(), 0, -1
        return whole

    def end(self) -> None:
        """The body is over. Raises BadFraming if it ended within a message."""
        if self._prefix or self._size >= 0:
            raise BadFraming("the body ended within a message")

    def _begin(self) -> None:
        size = int.from_bytes(self._prefix[_SIZE_AT:], "big")
        if self._prefix[0] > 1:
            raise BadFraming(f"a message has the flag {self._prefix[0]}, which nobody sends here")
        if size > self._bytes_max:
            raise MessageTooLarge(f"a message of {size} bytes is larger than the {self._bytes_max} allowed")
        self._prefix, self._size, self._at = b"", size, 0


_GROWTH_BYTES = 16 * 1024 * 1024


def pieces(parts: Sequence[bytes | memoryview], whole_bytes: int, piece_bytes: int) -> list[bytes]:
    """Return a message, with its prefix, whole if it has `whole_bytes` at most, else in pieces; copied once."""
    size = sum(map(len, parts))
    head = b"\0" + size.to_bytes(4, "big")
    if size + PREFIX_BYTES <= whole_bytes:
        return [b"".join((head, *parts))]
    cut: list[bytes] = []
    filling: list[bytes | memoryview] = [head]
    room = piece_bytes - PREFIX_BYTES
    for part in parts:
        view = memoryview(part)
        while len(view) >= room:
            filling.append(view[:room])
            cut.append(b"".join(filling))
            view, filling, room = view[room:], [], piece_bytes
        if len(view):
            filling.append(view)
            room -= len(view)
    if filling:
        cut.append(b"".join(filling))
    return cut
