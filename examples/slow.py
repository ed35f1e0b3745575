"""One deployment that is slow and knows its limits: two requests run, two wait, the rest is shed at once.

meshctl run slow:app
"""

import time

from starlette.requests import Request

import mesh


@mesh.deployment(max_ongoing_requests=2, max_queued_requests=2)
class SlowDeployment:
    def __call__(self, request: Request) -> str:  # sync code runs in a thread pool of max_ongoing_requests
        time.sleep(2)
        return "Hello!"


app = SlowDeployment.bind()
