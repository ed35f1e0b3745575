"""What a request does, as numbers that are the same each time: tasks, turns of the loop, instructions, memory.

Owns a loop that counts what is asked of it, by name, and a count of the instructions that Python executes, by module:
processors count theirs too, but few virtual machines let one read that. Used by `guard` on `guarded_path`.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from types import CodeType, FrameType
from typing import Any
from unittest import mock

import mesh
from benchmarks.guarded_path import Ask, GuardedPath, in_thread

INSTRUCTIONS, MEMORY = "instructions", "bytes of memory"
WARM_UP, ASKS = 30, 60
"""Few enough that numbers of calls, which are written with as many bytes as they need, stay below 128."""
MESH = str(Path(mesh.__file__).parent)
OWN = str(Path(__file__).parent)
LOOP = frozenset(("base_events", "events", "selector_events", "selectors", "unix_events", "runners"))
"""Of the standard library, what is in place of uvloop here."""


class CountingLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, which counts. Threads go on when it has nothing to do, so they meet it in the same way."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.idle: SimpleQueue[None] = SimpleQueue()
        self._in_threads = 0
        super().__init__()

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        self.counts[f"callbacks: {_named(callback)}"] += 1
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        self.counts[f"callbacks from threads: {_named(callback)}"] += 1
        return super().call_soon_threadsafe(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        self.counts[f"timers: {_named(callback)}"] += 1
        return super().call_at(when, callback, *args, context=context)

    def create_task(self, coro: Any, **options: Any) -> Any:
        self.counts[f"tasks: {_named(coro)}"] += 1
        return super().create_task(coro, **options)

    def create_future(self) -> Any:
        if module := module_of(sys._getframe(1).f_code):
            self.counts[f"futures: {module}"] += 1
        return super().create_future()

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        self._in_threads += 1
        return super().run_in_executor(executor, func, *args)

    def _run_once(self) -> None:
        self.counts["turns of the loop"] += 1
        if self._in_threads and not self._ready:  # type: ignore[attr-defined]
            for _ in range(self._in_threads):
                self.idle.put(None)
            self._in_threads = 0
        super()._run_once()  # type: ignore[misc]


def _named(what: Any) -> str:
    return getattr(what, "__qualname__", type(what).__name__)


@cache
def module_of(code: CodeType) -> str:
    """Return what a piece of code belongs to: a module of mesh, else a package; "" for what does not count."""
    name = code.co_filename
    if name.startswith(MESH):
        return "mesh" + name[len(MESH) :].removesuffix(".py")
    if name.startswith((OWN, "<")):
        return ""
    path = Path(name)
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1].removesuffix(".py")
    return "" if path.stem in LOOP else f"python {path.parent.name if path.stem == '__init__' else path.stem}"


class Instructions:
    """Counts what Python executes in each module, in the threads of mesh too."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._modules: dict[CodeType, str] = {}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count within this block; a hundred times slower than without."""
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        module = self._modules.get(code)
        if module is None:
            module = self._modules[code] = module_of(code)
        if not module:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counts = self.counts

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            if event == "opcode":
                counts[module] += 1
            return trace

        return trace


Figures = dict[str, float]


async def _each(ask: Ask, look: Callable[[], Figures]) -> Figures:
    """Return by how much figures that only grow do with each request at least.

    The least: what timers do now and then, and how threads meet, falls to some requests only.
    """
    taken: list[Figures] = []
    before = look()
    for _ in range(ASKS):
        await ask()
        after = look()
        taken.append({name: count - before.get(name, 0) for name, count in after.items()})
        before = after
    names = {name for each in taken for name in each}
    return {name: min(each.get(name, 0) for each in taken) for name in names}


async def _memory(ask: Ask) -> Figures:
    """Return the bytes that a request takes at most, and how many objects it leaves to the collector."""
    gc.collect()
    gc.disable()
    peaks = []
    for _ in range(ASKS):
        await ask()
    garbage = gc.collect()
    tracemalloc.start()
    for _ in range(ASKS):
        base = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        await ask()
        peaks.append(tracemalloc.get_traced_memory()[1] - base)
    tracemalloc.stop()
    gc.enable()
    return {"objects in cycles": garbage // ASKS, MEMORY: statistics.median_low(peaks)}


async def _figures(loop: CountingLoop, path: GuardedPath, ask: Ask) -> Figures:
    for _ in range(WARM_UP):
        await ask()
    found = await _each(ask, lambda: {**loop.counts, **path.pipes.counts()})
    found |= await _memory(ask)
    instructions = Instructions()
    with instructions.counting():
        executed = await _each(ask, lambda: dict(instructions.counts))
    found[INSTRUCTIONS] = sum(executed.values())
    found |= {f"{INSTRUCTIONS}: {module}": count for module, count in executed.items()}
    return {name: count for name, count in sorted(found.items()) if count}


async def _of_all(loop: CountingLoop, kinds: Collection[str], options: dict[str, int]) -> dict[str, Figures]:
    path = GuardedPath(**options)
    await path.start()
    try:
        asks = {name: ask for name, ask in path.kinds().items() if not kinds or name in kinds}
        return {name: await _figures(loop, path, ask) for name, ask in asks.items()}
    finally:
        await path.close()


def counts(kinds: Collection[str] = (), **options: int) -> dict[str, Figures]:
    """Return for each kind of request, or some, what it does, by name. `options` are those of GuardedPath."""
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, CountingLoop)
        with mock.patch.object(in_thread, "may_go_on", loop.idle.get):
            return runner.run(_of_all(loop, kinds, options))
