"""The size of a fuzz run: read here and nowhere else. What ran is told at the end, with the seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.inputs import Fuzz

HERE = Path(__file__).parent
OPTIONS = {
    "--fuzz-messages": (8_000, "mutated request messages"),
    "--fuzz-requests": (400, "mutated HTTP requests"),
    "--fuzz-seed": (1, "what all chance follows from"),
}
_KEY = pytest.StashKey[Fuzz]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz", "how much tests/fuzz does; for `pytest tests/fuzz`")
    for name, (usual, text) in OPTIONS.items():
        group.addoption(name, type=int, default=usual, help=f"{text} (default {usual})")


@pytest.fixture(scope="session")
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    # Where the tests are not named on the command line, the options come too late to be parsed.
    messages, requests, seed = (request.config.getoption(name, usual) for name, (usual, _) in OPTIONS.items())
    made = request.config.stash[_KEY] = Fuzz(seed, messages, requests)
    return made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if (fuzz := config.stash.get(_KEY, None)) is not None and config.option.verbose >= 0:
        terminalreporter.section(f"fuzz, seed {fuzz.seed}")
        for line in fuzz.report:
            terminalreporter.line(line)
