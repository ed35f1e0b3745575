"""What wrk and h2load say is read, and believed only if all was answered."""

from __future__ import annotations

import pytest

from benchmarks.generators import GeneratorFailed
from benchmarks.workloads.other_clients import of_h2load, of_wrk

SAID = """\
Application protocol: h2c

finished in 1.00s, 9081.00 req/s, 565.70KB/s
requests: 9081 total, 9145 started, 9081 done, 9081 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 9081 2xx, 0 3xx, 0 4xx, 0 5xx
"""


def test_the_rate_of_h2load_is_read() -> None:
    assert of_h2load(SAID) == (9081.0, 9081)


@pytest.mark.parametrize(
    "said",
    ["", SAID.replace("9081 2xx, 0 3xx, 0 4xx, 0 5xx", "9000 2xx, 0 3xx, 0 4xx, 81 5xx"), SAID.replace("9081", "0")],
)
def test_a_rate_of_other_answers_than_2xx_is_none(said: str) -> None:
    with pytest.raises(GeneratorFailed):
        of_h2load(said)


WRK_SAID = """\
Running 2s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.21ms    1.03ms  14.46ms   76.51%
    Req/Sec    15.11k     1.20k   17.02k    70.00%
  30211 requests in 2.01s, 4.47MB read
Requests/sec:  15030.35
Transfer/sec:      2.22MB
"""


def test_the_rate_of_wrk_is_read() -> None:
    assert of_wrk(WRK_SAID) == (15030.35, 30211)


@pytest.mark.parametrize(
    "said",
    [
        "",
        WRK_SAID.replace("Requests/sec", "  Non-2xx or 3xx responses: 3\nRequests/sec"),
        WRK_SAID.replace("Requests/sec", "  Socket errors: connect 0, read 2, write 0, timeout 0\nRequests/sec"),
        WRK_SAID.replace("30211 requests", "0 requests"),
    ],
)
def test_a_rate_of_wrk_with_other_answers_or_broken_connections_is_none(said: str) -> None:
    with pytest.raises(GeneratorFailed):
        of_wrk(said)
