"""The guard sees what a request does on its whole way: one task more is told by name."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from benchmarks import counted
from benchmarks.comparison import differences
from mesh.pipe.dispatch import Dispatcher


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(counted, "WARM_UP", 5)
    monkeypatch.setattr(counted, "ASKS", 5)


@pytest.mark.usefixtures("few")
def test_a_task_more_for_each_request_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = counted.counts()
    assert set(before) >= {"GET, async handler", "GET, sync handler", "POST of 1 KB", "shed", "gRPC unary call"}
    assert before["GET, async handler"]["messages to replicas"] == 1
    submit = Dispatcher.submit

    async def look_again() -> None:
        return

    def with_a_task(self: Dispatcher, *args: Any) -> None:
        submit(self, *args)
        self.loop.create_task(look_again())

    monkeypatch.setattr(Dispatcher, "submit", with_a_task)
    found = {(each.request, each.what) for each in differences(before, counted.counts()) if each.grown}
    name = f"tasks: {look_again.__qualname__}"
    assert {("GET, async handler", name), ("gRPC unary call", name), ("call by handle", name)} <= found


def test_what_is_counted_is_put_down_to_the_module_that_did_it() -> None:
    assert counted.module_of(Dispatcher.submit.__code__) == "mesh/pipe/dispatch"
    assert counted.module_of(counted.counts.__code__) == ""
    assert counted.module_of(asyncio.BaseEventLoop.run_forever.__code__) == ""
    assert counted.module_of(asyncio.wait_for.__code__) == "python tasks"
