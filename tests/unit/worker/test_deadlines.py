from __future__ import annotations

import asyncio

from mesh.worker.deadlines import YOUNG_S, Deadlines


class Call:
    def __init__(self, due: float) -> None:
        self.due = due
        self.timer: asyncio.TimerHandle | None = None
        self.was_late = asyncio.Event()

    def late(self) -> None:
        self.was_late.set()


async def test_each_is_told_when_its_time_is_over_and_none_that_was_dropped() -> None:
    loop = asyncio.get_running_loop()
    deadlines, now = Deadlines(loop), loop.time()
    calls = [Call(now + seconds) for seconds in (YOUNG_S / 2, YOUNG_S * 2, YOUNG_S * 3)]
    dropped = [Call(now + seconds) for seconds in (YOUNG_S / 2, YOUNG_S * 2, 100.0)]
    for call in (*calls, *dropped):
        deadlines.add(call, now)
    for call in dropped:
        deadlines.drop(call)
    async with asyncio.timeout(10):
        await asyncio.gather(*(call.was_late.wait() for call in calls))
    assert not any(call.was_late.is_set() for call in dropped)
    for call in calls:
        deadlines.drop(call)
