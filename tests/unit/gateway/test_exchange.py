"""When a request is slow: its client is watched from then on, and its deadline holds before that too."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.errors import DeadlineExceeded
from mesh.gateway.exchange import (
    BUSY_REQUESTS,
    BUSY_WATCH_AFTER_S,
    WATCH_AFTER_S,
    Exchange,
    Exchanges,
)
from mesh.lifecycle import Tasks
from mesh.settings import GatewaySettings


class Moments:
    """A clock that stands."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Moments:
    return Moments()


def begun(clock: Moments, count: int, timeout_s: float = 60.0) -> tuple[Exchanges, list[Exchange]]:
    exchanges = Exchanges(GatewaySettings(), clock, Tasks())  # type: ignore[arg-type]
    dispatcher: Any = SimpleNamespace(loop=asyncio.get_running_loop(), cancel=lambda call: None)

    def call() -> Any:
        return SimpleNamespace(ended=False, body=SimpleNamespace(ended=False), complete=False, fail=lambda error: None)

    return exchanges, [Exchange(exchanges, dispatcher, call(), timeout_s) for _ in range(count)]


@pytest.mark.parametrize(
    ("count", "after_s"), [(1, WATCH_AFTER_S), (BUSY_REQUESTS - 1, WATCH_AFTER_S), (BUSY_REQUESTS, BUSY_WATCH_AFTER_S)]
)
async def test_many_at_once_are_slow_later(clock: Moments, count: int, after_s: float) -> None:
    exchanges, all_of_them = begun(clock, count)
    clock.now += after_s * 0.99
    exchanges._look()
    assert not any(each._is_slow for each in all_of_them)
    clock.now += after_s * 0.02
    exchanges._look()
    assert all(each._is_slow for each in all_of_them[: max(1, count - BUSY_REQUESTS)])
    for each in all_of_them:
        each.end()


async def test_a_deadline_holds_while_a_request_is_young(clock: Moments) -> None:
    _, (first, *others) = begun(clock, BUSY_REQUESTS + 1, timeout_s=BUSY_WATCH_AFTER_S)
    assert first._timer is not None
    clock.now += BUSY_WATCH_AFTER_S
    first._look()
    assert isinstance(first.error, DeadlineExceeded)
    for each in (first, *others):
        each.end()
