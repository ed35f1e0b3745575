from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from mesh.cli.log_lines import rendered, since
from mesh.v1.log_service_pb2 import LogEntry, LogPosition

NOW = 1_700_000_000.0


def entry(message: str, **fields: object) -> LogEntry:
    position = LogPosition(replica_id="app-Echo-1", process=2, line=3)
    return LogEntry(time=NOW, application="app", position=position, message=message, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("90s", NOW - 90),
        ("10m", NOW - 600),
        ("1h30m", NOW - 5400),
        ("1.5d", NOW - 129600),
        ("99999999d", 0.0),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T23:13:20.5+01:00", NOW + 0.5),
    ],
)
def test_since(text: str, time: float) -> None:
    assert since(text, NOW) == time


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-5m", "1x", "2023-11-14", "2023-11-14T22:13:20", "yesterday", "1h 2m"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is neither"):
        since(text, NOW)


def test_a_line_for_people() -> None:
    at = datetime.fromtimestamp(NOW, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.000")
    assert rendered([entry("hello")], as_json=False, colour=False) == f"{at} app-Echo-1 hello\n"
    fields = {"logger": "user", "n": "1", "text": "two words", "traceback": "Trace\n  back\n"}
    text = rendered([entry("no", level="ERROR", request_id="r1", fields=fields)], as_json=False, colour=False)
    lines = [line.removeprefix(f"{at} app-Echo-1 ") for line in text.splitlines()]
    assert lines == ['ERROR no request_id=r1 n=1 text="two words"', "Trace", "  back"]


def test_on_a_terminal_replicas_have_colours_and_printed_text_commands_nothing() -> None:
    text = rendered([entry("\x1b]0;title\x07\rover", level="WARNING")], as_json=False, colour=True)
    assert "\x1b[33mWARNING \ufffd]0;title\ufffd\ufffdover\x1b[0m" in text
    assert "\x1b]" not in text


def test_a_line_for_programs() -> None:
    value = json.loads(rendered([entry("é\n", level="INFO", fields={"n": "1"})], as_json=True, colour=False))
    assert value["time"] == "2023-11-14T22:13:20.000000Z"
    assert (value["replica_id"], value["process"], value["line"]) == ("app-Echo-1", 2, 3)
    assert (value["message"], value["level"], value["fields"]) == ("é\n", "INFO", {"n": "1"})
