"""The closed loop of `load`, whose requests go to many paths in turn: --paths N puts 000 to N - 1 for the * of the URL.

Run: python -m benchmarks.scale_load http://127.0.0.1:8000/app-* --paths 100 --connections 64 --seconds 5
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from typing import ClassVar
from unittest import mock

from benchmarks import load

_TEMPLATE = b"*"


def requests(request: bytes, paths: int) -> Iterator[bytes]:
    """Yield a request for each path, again and again."""
    return itertools.cycle(request.replace(_TEMPLATE, b"%03d" % number, 1) for number in range(paths))


class Spread(load.Connection):
    """One connection. All of a process take turns, so each path is asked as often as the others."""

    paths: ClassVar[int] = 1
    _next: ClassVar[Iterator[bytes] | None] = None

    def send(self) -> None:
        """Send the next request."""
        if Spread._next is None:
            Spread._next = requests(self._request, self.paths)
        self._request = next(Spread._next)
        super().send()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--paths", type=int, required=True)
    arguments, others = parser.parse_known_args()
    Spread.paths = arguments.paths
    with mock.patch.object(load, "Connection", Spread), mock.patch.object(sys, "argv", [sys.argv[0], *others]):
        load.main()


if __name__ == "__main__":
    main()
