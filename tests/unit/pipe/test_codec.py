"""The bytes of a pipe's messages: the same as protobuf's, whoever reads and whoever writes them."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from mesh.pipe.codec import (
    CHUNK_BYTES_MIN,
    FRAMES_READ_MAX,
    JOINED_BYTES,
    JOINED_PIECES,
    LARGE_BYTES,
    REQUESTS,
    RESPONSES,
    Chunk,
    varint,
)
from mesh.v1 import replica_service_pb2 as pb

numbers = st.integers(1, 200) | st.integers(0, 2**62)
sizes = st.sampled_from([0, 1, 127, 128, CHUNK_BYTES_MIN, 4096, LARGE_BYTES, 70_000])
chunks = st.builds(lambda call, size, end: Chunk(call, b"x" * size, end=end), numbers, sizes, st.booleans())
opens = st.builds(
    lambda call, size: pb.RequestFrame(call=call, open=pb.Open(method="POST", data=b"y" * size, end=True)),
    numbers,
    sizes,
)
heads = st.builds(
    lambda call, size, done: pb.ResponseFrame(call=call, done=done, head=pb.Head(status=200, data=b"z" * size)),
    numbers,
    sizes,
    st.booleans(),
)


def as_requests(frames: Any) -> list[pb.RequestFrame]:
    return [
        pb.RequestFrame(call=each.call, data=pb.Data(data=each.data, end=each.end)) if type(each) is Chunk else each
        for each in frames
    ]


def as_responses(frames: Any) -> list[pb.ResponseFrame]:
    return [
        pb.ResponseFrame(call=each.call, data=pb.Data(data=each.data, end=each.end)) if type(each) is Chunk else each
        for each in frames
    ]


@given(st.lists(chunks | opens, max_size=6))
def test_requests_are_what_protobuf_reads_and_writes(frames: list[Any]) -> None:
    expected = pb.PipeRequest(frames=as_requests(frames))
    written = REQUESTS.encode(frames)
    assert pb.PipeRequest.FromString(written) == expected
    assert as_requests(REQUESTS.decode(written)) == list(expected.frames)
    assert as_requests(REQUESTS.decode(expected.SerializeToString())) == list(expected.frames)


@given(st.lists(chunks | heads, max_size=6))
def test_responses_are_what_protobuf_reads_and_writes(frames: list[Any]) -> None:
    expected = pb.PipeResponse(frames=as_responses(frames))
    written = RESPONSES.encode(frames)
    assert pb.PipeResponse.FromString(written) == expected
    assert as_responses(RESPONSES.decode(written)) == list(expected.frames)


def test_body_bytes_of_a_large_message_come_as_chunks() -> None:
    body = bytes(LARGE_BYTES)
    message = REQUESTS.encode([Chunk(7, memoryview(body), end=False), Chunk(300, b"", end=True)])  # type: ignore[arg-type]
    first, second = REQUESTS.decode(message)
    assert isinstance(first, Chunk) and (first.call, first.data, first.end) == (7, body, False)
    assert type(first.data) is bytes
    assert isinstance(second, pb.RequestFrame) and second.data.end


@given(st.data())
def test_what_nobody_writes_is_read_as_protobuf_reads_it(data: st.DataObject) -> None:
    message = bytearray(RESPONSES.encode([Chunk(3, bytes(LARGE_BYTES), end=True), Chunk(4, b"a" * 2000, end=False)]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 20) | st.integers(LARGE_BYTES, len(message) - 1))
        message[at] = data.draw(st.integers(0, 255))
    message = message[: data.draw(st.sampled_from([len(message), len(message) - 1, LARGE_BYTES + 5]))]
    mutated = bytes(message)
    try:
        expected = list(pb.PipeResponse.FromString(mutated).frames)
    except DecodeError:
        with pytest.raises(DecodeError):
            list(RESPONSES.decode(mutated))
        return
    assert as_responses(RESPONSES.decode(mutated)) == expected


def test_unknown_fields_do_not_hide_a_chunk() -> None:
    frame = pb.ResponseFrame(call=1, data=pb.Data(data=bytes(LARGE_BYTES))).SerializeToString() + b"\xf8\x01\x05"
    (read,) = RESPONSES.decode(b"\x0a" + varint(len(frame)) + frame)
    assert read.call == 1 and len(read.data.data) == LARGE_BYTES  # type: ignore[union-attr]


@given(st.integers(0, 2**63 - 1))
def test_numbers_are_written_as_protobuf_does(number: int) -> None:
    assert b"\x08" + varint(number) == pb.RequestFrame(call=number).SerializeToString() or not number


def test_small_pieces_go_in_one_frame_with_the_end_of_the_call() -> None:
    chunk = Chunk(9, b"a", end=False, batch=3)
    assert chunk.takes(1, 3) and not chunk.takes(1, 4), "it has left"
    chunk.add(b"bc")
    chunk.end = chunk.done = True
    (frame,) = pb.PipeResponse.FromString(RESPONSES.encode([chunk])).frames
    assert frame == pb.ResponseFrame(call=9, done=True, data=pb.Data(data=b"abc", end=True))
    assert not chunk.takes(1, 3), "nothing comes after the end"


def test_pieces_join_up_to_a_bound() -> None:
    many = Chunk(1, b"", end=False, batch=0)
    while many.takes(1, 0):
        many.add(b"x")
    assert (many.size, many.more) == (JOINED_PIECES, [])
    large = Chunk(1, bytes(JOINED_BYTES - 1), end=False, batch=0)
    assert large.takes(1, 0) and not large.takes(2, 0)


@pytest.mark.parametrize("count", [FRAMES_READ_MAX, FRAMES_READ_MAX + 1])
@pytest.mark.parametrize("frame", [b"", b"\x08\x01" * 3])
def test_a_message_of_very_many_frames_is_refused(count: int, frame: bytes) -> None:
    message = (b"\x0a" + bytes((len(frame),)) + frame) * count
    if count > FRAMES_READ_MAX:
        with pytest.raises(DecodeError, match=f"{count} frames"):
            RESPONSES.decode(message)
    else:
        assert len(list(RESPONSES.decode(message))) == count
