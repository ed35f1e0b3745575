"""A WebSocket's messages in a stream of bytes."""

from __future__ import annotations

import pytest

from mesh.pipe.messages import BadFraming, MessageTooLarge
from mesh.pipe.socket_messages import (
    BINARY,
    CLOSE,
    TEXT,
    SocketMessages,
    close_of,
    cut,
    framed,
    framed_close,
    sent_code,
)


def test_messages_come_whole_whatever_the_pieces() -> None:
    data = framed(TEXT, b"hi") + framed(BINARY, b"") + framed_close(4001, "bye")
    for size in (1, 3, len(data)):
        messages, seen = SocketMessages(10), []
        for i in range(0, len(data), size):
            messages.feed(data[i : i + size])
            while (payload := messages.next()) is not None:
                seen.append((messages.flag, payload))
        assert [flag for flag, _ in seen] == [TEXT, BINARY, CLOSE]
        assert close_of(seen[2][1]) == (4001, "bye")


def test_what_is_no_message_is_refused() -> None:
    messages = SocketMessages(4)
    messages.feed(framed(4, b""))
    with pytest.raises(BadFraming):
        messages.next()
    messages = SocketMessages(4)
    messages.feed(framed(TEXT, b"12345"))
    with pytest.raises(MessageTooLarge):
        messages.next()
    with pytest.raises(BadFraming):
        close_of(b"\1")


def test_codes_and_reasons_that_may_be_sent() -> None:
    assert [sent_code(code) for code in (1000, 1001, 3000, 4999)] == [1000, 1001, 3000, 4999]
    assert [sent_code(code) for code in (0, 999, 1004, 1005, 1006, 1015, 5000)] == [1000] * 7
    assert len(cut("ü" * 100).encode()) <= 123 and cut("short") == "short"
