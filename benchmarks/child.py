"""What handles call in the benchmark: code that does nothing with what it is given."""

from typing import Any

import numpy

import mesh


@mesh.deployment(max_ongoing_requests=1000, max_queued_requests=1000)
class Child:
    async def __call__(self) -> dict[str, bool]:
        return {"ok": True}

    async def take(self, array: Any) -> int:
        return len(array)

    async def echo(self, array: Any) -> Any:
        return array

    async def make(self, count: int) -> Any:
        return numpy.zeros(count)


child = Child.bind()
