from __future__ import annotations

import json

import pytest

from mesh.worker.logs.lines import EARLY_S, Line, Source, Wanted, decoded, encoded, in_order, line_of, time_and_number

SOURCE = Source("app", "Echo", "app-Echo-1")
NOW = 1_700_000_000.0


def kept(line: Line, number: int = 7) -> bytes:
    return encoded(line, number, 2, SOURCE).rstrip(b"\n")


def logged(**fields: object) -> str:
    return json.dumps({"time": "2023-11-14T22:13:10.500+00:00", "level": "ERROR", "role": "replica", **fields})


def test_a_printed_line_has_the_time_at_which_it_was_read() -> None:
    assert line_of("hello", NOW) == Line(NOW, "hello")


def test_a_logged_line_keeps_its_own_time_level_request_and_fields() -> None:
    text = logged(logger="user", message="no", request_id="r1", trace_id="t1", tries=3, traceback="Trace\n  back")
    fields = {"logger": "user", "tries": "3", "traceback": "Trace\n  back"}
    assert line_of(text, NOW) == Line(NOW - 9.5, "no", "ERROR", "r1", "t1", fields)


@pytest.mark.parametrize("time", ["9999-01-01T00:00:00+00:00", "2001-01-01T00:00:00+00:00", "soon", None])
def test_a_time_that_cannot_be_is_not_believed(time: str | None) -> None:
    assert line_of(json.dumps({"time": time, "message": "x"}), NOW).time == NOW


@pytest.mark.parametrize("text", ['{"time": ', '{"time": 1} no', '{"time": "x", "fields": ' + "[" * 100_000, "[]"])
def test_what_only_looks_like_a_logged_line_is_kept_as_it_was_printed(text: str) -> None:
    assert line_of(text, NOW).message == text


def test_a_logged_line_has_a_bounded_number_of_fields_and_a_level_that_exists() -> None:
    line = line_of(logged(message="x", **{f"f{i}": i for i in range(100)}).replace("ERROR", "\\u001b[31m"), NOW)
    assert len(line.fields) == 30
    assert line.level == "INFO"


@pytest.mark.parametrize("message", ["plain", "", 'é\t"\\ \u2028', "\x1b[31mred", "x" * 8192])
def test_a_line_is_read_as_it_was_kept(message: str) -> None:
    line = Line(NOW, message, "INFO", "r", "t", {"logger": "user"})
    found = decoded(kept(line), Wanted())
    assert found is not None
    assert (found.number, found.line) == (7, line)
    assert b"\n" not in kept(line)
    assert time_and_number(kept(line)) == (NOW, 7)


def test_half_a_surrogate_pair_is_no_reason_to_lose_a_line() -> None:
    line = line_of(logged(message="broken \ud800"), NOW)
    found = decoded(kept(line), Wanted())
    assert found is not None and found.line.message == "broken ?"


@pytest.mark.parametrize("part", [b"", b"{", kept(Line(NOW, "whole"))[:-5], b"[1]", b"\xff\xfe", b'{"time": "x"}'])
def test_a_part_of_a_line_is_passed_over(part: bytes) -> None:
    assert decoded(part, Wanted()) is None


def test_only_wanted_lines_are_read() -> None:
    mine, other = kept(Line(NOW, "about r1", request_id='r"1')), kept(Line(NOW, 'says r"1', request_id="r2"))
    assert decoded(mine, Wanted(request_id='r"1')) is not None
    assert decoded(other, Wanted(request_id='r"1')) is None
    assert decoded(mine, Wanted(since=NOW)) is not None
    assert decoded(mine, Wanted(since=NOW + 0.1)) is None


def test_lines_of_a_process_are_in_order_of_time_unless_the_clock_was_set_back() -> None:
    assert in_order(Line(NOW - 1, "logged"), NOW).time == NOW
    assert in_order(Line(NOW + 1, "later"), NOW).time == NOW + 1
    assert in_order(Line(NOW - EARLY_S - 1, "set back"), NOW).time == NOW - EARLY_S - 1
