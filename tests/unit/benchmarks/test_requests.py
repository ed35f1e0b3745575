"""What h2load says is read, and believed only if all was answered."""

from __future__ import annotations

import pytest

from benchmarks.generators import GeneratorFailed
from benchmarks.workloads.requests import rate_of_h2load

SAID = """\
Application protocol: h2c

finished in 1.00s, 9081.00 req/s, 565.70KB/s
requests: 9081 total, 9145 started, 9081 done, 9081 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 9081 2xx, 0 3xx, 0 4xx, 0 5xx
"""


def test_the_rate_of_h2load_is_read() -> None:
    assert rate_of_h2load(SAID) == 9081.0


@pytest.mark.parametrize(
    "said",
    ["", SAID.replace("9081 2xx, 0 3xx, 0 4xx, 0 5xx", "9000 2xx, 0 3xx, 0 4xx, 81 5xx"), SAID.replace("9081", "0")],
)
def test_a_rate_of_other_answers_than_2xx_is_none(said: str) -> None:
    with pytest.raises(GeneratorFailed):
        rate_of_h2load(said)
