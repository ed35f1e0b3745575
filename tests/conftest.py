"""What all tests share: the event loop that production runs on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

import hypothesis
import pytest

from mesh import lifecycle

hypothesis.settings.register_profile("mesh", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("mesh")
"""How long an example takes says more of the machine than of the code."""

_FACTORY = lifecycle.loop_factory() or asyncio.new_event_loop
"""One for all: with another one for each test, what a module's tests share would be made anew for each."""


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what workers cache away from the user's own cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test on the loop that `lifecycle.run` makes."""
    return {"uvloop": _FACTORY}
