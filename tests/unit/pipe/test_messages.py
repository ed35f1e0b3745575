"""Messages in a byte stream: what is fed in any pieces comes out whole, and the short way agrees with the long one."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.pipe.messages import BadFraming, Messages, framed, sole

BYTES_MAX = 64


@given(st.lists(st.binary(max_size=BYTES_MAX), max_size=8), st.integers(1, 7))
def test_messages_come_out_whole_however_they_were_cut(sent: list[bytes], piece: int) -> None:
    data = b"".join(map(framed, sent))
    messages, received = Messages(BYTES_MAX), []
    for at in range(0, len(data), piece):
        messages.feed(data[at : at + piece])
        while (message := messages.next()) is not None:
            received.append(message)
    messages.end()
    assert received == sent


@given(st.binary(max_size=BYTES_MAX + 8) | st.binary(max_size=BYTES_MAX + 8).map(framed))
def test_the_sole_message_is_what_reading_gives(data: bytes) -> None:
    messages = Messages(BYTES_MAX)
    messages.feed(data)
    try:
        message = messages.next()
        messages.end()
    except BadFraming:
        message = None
    assert sole(data, BYTES_MAX) == (None if messages.plain else message)


@pytest.mark.parametrize(
    "data", [b"", b"\0", framed(b"ab")[:-1], framed(b"ab") + b"c", framed(b"ab", plain=True), framed(bytes(65))]
)
def test_what_is_not_just_one_plain_message_is_left_to_the_reader(data: bytes) -> None:
    assert sole(data, BYTES_MAX) is None


def test_a_message_that_is_not_to_be_compressed_says_so() -> None:
    messages = Messages(BYTES_MAX)
    messages.feed(framed(b"ab", plain=True))
    assert messages.next() == b"ab"
    assert messages.plain
