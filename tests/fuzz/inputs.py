"""Runs many inputs against what takes them, each made from the seed and its own number, and says which one failed."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar
from zlib import crc32

from mesh.errors import MeshError

T = TypeVar("T")

Make = Callable[[Random], T]
"""The chance of one input -> the input."""
Outcome = str
"""A word for how an input ended, for the report."""

SHOWN_BYTES_MAX = 200_000


class Failed(AssertionError):
    """An input did what none may do. The text is enough to repeat it."""


@dataclass
class Fuzz:
    """A run: how many inputs of each kind, and what came of them."""

    seed: int
    messages: int
    """Mutated request messages, over all targets."""
    requests: int
    """Mutated HTTP requests."""
    report: list[str] = field(default_factory=list)

    def random(self, name: str) -> Random:
        """Return the chance from which the starting points of a target are drawn."""
        return Random(f"{self.seed} {name}")

    def run(self, name: str, count: int, make: Make[T], check: Callable[[T], Outcome]) -> Counter[Outcome]:
        """Make `count` inputs and check each."""
        random, outcomes, started = Random(), Counter[Outcome](), time.perf_counter()
        for number in range(count):
            random.seed(self._own_seed(name, number))
            made = make(random)
            try:
                outcomes[check(made)] += 1
            except Exception as error:
                raise self._failed(name, number, made, error) from error
        self._tell(name, count, outcomes, started)
        return outcomes

    async def run_live(
        self, name: str, count: int, workers: int, make: Make[T], check: Callable[[T], Awaitable[Outcome]]
    ) -> Counter[Outcome]:
        """Make `count` inputs and check them, so many at a time."""
        outcomes, started, numbers = Counter[Outcome](), time.perf_counter(), iter(range(count))

        async def work() -> None:
            random = Random()
            for number in numbers:
                random.seed(self._own_seed(name, number))
                made = make(random)
                try:
                    outcomes[await check(made)] += 1
                except Exception as error:
                    raise self._failed(name, number, made, error) from error

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures.exceptions[0].__cause__
        self._tell(name, count, outcomes, started)
        return outcomes

    def _own_seed(self, name: str, number: int) -> int:
        return (self.seed << 64) ^ (crc32(name.encode()) << 32) ^ number

    def _failed(self, name: str, number: int, made: object, error: Exception) -> Failed:
        return Failed(
            f"{name}: input {number} of seed {self.seed}: {type(error).__name__}: {error}\ninput: {shown(made)}"
        )

    def _tell(self, name: str, count: int, outcomes: Counter[Outcome], started: float) -> None:
        ended = ", ".join(f"{n} {word}" for word, n in outcomes.most_common(12))
        self.report.append(f"{name}: {count} in {time.perf_counter() - started:.1f} s: {ended}")


def check_words(error: MeshError) -> None:
    """Check what would be said to a client: nothing of what is inside."""
    words = error.message
    assert "Traceback" not in words and ".py" not in words and "object at 0x" not in words, words


def shown(value: object) -> str:
    """Return an input as text: bytes in hex, in whatever they are."""
    if isinstance(value, bytes):
        return f"hex {value[:SHOWN_BYTES_MAX].hex()}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(shown, value)) + ")"
    if dataclasses.is_dataclass(value):
        parts = (f"{each.name}={shown(getattr(value, each.name))}" for each in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(parts)})"
    return repr(value)[:SHOWN_BYTES_MAX]
