"""Ray Serve: one replica on a Ray of its own, on loopback as far as Ray lets it.

Run: python ray_app.py DIRECTORY PORT
"""

import signal
import sys

import ray
from ray import serve
from starlette.requests import Request

QUIET = {"enable_access_log": False}


@serve.deployment(num_replicas=1, max_ongoing_requests=1000)
class Noop:
    async def __call__(self, request: Request) -> dict[str, bool]:
        return {"ok": True}


if __name__ == "__main__":
    # Without `address` it would join a Ray that runs here already.
    ray.init(
        address="local",
        _temp_dir=sys.argv[1],
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])}, logging_config=QUIET)
    serve.run(Noop.bind(), name="noop", route_prefix="/", logging_config=QUIET)
    signal.pause()
