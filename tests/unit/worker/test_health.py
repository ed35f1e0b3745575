"""The hook `check_health`: sync, async, raising in every way, hanging."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from mesh.reasons import Reason
from mesh.worker.health import Health


def checked(hook: Any) -> Health:
    return Health("Model", type("Model", (), {"check_health": hook})())


async def message(hook: Any) -> str:
    failure = await checked(hook).check()
    assert failure is not None and failure.reason is Reason.HEALTH_CHECK_FAILED
    assert "Model.check_health" in failure.hint
    return failure.message


def raiser(error: BaseException) -> Any:
    def check_health(self: object) -> None:
        raise error

    return check_health


def async_raiser(error: BaseException) -> Any:
    async def check_health(self: object) -> None:
        raise error

    return check_health


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


async def test_without_a_hook_it_is_well() -> None:
    assert await Health("Model", object()).check() is None
    assert await Health("f", lambda: "Hello!").check() is None


async def test_a_function_is_asked_nothing_whatever_hangs_on_it() -> None:
    def served() -> str:
        return "Hello!"

    served.check_health = raiser(ValueError())  # type: ignore[attr-defined]
    assert await Health("served", served).check() is None


async def test_a_sync_hook_runs_in_a_thread_of_its_own() -> None:
    threads = []
    assert await checked(lambda self: threads.append(threading.current_thread().name)).check() is None
    assert threads[0].startswith("check-health")


async def test_an_async_hook_runs_on_the_loop() -> None:
    async def check_health(self: object) -> None:
        assert threading.current_thread() is threading.main_thread()
        await asyncio.sleep(0)

    assert await checked(check_health).check() is None


async def test_a_sync_hook_may_return_something_to_await() -> None:
    async def slowly() -> None:
        raise ValueError("no")

    assert "ValueError: no" in await message(lambda self: slowly())


RAISED = [ValueError("no database"), SystemExit(3), StopIteration("x"), asyncio.CancelledError()]


@pytest.mark.parametrize("made", [raiser, async_raiser])
@pytest.mark.parametrize("error", RAISED)
async def test_whatever_it_raises_is_told_with_its_place(made: Any, error: BaseException) -> None:
    if made is async_raiser and isinstance(error, StopIteration):
        assert "RuntimeError" in await message(made(error))
        return
    failure = await checked(made(error)).check()
    assert failure is not None
    assert failure.message.startswith(f"check_health raised {type(error).__name__}")
    assert "test_health.py:" in failure.message
    assert "Traceback" in failure.details and "mesh/worker" not in failure.details


async def test_an_exception_that_cannot_be_told_is_told() -> None:
    assert "Unspeakable" in await message(raiser(Unspeakable()))


async def test_false_is_no_and_anything_else_is_yes() -> None:
    assert await message(lambda self: False) == "check_health returned False"
    assert await checked(lambda self: 0).check() is None
    assert await checked(lambda self: None).check() is None


async def test_a_hook_that_hangs_is_not_started_twice() -> None:
    release, starts = threading.Event(), []

    def check_health(self: object) -> None:
        starts.append(1)
        release.wait(30)

    health = checked(check_health)
    first = await health.check_within(0.01)
    assert first is not None and first.message == "check_health did not return within 0.01 s"
    assert (await health.check_within(0.01)) is not None
    waiting = asyncio.ensure_future(health.check())
    await asyncio.sleep(0)
    release.set()
    assert await waiting is None
    assert len(starts) == 1
    assert await health.check() is None
    assert len(starts) == 2


async def test_an_async_hook_that_hangs_is_cancelled() -> None:
    ended = []

    async def check_health(self: object) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(1)

    assert (await checked(check_health).check_within(0.01)) is not None
    assert ended == [1]
