"""The access log: one line a request, whatever clients choose for method and path, in the form of all other logs."""

from __future__ import annotations

import io
import json
import logging
from typing import TextIO

import pytest

from mesh import access_log
from mesh.access_log import LINES_MAX, AccessLog, Answered
from mesh.clock import Clock
from mesh.gateway.traffic import Traffic
from mesh.telemetry import JsonFormatter, TextFormatter

PATHS = [
    ("GET", "/a b?", "GET /a b? 200"),
    ("GET", "/a\nGET /fake 200", r"GET /a\nGET /fake 200 200"),
    ("GET", "/\x1b[31m\x9b", r"GET /\x1b[31m\x9b 200"),
    ("GÉT", "/ü", r"G\xc9T /\xfc 200"),
    ("GET", '/"\\', 'GET /"\\ 200'),
    ("GET", "/" + "x" * 5000, "GET /" + "x" * 999 + "... 200"),
]


def log_to(stream: io.StringIO, *, as_json: bool) -> tuple[AccessLog, logging.StreamHandler[TextIO]]:
    handler: logging.StreamHandler[TextIO] = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("gateway") if as_json else TextFormatter("gateway", colour=False))
    return AccessLog(handler, "gateway", as_json=as_json), handler


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
@pytest.mark.parametrize(("method", "path", "shown"), PATHS)
async def test_a_line_is_as_any_other_and_stays_one_line(
    monkeypatch: pytest.MonkeyPatch, method: str, path: str, shown: str, as_json: bool
) -> None:
    stream, clock = io.StringIO(), Clock()
    log, handler = log_to(stream, as_json=as_json)
    monkeypatch.setattr(access_log, "current", log)
    taken: list[Answered] = []

    def add(each: Answered) -> None:
        taken.append(each)
        AccessLog.add(log, each)

    monkeypatch.setattr(log, "add", add)
    traffic = Traffic("http", clock)
    assert traffic.access_log
    traffic.log(method, path, 200, clock.monotonic(), "id")
    log.flush()
    (answered,) = taken
    made = {"name": "mesh.access", "levelname": "INFO", "msg": answered.message, "created": answered.at}
    record = logging.makeLogRecord(made | {"protocol": "http", "request_id": "id"})
    line = stream.getvalue()
    assert line == handler.format(record) + "\n" and line.count("\n") == 1
    message = json.loads(line)["message"] if as_json else line
    assert f"{shown} " in message


async def test_lines_are_written_together() -> None:
    stream = io.StringIO()
    log, _ = log_to(stream, as_json=True)
    for i in range(LINES_MAX - 1):
        log.add(Answered(1e9 + i / 1000, "http", "GET", f"/{i}", 200, 1.0, "id"))
    assert not stream.getvalue()
    log.add(Answered(1e9, "http", "GET", "/last", 200, 1.0, "id"))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == LINES_MAX and lines[-1]["message"] == "GET /last 200 1.0 ms"
    assert lines[1]["time"] == "2001-09-09T01:46:40.001+00:00"


async def test_a_stream_that_is_gone_harms_nobody() -> None:
    stream = io.StringIO()
    log, _ = log_to(stream, as_json=True)
    log.add(Answered(1e9, "http", "GET", "/", 200, 1.0, "id"))
    stream.close()
    log.flush()
