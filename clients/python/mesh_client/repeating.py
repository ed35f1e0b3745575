"""The loop over the attempts of one request, for threads and for event loops; and two attempts side by side.

Owns the loop, which tenacity runs; `course` decides, the target's budget allows. An attempt is a function of the
seconds that it may take, and raises MeshClientError. Called by the shells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception

from mesh_client.course import Course
from mesh_client.errors import MeshClientError
from mesh_client.target import Target

T = TypeVar("T")
Attempt = Callable[[float | None], T]
AsyncAttempt = Callable[[float | None], Awaitable[T]]


class Repeats:
    """What tenacity asks after an attempt that failed."""

    def __init__(self, target: Target, course: Course, request_id: str) -> None:
        self._target = target
        self._course = course
        self._request_id = request_id
        self._pause_s = 0.0

    def again(self, error: BaseException) -> bool:
        """Whether there is another attempt, which takes a token."""
        if not isinstance(error, MeshClientError):
            return False
        error.attempts = max(1, self._course.attempts)
        error.request_id = error.request_id or self._request_id
        clock = self._target.clock
        pause = self._course.pause_s(error, clock.monotonic(), clock.random)
        if pause is None or not self._target.withdraw():
            return False
        self._pause_s = pause
        return True

    def pause_s(self, _: RetryCallState) -> float:
        """Return the seconds until then."""
        return self._pause_s


def repeat(target: Target, course: Course, attempt: Attempt[T], *, request_id: str = "") -> T:
    """Make attempts until one succeeds or none is left; the last error is raised."""
    repeats = Repeats(target, course, request_id)
    retrying = Retrying(
        retry=retry_if_exception(repeats.again), wait=repeats.pause_s, sleep=target.clock.sleep, reraise=True
    )
    return retrying(lambda: attempt(course.begin(target.clock.monotonic())))


async def repeat_async(
    target: Target,
    course: Course,
    attempt: AsyncAttempt[T],
    *,
    request_id: str = "",
    discard: Callable[[T], Awaitable[None]] | None = None,
) -> T:
    """Make attempts until one succeeds or none is left; the last error is raised.

    `discard` gets an answer that came too late beside another one.
    """
    repeats = Repeats(target, course, request_id)
    retrying = AsyncRetrying(
        retry=retry_if_exception(repeats.again), wait=repeats.pause_s, sleep=target.clock.sleep_async, reraise=True
    )

    async def once() -> T:
        return await _hedged(target, course, attempt, discard)

    return await retrying(once)


async def _hedged(
    target: Target, course: Course, attempt: AsyncAttempt[T], discard: Callable[[T], Awaitable[None]] | None
) -> T:
    """Make an attempt, and if it is slow and may run twice another one beside it; the first answer counts."""
    began = target.clock.monotonic()
    seconds = course.begin(began)
    after_s = target.hedge_after_s(course)
    if after_s is None or (seconds is not None and after_s >= seconds):
        answer = await attempt(seconds)
        target.answered(target.clock.monotonic() - began)
        return answer
    running: list[asyncio.Future[T]] = [asyncio.ensure_future(attempt(seconds))]
    try:
        await asyncio.wait(running, timeout=after_s)
        if not running[0].done() and target.withdraw():
            running.append(asyncio.ensure_future(attempt(course.begin(target.clock.monotonic()))))
        first = await _first(running)
        running.remove(first)
        target.answered(target.clock.monotonic() - began)
        return first.result()
    finally:
        await _end(running, discard)


async def _end(running: list[asyncio.Future[T]], discard: Callable[[T], Awaitable[None]] | None) -> None:
    """End attempts whose answer nobody waits for."""
    for task in running:
        task.cancel()
    for answer in await asyncio.gather(*running, return_exceptions=True):
        if discard is not None and not isinstance(answer, BaseException):
            await discard(answer)


async def _first(running: list[asyncio.Future[T]]) -> asyncio.Future[T]:
    """Return the attempt that is answered first; if none is, the one that failed last."""
    left = set(running)
    while True:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled() and task.exception() is None:
                return task
        if not left:
            return done.pop()
