from __future__ import annotations

import random

import pytest

from mesh.pipe.messages import Assembly, BadFraming, MessageTooLarge, framed, pieces


@pytest.mark.parametrize("seed", range(20))
def test_messages_come_whole_however_they_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    messages = [rng.randbytes(rng.choice((0, 1, 5, 200, 5000))) for _ in range(10)]
    stream = b"".join(map(framed, messages))
    assembly, came = Assembly(10_000), []
    while stream:
        size = rng.choice((1, 4, 100, 9000))
        came += assembly.feed(stream[:size])
        stream = stream[size:]
    assembly.end()
    assert [bytes(each) for each in came] == messages


def test_what_came_in_pieces_can_be_written_to() -> None:
    (message,) = [m for cut in pieces([b"a" * 1000, memoryview(b"b" * 1000)], 512, 512) for m in _fed(cut)]
    assert isinstance(message, bytearray) and message == b"a" * 1000 + b"b" * 1000


_assembly = Assembly(10_000)


def _fed(cut: bytes) -> list[bytes | bytearray]:
    return _assembly.feed(cut)


@pytest.mark.parametrize("sizes", [(0,), (3,), (507,), (508,), (512, 512), (100, 2000, 1)])
def test_pieces_are_the_message_with_its_prefix(sizes: tuple[int, ...]) -> None:
    parts = [bytes([i]) * size for i, size in enumerate(sizes)]
    cut = pieces(parts, 512, 512)
    assert b"".join(cut) == framed(b"".join(parts))
    assert all(len(piece) == 512 for piece in cut[:-1]) and 0 < len(cut[-1]) <= 512


def test_what_is_not_too_large_is_one_piece() -> None:
    assert [len(cut) for cut in pieces([b"a" * 995], 1000, 400)] == [1000]
    assert [len(cut) for cut in pieces([b"a" * 996], 1000, 400)] == [400, 400, 201]


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(BadFraming, match="flag 7"):
        Assembly(10).feed(b"\x07\0\0\0\1a")
    with pytest.raises(MessageTooLarge, match="larger than the 10 allowed"):
        Assembly(10).feed(b"\0\xff\xff\xff\xff")
    for broken in (b"\0\0", framed(b"abc")[:-1]):
        assembly = Assembly(10)
        assert assembly.feed(broken) == []
        with pytest.raises(BadFraming, match="ended within a message"):
            assembly.end()


def test_a_size_that_is_only_said_takes_no_memory() -> None:
    assembly = Assembly(2**31)
    assert assembly.feed(b"\0\x7f\xff\xff\xff" + b"x") == []
    assert len(assembly._message) <= 16 * 1024 * 1024
