"""The threads of one replica in which sync user code runs: as many at once as there are slots.

Owned by `replica`, used by `handler` and `grpc_calls`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


class Threads(ThreadPoolExecutor):
    """An executor whose size follows the replica's limit."""

    def resize(self, count: int) -> None:
        """Let as many calls run at once. Threads that are there already stay."""
        # The pool starts threads on demand up to this number; it has no public way to change it.
        self._max_workers = count

    def close(self) -> None:
        """Take no more work; threads that run are left to end by themselves."""
        self.shutdown(wait=False, cancel_futures=True)
