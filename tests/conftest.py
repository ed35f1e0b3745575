"""What all tests share: the event loop that production runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from mesh import lifecycle


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test on the loop that `lifecycle.run` makes."""
    return {"uvloop": lifecycle.loop_factory() or asyncio.new_event_loop}
