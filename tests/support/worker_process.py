"""A worker in a process of its own, for tests that kill it: `python -m tests.support.worker_process CONTROL`."""

from __future__ import annotations

import sys

from mesh import lifecycle, settings, telemetry
from mesh.clock import SYSTEM
from mesh.worker.server import Worker


async def serve(control: str, stop: lifecycle.Stop) -> int:
    worker = Worker(settings.WorkerSettings(worker_id="w1", control=(control,), drain_timeout_s=0.0), SYSTEM)
    await worker.start()
    await stop.wait()
    await worker.drain()
    await worker.stop()
    return 0


if __name__ == "__main__":
    telemetry.configure_logs("worker", settings.LogSettings(format="json"))
    sys.exit(lifecycle.run(lambda stop: serve(sys.argv[1], stop)))
