"""What gateway processes are told, and how their metrics become one page."""

from __future__ import annotations

import pytest

from mesh.cli.gateway_process import message, parsed
from mesh.cli.merged_metrics import merged
from mesh.security import Security
from mesh.settings import GatewaySettings, LogSettings

ONE = """\
# HELP mesh_requests_total Requests.
# TYPE mesh_requests_total counter
mesh_requests_total{code="200"} 3.0
# HELP up Whether.
# TYPE up gauge
up 1.0
"""


def test_settings_arrive_as_they_were() -> None:
    settings = GatewaySettings("g", control=("a:1", "b:2"), security=Security(token_file="/t"), shared_ports=True)
    logs = LogSettings("DEBUG", "json", access=True)
    assert parsed(message(settings, logs)) == (settings, logs)


def test_pages_become_one() -> None:
    page = merged({"0": ONE, "1": ONE.replace("3.0", "4.0")}).decode()
    assert page.count("# TYPE mesh_requests_total counter") == 1
    assert 'mesh_requests_total{code="200",process="0"} 3.0' in page
    assert 'mesh_requests_total{code="200",process="1"} 4.0' in page
    assert 'up{process="1"} 1.0' in page


def test_a_page_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError):
        merged({"0": "<html>"})
