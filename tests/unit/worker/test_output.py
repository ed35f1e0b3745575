"""Lines out of bytes, with bounds."""

from __future__ import annotations

import pytest

from mesh.worker.output import LINE_BYTES_MAX, LINES_KEPT, LINES_PER_SECOND_MAX, Output


def test_lines_are_put_together_from_pieces() -> None:
    output = Output()
    assert output.feed(b"he", 0.0) == []
    assert output.feed(b"llo\nwor", 0.0) == ["hello"]
    assert output.feed(b"ld\r\n\nlast", 0.0) == ["world", ""]
    assert output.end() == ["last"]
    assert list(output.lines) == ["hello", "world", "", "last"]
    assert output.tail(2) == "\nlast"


def test_what_is_no_utf_8_does_no_harm() -> None:
    assert Output().feed(b"\xff\xfe ok\n", 0.0) == ["\ufffd\ufffd ok"]


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_line_is_cut_at_its_bound_and_the_next_one_is_whole(pieces: int) -> None:
    output, text = Output(), b"x" * LINE_BYTES_MAX * 3 + b"\nnext\n"
    step = len(text) // pieces + 1
    lines = [line for i in range(0, len(text), step) for line in output.feed(text[i : i + step], 0.0)]
    assert [len(line) < LINE_BYTES_MAX + 20 for line in lines] == [True, True]
    assert lines[0].endswith("(line cut)")
    assert lines[1] == "next"


def test_an_endless_line_takes_no_memory() -> None:
    output = Output()
    for _ in range(1000):
        output.feed(b"x" * 65536, 0.0)
    assert len(output.end()[0]) < LINE_BYTES_MAX + 20


def test_a_flood_is_left_out_of_the_log_and_counted_and_its_end_is_kept() -> None:
    output = Output()
    logged = output.feed(b"".join(b"%d\n" % i for i in range(100_000)), 0.0)
    assert len(logged) <= LINES_PER_SECOND_MAX
    assert list(output.lines) == [str(i) for i in range(100_000 - LINES_KEPT, 100_000)]
    numbers = [line for line in logged if line.isdigit()]
    assert f"… {100_000 - len(numbers)} lines left out" in [*logged, *output.end()]


def test_the_log_has_room_again_in_the_next_second() -> None:
    output = Output()
    for i in range(LINES_PER_SECOND_MAX):
        assert output.feed(b"%d\n" % i, 0.5) == [str(i)]
    assert output.feed(b"over\n", 0.9) == []
    assert output.feed(b"next\n", 1.1) == ["… 1 lines left out", "next"]


def test_lines_of_an_earlier_process_are_kept() -> None:
    output = Output()
    output.feed(b"first\npart", 0.0)
    assert output.end() == ["part"]
    output.feed(b"second\n", 1.0)
    assert list(output.lines) == ["first", "part", "second"]
    assert output.end() == []
