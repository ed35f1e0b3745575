"""A few clients that ask again soon after they are answered, for as long as a test does something else."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

from tests.support.mesh_process import eventually

CLIENTS = 4
PAUSE_S = 0.01
"""Between two requests of one client: what is tested needs the processor, too."""


class Steady:
    """Clients of one URL, as a context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ended = threading.Event()
        self._clients = ThreadPoolExecutor(CLIENTS)
        self.answers: list[tuple[int, str]] = []
        self._running: list[Future[None]] = []

    def __enter__(self) -> Steady:
        self._running = [self._clients.submit(self._ask) for _ in range(CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._clients.shutdown()
        for each in self._running:
            each.result()

    def more(self, count: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.answers) + count
        eventually(lambda: len(self.answers) >= wanted, what=f"{wanted} answers, not {len(self.answers)}", timeout=60)

    def _ask(self) -> None:
        with httpx.Client(trust_env=False, timeout=60) as client:
            while not self._ended.wait(PAUSE_S):
                answer = client.get(self._url)
                self.answers.append((answer.status_code, answer.text))
