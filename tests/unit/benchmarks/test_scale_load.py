"""Requests go to all paths in turn."""

from __future__ import annotations

from itertools import islice

from benchmarks.scale_load import requests


def test_each_path_is_asked_as_often_as_the_others() -> None:
    made = list(islice(requests(b"GET /app-* HTTP/1.1\r\nAccept: */*\r\n\r\n", 3), 4))
    assert made[0] == made[3] == b"GET /app-000 HTTP/1.1\r\nAccept: */*\r\n\r\n"
    assert [line.split()[1] for line in made] == [b"/app-000", b"/app-001", b"/app-002", b"/app-000"]
