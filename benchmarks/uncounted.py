"""mesh without its metrics, to learn what counting costs: the product has no such switch.

Has what counts do nothing: in the gateway as `python -m benchmarks.uncounted run ...`, which is meshctl but for that,
and in a replica as the module that its deployment is loaded from. Used by the workload `watched`.
"""

from __future__ import annotations

import sys

from prometheus_client import Counter, Gauge, Histogram
from starlette.requests import Request

import mesh


def _nothing(*_: object, **__: object) -> None:
    """Stand in for what counts."""


COUNTS = ((Counter, "inc"), (Gauge, "inc"), (Gauge, "dec"), (Gauge, "set"), (Histogram, "observe"))
for _kind, _name in COUNTS:
    setattr(_kind, _name, _nothing)


class Noop:
    """The same as `noop.Noop`."""

    async def __call__(self, request: Request) -> dict[str, bool]:
        return {"ok": True}


noop = mesh.deployment(max_ongoing_requests=1000, max_queued_requests=1000)(Noop).bind()


def main() -> int:
    """Be meshctl, with a gateway that counts nothing."""
    from mesh.cli import __main__ as meshctl
    from mesh.gateway.traffic import Traffic

    setattr(Traffic, Traffic.count.__name__, _nothing)
    return meshctl.main()


if __name__ == "__main__":
    sys.exit(main())
