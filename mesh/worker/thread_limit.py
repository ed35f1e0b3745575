"""How many threads Starlette may use: for sync endpoints, sync generators and background tasks.

Owns that limit, which is anyio's and 40 by default; the slots of the replica are the limit. What anyio needs to have
one is 5 MB, loaded at first use: most replicas never run anything in such a thread. Called by what hands work to
Starlette.
"""

from __future__ import annotations

import anyio.to_thread

_THREADS_MIN = 40
"""What anyio starts with."""


def allow_threads(count: int) -> None:
    """Let as many run at once, or more if more were allowed before."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = max(limiter.total_tokens, _THREADS_MIN, count)
