"""Messages of gRPC calls in the byte stream of a call's body: five bytes before each, as on gRPC's own wire.

Pure. Used by both ends of a pipe for gRPC calls; HTTP calls have no messages.
"""

from __future__ import annotations

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

    __slots__ = ("_bytes_max", "_data", "_wanted", "plain")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._data = bytearray()
        self._wanted = -1
        """Size of the message whose prefix was read; -1: a prefix is next."""
        self.plain = False
        """Whether the last message that `next` returned is not to be compressed."""

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        self._data += data

    def check(self) -> None:
        """Read the next message's prefix, if it is there. Raises BadFraming if the message is too large."""
        data = self._data
        if self._wanted < 0 and len(data) >= PREFIX_BYTES:
            if data[0] > 1:
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
        self.plain = data[0] == 1
        del data[:end]
        self._wanted = -1
        return message

    def end(self) -> None:
        """The body is over. Raises BadFraming if it ended within a message."""
        if self._data:
            raise BadFraming(f"the body ended within a message, after {len(self._data)} bytes of it")
