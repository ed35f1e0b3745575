"""The access log: one line a request, whatever clients choose for method and path."""

from __future__ import annotations

import logging

import pytest

from mesh.clock import Clock
from mesh.gateway.traffic import Traffic


@pytest.mark.parametrize(
    ("method", "path", "shown"),
    [
        ("GET", "/a b?", "GET /a b? 200"),
        ("GET", "/a\nGET /fake 200", r"GET /a\nGET /fake 200 200"),
        ("GET", "/\x1b[31m\x9b", r"GET /\x1b[31m\x9b 200"),
        ("GÉT", "/ü", r"G\xc9T /\xfc 200"),
        ("GET", "/" + "x" * 5000, "GET /" + "x" * 999 + "... 200"),
    ],
)
def test_a_line_stays_one_line(caplog: pytest.LogCaptureFixture, method: str, path: str, shown: str) -> None:
    clock = Clock()
    with caplog.at_level(logging.INFO, logger="mesh.access"):
        Traffic("http", clock).log(method, path, 200, clock.monotonic(), "id")
    assert caplog.messages[0].startswith(f"{shown} ")
